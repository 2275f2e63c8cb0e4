"""Churn models: labels, features, rolling-origin backtest, evaluation and the bundle.

Read `train` first.

    labels    activity and churn labels          rows      historical features, leakage check
    fit       models of one origin               walk      backtest: fit, score, choose, calibrate
    judge     metrics with intervals             contact   whom to contact, and its value
    pareto    Pareto/NBD fit                     page      HTML report
    score     scores of all people, by a bundle

The declaration is `ranking.churn.declaration`; serving loads `ranking.churn.bundle`.
"""
