"""A sequence transformer: one vector for a sequence, one for each item; their product ranks items.

`recipe` (which needs no torch until it fits) → `batches` → `learning` over `net` → `vectors` of
queries → `export` as ONNX. It needs the extra `deep`.
"""

from tailorbird.models.retrievers.transformer.recipe import SequenceTransformer

__all__ = ["SequenceTransformer"]
