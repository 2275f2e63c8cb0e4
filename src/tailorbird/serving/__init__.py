"""HTTP API and request pipeline of a serve process, with the event collector.

`collector` accepts events, `pipeline` answers queries, `bundles` swaps models under running requests,
`app` speaks HTTP, and `server` is the process. Nothing here imports a trainer, the lake or torch,
and a test enforces that.
"""
