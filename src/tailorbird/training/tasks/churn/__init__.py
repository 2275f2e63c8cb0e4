"""Churn models: labels, rows, baselines, figures and the choice of a model; read `train` first.

    labels, merges          activity and churn labels      rows, training_rows   features of people
    fit                     models of one origin           rolling_origin        backtest of origins
    model_choice            model and calibration          evaluation            metrics of an origin
    champion               comparison with the champion   vectors, pareto       towers, Pareto/NBD
    report, page, contact   results, and whom to contact   score, segments       scores of all people

Bundles, the gate, intervals, calibration, cards and charts are those of `training` and `ranking`.
The declaration is `ranking.churn.declaration`; serving loads `ranking.churn.bundle`.
"""
