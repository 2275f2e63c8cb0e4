"""Statistics of experiments as pure functions of NumPy arrays. All but `anytime` need SciPy.

sequential   group sequential designs: boundaries, power, cost, estimates after stopping
anytime      confidence sequences, valid at every look
estimates    means, winsorised means, ratios and quantiles with variances clustered by unit
adjust       CUPED by what was known before exposure; with strata, post-stratification
multiple     Holm, for several arms
sample_ratio the anytime-valid test of the split of units
segments     effects by segment, shrunk towards their mean
"""
