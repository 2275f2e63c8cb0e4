"""A sequence transformer: one vector for what somebody did so far, one for each item; their product
says what comes next.

`recipe` (which needs no torch until it fits) → `batches` → `learning` over `net` → `vectors` for
questions → `export` as ONNX. It needs the extra `deep`.
"""

from tailorbird.models.retrievers.transformer.recipe import SequenceTransformer

__all__ = ["SequenceTransformer"]
