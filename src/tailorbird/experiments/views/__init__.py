"""Further views of an experiment's report.

effects    the effect by segment, by day of the week, and by days since the first exposure
timeline   what else changed while the experiment ran
notebook   a notebook that computes the report again
"""
