"""Semantic search: the cosine between a query and each item, combined with BM25.

A match's score is its share of the best BM25 score plus `weight` times its cosine. All BM25 matches
are returned, so that part numbers still match; the nearest items by cosine are added.

    text_vectors.npy   float32 (n, d), in the order of the items
    encoder/           see `retrieval.encoder`
    meaning.json       the weight
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.atomic_write import atomic_write
from tailorbird.events.keys import hash64s
from tailorbird.retrieval.arrays import read_array
from tailorbird.retrieval.encoder import MODEL_FILE, TOKENIZER_FILE, TextEncoder, load_encoder

Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

VECTORS_FILE = "text_vectors.npy"
META_FILE = "meaning.json"
NEAREST_COUNT = 50  # Items to add to the BM25 matches.
COSINE_MIN = 0.3  # Minimum cosine of an item that shares no word with the query.
# Largest catalogue in which a query is compared with every item (20 ms for 200,000). In a larger
# one only the order of the BM25 matches uses meaning.
COMPARED_ITEMS_MAX = 200_000


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `meaning.json`."""

    weight: float


@dataclass(frozen=True)
class TextVectorSettings:
    """Settings of the text vectors of an index.

    Attributes:
        encoder: folder of the encoder.
        weight: weight of the cosine relative to the share of the best BM25 score.
        cache: file that stores vectors by text, so that the next index encodes only new texts.
    """

    encoder: Path
    weight: float
    cache: Path | None = None


@dataclass(frozen=True)
class TextVectors:
    """Dense vectors of the items of an index.

    Attributes:
        encoder: encoder of queries and of new items.
        vectors: float32 (n, d), of unit length.
        weight: weight of the cosine relative to the share of the best BM25 score.
    """

    encoder: TextEncoder
    vectors: Vectors
    weight: float

    @classmethod
    def read(cls, files: Mapping[str, bytes | memoryview], n: int) -> "TextVectors | None":
        """Read the vectors of an index of `n` items; None if it has none.

        Raises:
            ValueError: the files have another number of items.
        """
        if VECTORS_FILE not in files:
            return None
        vectors = read_array(files[VECTORS_FILE])
        if vectors.ndim != 2 or len(vectors) != n:
            raise ValueError(f"its text vectors have shape {vectors.shape}, and it has {n} items")
        weight = msgspec.json.decode(files[META_FILE], type=Meta).weight
        return cls(load_encoder(files), vectors, weight)

    def extended(self, rows: Rows, texts: Sequence[str], n: int) -> "TextVectors":
        """Return the vectors of `n` items, with those of `rows` encoded from new texts."""
        vectors = np.zeros((n, self.vectors.shape[1]), np.float32)
        vectors[: len(self.vectors)] = self.vectors
        if rows.size:
            # Every overlay starts from the index, so the same texts come again and again.
            vectors[rows] = self.encoder.encode_cached(texts)
        return replace(self, vectors=vectors)

    def combine_with_cosines(
        self, query: str, rows: Rows, scores: Floats, is_visible: npt.NDArray[np.bool_] | None
    ) -> tuple[Rows, Floats]:
        """Order BM25 matches by words and meaning, and add the nearest items.

        Args:
            query: as typed.
            rows, scores: BM25 matches, best first.
            is_visible: bool (n,): items that may be added; None is all.
        """
        query_vector = self.encoder.encode_cached([query])[0]
        bm25_shares = scores / max(float(scores.max(initial=0.0)), 1e-9)
        if len(self.vectors) > COMPARED_ITEMS_MAX:
            cosines = self.vectors[rows] @ query_vector
            return rows, bm25_shares + self.weight * np.maximum(cosines, 0.0)
        cosines = self.vectors @ query_vector
        nearest_rows = np.argpartition(-cosines, min(NEAREST_COUNT, len(cosines) - 1))[
            :NEAREST_COUNT
        ]
        nearest_rows = nearest_rows[
            (cosines[nearest_rows] >= COSINE_MIN) & ~np.isin(nearest_rows, rows)
        ]
        if is_visible is not None:
            nearest_rows = nearest_rows[is_visible[nearest_rows]]
        all_rows = np.concatenate([rows, nearest_rows])
        shares = np.concatenate([bm25_shares, np.zeros(nearest_rows.size)])
        return all_rows, shares + self.weight * np.maximum(cosines[all_rows], 0.0)


def texts_to_encode(documents: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the text to encode for each item: title, category and brand, or else all its text."""
    rows = zip(*(documents[name] for name in ("title", "category", "brand", "text")), strict=True)
    return [
        ". ".join(filter(None, (title, category, brand))) if title else text
        for title, category, brand, text in rows
    ]


def write_text_vectors(folder: Path, settings: TextVectorSettings, texts: Sequence[str]) -> None:
    """Encode the items of an index; write their vectors and the encoder into its folder."""
    model = TextEncoder.from_folder(settings.encoder)
    vectors = _encode_cached(model, texts, settings.cache)
    np.save(folder / VECTORS_FILE, vectors, allow_pickle=False)
    (folder / META_FILE).write_bytes(msgspec.json.encode(Meta(settings.weight)))
    (folder / "encoder").mkdir()
    for name in (MODEL_FILE, TOKENIZER_FILE):
        (folder / "encoder" / name).write_bytes((settings.encoder / name).read_bytes())


def _encode_cached(model: TextEncoder, texts: Sequence[str], cache_path: Path | None) -> Vectors:
    """Return the vector of each text, (n, d); cached texts are not encoded again."""
    text_keys = hash64s([f"{model.digest}\n{text}" for text in texts])
    cached_keys, cached_vectors = _read_cache(cache_path)
    cached_row_by_key = {key: row for row, key in enumerate(cached_keys.tolist())}
    missing_rows = [
        row for row, key in enumerate(text_keys.tolist()) if key not in cached_row_by_key
    ]
    if not missing_rows:
        return cached_vectors[[cached_row_by_key[key] for key in text_keys.tolist()]]
    new_vectors = model.encode([texts[row] for row in missing_rows])
    vectors = np.zeros((len(texts), new_vectors.shape[1]), np.float32)
    vectors[missing_rows] = new_vectors
    cached_rows = np.setdiff1d(np.arange(len(texts)), missing_rows)
    if cached_rows.size:
        vectors[cached_rows] = cached_vectors[
            [cached_row_by_key[key] for key in text_keys[cached_rows].tolist()]
        ]
    if cache_path is not None:
        _write_cache(cache_path, text_keys, vectors)
    return vectors


def _read_cache(path: Path | None) -> tuple[npt.NDArray[np.uint64], Vectors]:
    empty_cache = np.zeros(0, np.uint64), np.zeros((0, 0), np.float32)
    if path is None or not path.exists():
        return empty_cache
    try:
        with pa.OSFile(str(path), "rb") as file:
            table = pa.ipc.open_file(file).read_all()
        values = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return table["key"].to_numpy(), values.reshape(table.num_rows, -1).astype(np.float32)
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return empty_cache  # A damaged cache costs only the time to encode again.


def _write_cache(path: Path, keys: npt.NDArray[np.uint64], vectors: Vectors) -> None:
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = pa.table({"key": pa.array(keys, pa.uint64()), "vector": values})
    sink = BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    atomic_write(path, sink.getvalue())
