"""Other recommender libraries in an environment of their own (`.peers/`).

`install` makes the environment. `next_item`, `esasrec` and `several_targets` run in it and import
nothing of ours; `asking` hands rows and questions over and takes lists back. `serving` answers
requests, in an environment of its own (`.peers/serving/`), for `benchmarks.serving`.
"""
