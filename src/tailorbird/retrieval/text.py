"""Full text over items: BM25 by tantivy, as typed and with what was probably meant (`retrieval.spelling`), then with one typing error a
word if that found too little.

An index is a folder of files. Serving opens a private copy of the bytes that were checked, since tantivy maps files and
writes lock files beside them; the copy is unlinked at once and lives on in the mappings.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tantivy

from tailorbird.retrieval.columns import Column, TextColumn
from tailorbird.retrieval.spelling import Spelling, corrections
from tailorbird.retrieval.synonyms import Words, words_of

# Field and weight: a word of the title says more than one of the description.
FIELDS = {"title": 3.0, "category": 2.0, "brand": 2.0, "text": 1.0}
QUERY_CHARACTERS_MAX = 256
SYNONYM = 0.8  # what was typed comes first
CORRECTED = 0.6  # likewise
_WRITER_BYTES = 64_000_000
_ITEM_FIELDS = ("title", "category", "brand")


@dataclass(frozen=True)
class TextIndex:
    """An open index. `search` gives rows of the items that it was built from."""

    index: tantivy.Index
    spelling: Spelling

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> "TextIndex":
        """Open an index from the bytes of its files."""
        folder = Path(tempfile.mkdtemp(prefix="tailorbird-text-"))
        try:
            for name, data in files.items():
                if "/" in name:
                    raise ValueError(f"the text index has a file {name!r}")
                (folder / name).write_bytes(data)
            with _panics_told():
                index = tantivy.Index.open(str(folder))
                index.config_reader(reload_policy="manual")
                index.reload()
                spelling = _spelling(index)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return cls(index, spelling)

    @classmethod
    def in_memory(cls, documents: Mapping[str, Sequence[str]]) -> "TextIndex":
        """An index of a few documents that lives in memory, for items that came after the bundle was built."""
        index = tantivy.Index(_schema())
        _write(index, documents, heap=15_000_000)
        index.reload()
        return cls(index, _spelling(index))

    def search(
        self, query: str, limit: int, beside: Sequence[Words] = (), meant: Sequence[str] | None = None
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """Rows and scores of the best items for a query as a person typed it, best first. Never raises on its syntax.

        Args:
            beside: phrases that mean the same as what was typed, see `retrieval.synonyms`; they count `SYNONYM` times.
            meant: stems that were probably meant, see `retrieval.spelling`; they count `CORRECTED` times. Without, by this index alone.
        """
        typed = typed_words(query)
        words, meant = " ".join(typed), corrections(typed, [self.spelling]) if meant is None else meant
        if not words or limit < 1:
            return np.zeros(0, np.intp), np.zeros(0)
        exact = self._search(words + "".join(f' "{" ".join(phrase)}"^{SYNONYM}' for phrase in beside), limit, meant=meant)
        if exact[0].size >= min(limit, 3):
            return exact
        loose = self._search(words, limit, fuzzy=True)
        fresh = ~np.isin(loose[0], exact[0])
        # A loose hit never stands above an exact one: fuzzy scores are constants of another scale.
        ceiling = 0.5 * float(exact[1].min()) / max(float(loose[1].max(initial=0.0)), 1e-9) if exact[0].size else 1.0
        rows = np.concatenate([exact[0], loose[0][fresh]])[:limit]
        return rows, np.concatenate([exact[1], loose[1][fresh] * min(ceiling, 1.0)])[:limit]

    def _search(
        self, words: str, limit: int, *, fuzzy: bool = False, meant: Sequence[str] = ()
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        # Words are in lower case: AND, OR and NOT are words of a person here, no operators.
        spelt = dict.fromkeys(FIELDS, (False, 1, True)) if fuzzy else None
        with _panics_told():
            parsed, _ = self.index.parse_query_lenient(words, list(FIELDS), FIELDS, spelt)
            if meant:
                parsed = tantivy.Query.boolean_query([(tantivy.Occur.Should, parsed), *self._terms(meant)])
            searcher = self.index.searcher()
            hits = searcher.search(parsed, limit, count=False).hits
            rows = searcher.fast_field_values("row", [address for _, address in hits])
        if None in rows:
            raise ValueError("the text index names no row for a document")
        return np.array(rows, np.intp), np.array([score for score, _ in hits], np.float64)

    def _terms(self, stems: Sequence[str]) -> list[tuple[tantivy.Occur, tantivy.Query]]:
        schema = self.index.schema
        return [
            (tantivy.Occur.Should, tantivy.Query.boost_query(tantivy.Query.term_query(schema, field, stem), CORRECTED * weight))
            for stem in stems
            for field, weight in FIELDS.items()
        ]


def typed_words(query: str) -> Words:
    """The words of a query that are looked for."""
    return words_of(query[:QUERY_CHARACTERS_MAX])


@contextmanager
def _panics_told() -> Iterator[None]:
    """Turn a panic of tantivy into a ValueError: a panic is no Exception in Python and would end the server."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("the text index is damaged") from error


def _spelling(index: tantivy.Index) -> Spelling:
    searcher = index.searcher()
    terms = [term for field in _ITEM_FIELDS for term in searcher.terms_with_prefix(field, "")]
    return Spelling.of(terms, lambda stem: searcher.doc_freq("text", stem))


def write_text_index(folder: Path, documents: Mapping[str, Sequence[str]]) -> None:
    """Build an index in a new folder. `documents`: field → one text for each item, in the order of its rows."""
    folder.mkdir(parents=True)
    index = tantivy.Index(_schema(), path=str(folder))
    _write(index, documents, heap=_WRITER_BYTES)
    del index
    for lock in folder.glob(".*.lock"):
        lock.unlink()


def documents_of(attributes: Mapping[str, Column], rows: npt.NDArray[np.intp]) -> dict[str, list[str]]:
    """The texts of some items by field of the text index; attributes that are no field of their own go into `text`."""
    fields: dict[str, list[str]] = {name: _texts(attributes.get(name), rows) for name in _ITEM_FIELDS}
    rest = [
        _texts(column, rows) for name, column in sorted(attributes.items()) if name not in _ITEM_FIELDS and isinstance(column, TextColumn)
    ]
    fields["text"] = [" ".join(filter(None, parts)) for parts in zip(*rest, strict=True)] if rest else [""] * rows.size
    return fields


def _texts(column: Column | None, rows: npt.NDArray[np.intp]) -> list[str]:
    if not isinstance(column, TextColumn):
        return [""] * rows.size
    values = (*column.values, "")  # code -1 is the last
    return [values[code].replace("|", " ") for code in column.codes[rows].tolist()]


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("row", fast=True)
    for name in FIELDS:
        builder.add_text_field(name, tokenizer_name="en_stem")
    return builder.build()


def _write(index: tantivy.Index, documents: Mapping[str, Sequence[str]], *, heap: int) -> None:
    writer = index.writer(heap_size=heap, num_threads=1)  # one thread: the same input gives the same segments
    used = [name for name in FIELDS if name in documents]
    for row, texts in enumerate(zip(*(documents[name] for name in used), strict=True)):
        document = tantivy.Document()
        document.add_unsigned("row", row)  # as a keyword it would be a signed column
        for name, text in zip(used, texts, strict=True):
            if text:
                document.add_text(name, text)
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
