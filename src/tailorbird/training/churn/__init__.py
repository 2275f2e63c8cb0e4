"""Churn: labels, rows, models walked over origins, what came of it, and the bundle. Read `train`
first.

    labels   who was there, and who came back       rows    features as they were known, and the check for leaks
    fit      what is learned at one origin          walk    origin after origin: fit, score, choose, calibrate
    judge    figures with intervals                 contact whom to contact, and what that is worth
    pareto   Pareto/NBD, fitted
    page     the report                             score   everybody, with a bundle

The declaration is `ranking.churn`, what serving loads `ranking.churn_bundle`.
"""
