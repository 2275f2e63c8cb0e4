"""Nets on the encoded matrix of a ranker; needs the extra `deep` (torch), which neither a server
nor the other models do.

`layout` says what the columns of a matrix are, `parameters` what may be chosen, `fields` how
columns become vectors, `nets` what stands on them; `batches`, `loop` and `checkpoint` train,
`parallel` on several processes; `export` writes the one file that serving loads. Who only wants a
fitted model calls `models.architectures.fit`.
"""
