"""Full text search over items: BM25 by tantivy, with corrections and a fuzzy fallback.

A query is searched as typed and with likely corrections (`retrieval.spelling`). If that finds too
little, one typing error per word is allowed. An index is a folder of files. Serving opens a private
copy of the verified bytes, since tantivy maps files and writes lock files next to them. The copy is
unlinked at once and lives on in the mappings.

Later changes become a segment of their own next to those of the built index
(`TextIndex.with_documents`). One searcher over both sees the frequency of a word among all items.
Nothing of the built index is copied or rewritten, since an error in tantivy's threads would end the
process.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import tantivy

from tailorbird.retrieval.documents import ITEM_FIELDS
from tailorbird.retrieval.spelling import Spelling, suggest_corrections
from tailorbird.retrieval.synonyms import Phrase, split_words

# Field and weight: a word in the title says more than one in the description.
FIELD_WEIGHTS = {"title": 3.0, "category": 2.0, "brand": 2.0, "text": 1.0}
QUERY_CHARACTERS_MAX = 256
SYNONYM_WEIGHT = 0.8  # The typed words rank first.
CORRECTION_WEIGHT = 0.6  # The typed words rank first.
# Minimum letters of a word that may have an error; shorter words have too many neighbours.
FUZZY_LETTERS_MIN = 3
_BUILD_HEAP_BYTES = 64_000_000
_OVERLAY_HEAP_BYTES = 15_000_000
_MEMORY_FOLDER = (
    "/dev/shm"  # Tantivy syncs each file, which would compete with the logs for the disk.
)
_META_FILE = "meta.json"  # The file in which tantivy lists an index's segments.

Rows = npt.NDArray[np.intp]
Documents = Mapping[str, Sequence[str]]  # field → the text of each item


class BaseIndex:
    """The files of a built index, which stay open without a folder, and the newest overlay.

    Attributes:
        document_count: number of its items.
        spelling: words of these items.
        segments: segments as tantivy lists them.
    """

    def __init__(self, folder: Path | None, document_count: int, spelling: Spelling) -> None:
        self.document_count = document_count
        self.spelling = spelling
        self.segments: list[Any] = []
        self._descriptors: dict[str, int] = {}
        self._last_overlay: tuple[bytes, weakref.ref[TextIndex] | None] = b"", None
        weakref.finalize(self, _close_files, self._descriptors)
        if folder is not None:
            self.segments = msgspec.json.decode((folder / _META_FILE).read_bytes())["segments"]
            for path in folder.iterdir():
                if path.suffix not in (".json", ".lock"):
                    self._descriptors[path.name] = os.open(path, os.O_RDONLY)

    def link_into(self, folder: Path) -> None:
        """Insert its segments before those of another index, with links to the open files."""
        for name, descriptor in self._descriptors.items():
            (folder / name).symlink_to(f"/dev/fd/{descriptor}")
        meta = msgspec.json.decode((folder / _META_FILE).read_bytes())
        meta["segments"] = [*self.segments, *meta["segments"]]
        (folder / _META_FILE).write_bytes(msgspec.json.encode(meta))

    def cached_overlay(self, digest: bytes) -> "TextIndex | None":
        """Return the last overlay if it had the same digest and is still in use."""
        return (
            self._last_overlay[1]()
            if self._last_overlay[1] is not None and self._last_overlay[0] == digest
            else None
        )

    def cache_overlay(self, digest: bytes, overlay: "TextIndex") -> None:
        self._last_overlay = digest, weakref.ref(overlay)


def _close_files(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


@dataclass(frozen=True)
class TextIndex:
    """An open index; `search` returns rows of built and of overlaid items.

    Attributes:
        overlay_rows: ascending rows of the items that are new or changed. Their documents
            follow those of the built index.
    """

    tantivy_index: tantivy.Index
    spelling: Spelling
    base_index: BaseIndex
    overlay_rows: Rows = field(default_factory=lambda: np.zeros(0, np.intp))

    @classmethod
    def load(cls, files: Mapping[str, bytes | memoryview]) -> "TextIndex":
        """Open an index from the bytes of its files."""
        with _private_folder() as folder:
            for name, data in files.items():
                if "/" in name:
                    raise ValueError(f"the text index has a file {name!r}")
                (folder / name).write_bytes(data)
            with _panics_as_errors():
                index = _reload_manually(tantivy.Index.open(str(folder)))
                searcher = index.searcher()
                spelling = Spelling.from_terms(_count_terms(searcher), _text_counter(searcher))
                return cls(index, spelling, BaseIndex(folder, searcher.num_docs, spelling))

    @classmethod
    def from_documents(cls, documents: Documents) -> "TextIndex":
        """Return an index of a few documents, in the order of their rows."""
        count = len(next(iter(documents.values()), ()))
        return cls.empty().with_documents(np.arange(count), documents)

    @classmethod
    @cache
    def empty(cls) -> "TextIndex":
        """Return an empty index, for overlays without a built index."""
        index = tantivy.Index(_build_schema())
        spelling = Spelling.from_terms((), _text_counter(index.searcher()))
        return cls(index, spelling, BaseIndex(None, 0, spelling))

    def with_documents(self, rows: Rows, documents: Documents) -> "TextIndex":
        """Return the built index overlaid with some items, which replace their old documents.

        Words of replaced documents still count for word frequencies, but do not match any more.

        Args:
            rows: rows of these items, ascending.
            documents: in the order of `rows`.
        """
        digest = blake2b(rows.tobytes() + msgspec.json.encode(documents)).digest()
        overlay = self.base_index.cached_overlay(digest)
        if overlay is None:  # Often only a price changed, and no text.
            try:
                overlay = self._build_overlay(rows, documents, _MEMORY_FOLDER)
            except (ValueError, OSError):  # The memory file system is missing or full.
                overlay = self._build_overlay(rows, documents, None)
            self.base_index.cache_overlay(digest, overlay)
        return overlay

    def _build_overlay(self, rows: Rows, documents: Documents, parent: str | None) -> "TextIndex":
        with _private_folder(parent) as folder, _panics_as_errors():
            index = overlay = _reload_manually(
                tantivy.Index(
                    self.tantivy_index.schema,
                    path=str(folder) if self.base_index.segments else None,
                )
            )
            _add_documents(
                overlay,
                documents,
                heap_bytes=_OVERLAY_HEAP_BYTES,
                first_number=self.base_index.document_count,
            )
            overlay.reload()
            overlay_searcher = overlay.searcher()
            field_stems = [
                (name, stem)
                for name in ITEM_FIELDS
                for stem, _ in overlay_searcher.terms_with_prefix(name, "")
            ]
            if self.base_index.segments:
                self.base_index.link_into(folder)
                index = _reload_manually(tantivy.Index.open(str(folder)))
            searcher = index.searcher()
            counts = [(stem, searcher.doc_freq(name, stem)) for name, stem in field_stems]
            return TextIndex(
                index,
                self.base_index.spelling.with_terms(counts, _text_counter(searcher)),
                self.base_index,
                rows,
            )

    def search(
        self,
        query: str,
        limit: int,
        synonyms: Sequence[Phrase] = (),
        corrected_stems: Sequence[str] | None = None,
    ) -> tuple[Rows, npt.NDArray[np.float64]]:
        """Return rows and scores of the best items for a query as typed, best first.

        Never raises on the syntax of a query.

        Args:
            synonyms: phrases that mean the same as typed ones, see `retrieval.synonyms`; they
                have the weight `SYNONYM_WEIGHT`.
            corrected_stems: likely corrections, see `retrieval.spelling`; they have the weight
                `CORRECTION_WEIGHT`. None calls `suggest_corrections`.
        """
        typed_words = split_words(query[:QUERY_CHARACTERS_MAX])
        words = " ".join(typed_words)
        if not words or limit < 1:
            return np.zeros(0, np.intp), np.zeros(0)
        if corrected_stems is None:
            with _panics_as_errors():
                corrected_stems = suggest_corrections(typed_words, self.spelling)
        exact_rows, exact_scores = self._search_words(
            words + "".join(f' "{" ".join(phrase)}"^{SYNONYM_WEIGHT}' for phrase in synonyms),
            limit,
            corrected_stems=corrected_stems,
        )
        if exact_rows.size >= min(limit, 3):
            return exact_rows, exact_scores
        long_words = " ".join(word for word in typed_words if len(word) >= FUZZY_LETTERS_MIN)
        if not long_words:
            return exact_rows, exact_scores
        fuzzy_rows, fuzzy_scores = self._search_words(long_words, limit, fuzzy=True)
        is_new = ~np.isin(fuzzy_rows, exact_rows)
        # A fuzzy match never ranks above an exact one; its scores are constants on another scale.
        score_ceiling = (
            0.5 * float(exact_scores.min()) / max(float(fuzzy_scores.max(initial=0.0)), 1e-9)
            if exact_rows.size
            else 1.0
        )
        rows = np.concatenate([exact_rows, fuzzy_rows[is_new]])[:limit]
        return rows, np.concatenate([exact_scores, fuzzy_scores[is_new] * min(score_ceiling, 1.0)])[
            :limit
        ]

    def _search_words(
        self, words: str, limit: int, *, fuzzy: bool = False, corrected_stems: Sequence[str] = ()
    ) -> tuple[Rows, npt.NDArray[np.float64]]:
        # Words are in lower case, so that AND, OR and NOT are search words and not operators.
        # Whether a prefix suffices, the errors allowed, whether swapped letters count as one.
        fuzzy_fields = dict.fromkeys(FIELD_WEIGHTS, (False, 1, True)) if fuzzy else None
        replaced_count = int(np.searchsorted(self.overlay_rows, self.base_index.document_count))
        # Fetch more than needed, as replaced documents are dropped, assuming that they match as
        # often as others.
        depth = limit + min(
            replaced_count,
            10 + 2 * limit * replaced_count // max(self.base_index.document_count, 1),
        )
        with _panics_as_errors():
            text_query, _ = self.tantivy_index.parse_query_lenient(
                words, list(FIELD_WEIGHTS), FIELD_WEIGHTS, fuzzy_fields
            )
            if corrected_stems:
                text_query = tantivy.Query.boolean_query(
                    [(tantivy.Occur.Should, text_query), *self._correction_clauses(corrected_stems)]
                )
            searcher = self.tantivy_index.searcher()
            while True:  # Repeat until enough matches are current documents or there are no more.
                hits = searcher.search(text_query, depth, count=False).hits
                rows = self._to_rows(
                    searcher.fast_field_values("row", [address for _, address in hits])
                )
                current_hits = np.flatnonzero(rows >= 0)[:limit]
                if current_hits.size == limit or len(hits) < depth:
                    return rows[current_hits], np.array([score for score, _ in hits], np.float64)[
                        current_hits
                    ]
                depth *= 4

    def _to_rows(self, document_numbers: Sequence[float | None]) -> Rows:
        """Return the rows of documents by their numbers; -1 for a replaced document."""
        if None in document_numbers:
            raise ValueError("the text index names no row for a document")
        numbers = np.array(document_numbers, np.intp)
        base_count = self.base_index.document_count
        overlay_rows = self.overlay_rows
        if numbers.size and not (
            numbers.min() >= 0 and numbers.max() < base_count + overlay_rows.size
        ):
            raise ValueError("the text index names an item that does not exist")
        if not overlay_rows.size:
            return numbers
        row_in_overlay = overlay_rows[np.clip(numbers - base_count, 0, overlay_rows.size - 1)]
        is_replaced = (
            overlay_rows[np.minimum(np.searchsorted(overlay_rows, numbers), overlay_rows.size - 1)]
            == numbers
        )
        return np.where(numbers >= base_count, row_in_overlay, np.where(is_replaced, -1, numbers))

    def _correction_clauses(
        self, stems: Sequence[str]
    ) -> list[tuple[tantivy.Occur, tantivy.Query]]:
        schema = self.tantivy_index.schema
        return [
            (
                tantivy.Occur.Should,
                tantivy.Query.boost_query(
                    tantivy.Query.term_query(schema, name, stem), CORRECTION_WEIGHT * weight
                ),
            )
            for stem in stems
            for name, weight in FIELD_WEIGHTS.items()
        ]


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """Turn a panic of tantivy into a ValueError.

    A panic is not an `Exception` in Python and would end the server.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("the text index is damaged") from error


@contextmanager
def _private_folder(parent: str | None = None) -> Iterator[Path]:
    """Create a temporary folder in `parent` for the duration of the block."""
    folder = Path(tempfile.mkdtemp(prefix="tailorbird-text-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reload_manually(index: tantivy.Index) -> tantivy.Index:
    """Return the index as it is now; automatic reloads would need a thread."""
    index.config_reader(reload_policy="manual")
    index.reload()
    return index


def _count_terms(searcher: tantivy.Searcher) -> list[tuple[str, int]]:
    """Return the stems of titles, categories and brands, with the number of items of each."""
    return [term for name in ITEM_FIELDS for term in searcher.terms_with_prefix(name, "")]


def _text_counter(searcher: tantivy.Searcher) -> Callable[[str], int]:
    """Return a function that counts the items with a stem in their field `text`."""
    return lambda stem: searcher.doc_freq("text", stem)


def write_text_index(folder: Path, documents: Documents) -> None:
    """Build an index in a new folder from documents in the order of their rows."""
    folder.mkdir(parents=True)
    index = tantivy.Index(_build_schema(), path=str(folder))
    _add_documents(index, documents, heap_bytes=_BUILD_HEAP_BYTES)
    del index
    for lock in folder.glob(".*.lock"):
        lock.unlink()


def _build_schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("row", fast=True)
    for name in FIELD_WEIGHTS:
        builder.add_text_field(name, tokenizer_name="en_stem")
    return builder.build()


def _add_documents(
    index: tantivy.Index, documents: Documents, *, heap_bytes: int, first_number: int = 0
) -> None:
    """Add documents, numbered from `first_number`."""
    # With one thread, the same input gives the same segments.
    writer = index.writer(heap_size=heap_bytes, num_threads=1)
    fields = [name for name in FIELD_WEIGHTS if name in documents]
    for number, texts in enumerate(
        zip(*(documents[name] for name in fields), strict=True), first_number
    ):
        document = tantivy.Document()
        document.add_unsigned("row", number)  # A keyword argument would create a signed column.
        for name, text in zip(fields, texts, strict=True):
            if text:
                document.add_text(name, text)
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
