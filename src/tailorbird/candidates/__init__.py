"""Candidates: items that could be shown for a request, from sources that follow the routed log.

Each source is a fold over the log and a query over what the fold published (`protocol`). The folds,
which need Numba, are `candidates.fold` and below; the role that keeps them up is `candidates.role`;
the driver over the lake is `candidates.replay`.
"""
