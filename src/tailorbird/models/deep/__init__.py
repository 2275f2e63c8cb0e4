"""Nets on the encoded matrix of a ranker; needs the extra `deep` (torch).

Neither serving nor the other models need torch. `layout` describes the columns of a matrix,
`parameters` the settings, `fields` turns columns into vectors, and `nets` builds on them.
`batches`, `loop` and `checkpoint` train, `parallel` on several processes; `export` writes the file
that serving loads. To get a fitted model, call `models.architectures.fit`.
"""
