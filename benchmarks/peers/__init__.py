"""Libraries that others recommend with, in an environment of their own (`.peers/`), asked what our
models are asked.

`install` makes the environment; `next_item`, `esasrec` and `several_targets` run in it and import
nothing of ours; `asking` hands rows and questions over and takes lists back. `serving` answers
requests, in an environment of its own (`.peers/serving/`), for `benchmarks.serving`.
"""
