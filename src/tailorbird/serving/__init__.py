"""HTTP and the request's pipeline, the door included.

`door` takes events, `pipeline` makes answers, `bundles` swaps models under them, `app` speaks HTTP,
`server` is the process. Nothing here imports a trainer, the lake or torch: a server needs none of
them, and a test holds it.
"""
