"""Full text over items: BM25 by tantivy, as typed and with what was probably meant
(`retrieval.spelling`), then with one typing error a word if that found too little.

An index is a folder of files. Serving opens a private copy of the bytes that were checked, since
tantivy maps files and writes lock files beside them; the copy is unlinked at once and lives on in
the mappings.

What came later becomes a segment of its own, and is laid beside those of the index as it was built
(`TextIndex.with_documents`): one searcher over both knows how rare a word is among all. Nothing of
what was built is copied or written again, since whatever tantivy's threads trip over in it would
end the process.
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

from tailorbird.retrieval.columns import Column, TextColumn
from tailorbird.retrieval.spelling import Spelling, corrections
from tailorbird.retrieval.synonyms import Phrase, words_of

# Field and weight: a word of the title says more than one of the description.
FIELDS = {"title": 3.0, "category": 2.0, "brand": 2.0, "text": 1.0}
QUERY_CHARACTERS_MAX = 256
SYNONYM = 0.8  # what was typed comes first
CORRECTED = 0.6  # likewise
# letters of a word that may have an error: a letter away from shorter ones is half of the language
LOOSE_MIN = 3
_WRITER_BYTES = 64_000_000
_LATER_BYTES = 15_000_000
_ITEM_FIELDS = ("title", "category", "brand")
_MEMORY = (
    "/dev/shm"  # tantivy syncs each file, and the disk that it would wait for is that of the logs
)
_META = "meta.json"  # where tantivy lists an index's segments

Rows = npt.NDArray[np.intp]
Documents = Mapping[str, Sequence[str]]  # field → the text of each item


class Built:
    """What an index was built as: its files, which are open but in no folder any more, and what was
    laid over it last.

    Attributes:
        documents: how many items it has.
        spelling: the words of these.
        segments: as tantivy lists them.
    """

    def __init__(self, folder: Path | None, documents: int, spelling: Spelling) -> None:
        self.documents, self.spelling = documents, spelling
        self.segments: list[Any] = []
        self._files: dict[str, int] = {}
        self._last: tuple[bytes, weakref.ref[TextIndex] | None] = b"", None
        weakref.finalize(self, _close, self._files)
        if folder is not None:
            self.segments = msgspec.json.decode((folder / _META).read_bytes())["segments"]
            for path in folder.iterdir():
                if path.suffix not in (".json", ".lock"):
                    self._files[path.name] = os.open(path, os.O_RDONLY)

    def lay_into(self, folder: Path) -> None:
        """Put its segments before those of another index, in whose folder its files become links to
        what is open.
        """
        for name, number in self._files.items():
            (folder / name).symlink_to(f"/dev/fd/{number}")
        meta = msgspec.json.decode((folder / _META).read_bytes())
        meta["segments"] = [*self.segments, *meta["segments"]]
        (folder / _META).write_bytes(msgspec.json.encode(meta))

    def last(self, digest: bytes) -> "TextIndex | None":
        """What was laid over it last, if it was the same and is still in use."""
        return self._last[1]() if self._last[1] is not None and self._last[0] == digest else None

    def remember(self, digest: bytes, made: "TextIndex") -> None:
        self._last = digest, weakref.ref(made)


def _close(files: dict[str, int]) -> None:
    for number in files.values():
        os.close(number)


@dataclass(frozen=True)
class TextIndex:
    """An open index. `search` gives rows of the items that it was built from, or that came later.

    Attributes:
        told: rows, ascending, of the items that came or changed after it was built. Their documents
            stand behind those it was built of.
    """

    index: tantivy.Index
    spelling: Spelling
    built: Built
    told: Rows = field(default_factory=lambda: np.zeros(0, np.intp))

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> "TextIndex":
        """Open an index from the bytes of its files."""
        with _private_folder() as folder:
            for name, data in files.items():
                if "/" in name:
                    raise ValueError(f"the text index has a file {name!r}")
                (folder / name).write_bytes(data)
            with _panics_told():
                index = _opened(tantivy.Index.open(str(folder)))
                searcher = index.searcher()
                spelling = Spelling.of(_terms(searcher), _elsewhere(searcher))
                return cls(index, spelling, Built(folder, searcher.num_docs, spelling))

    @classmethod
    def of(cls, documents: Documents) -> "TextIndex":
        """An index of a few documents, in the order of their rows."""
        count = len(next(iter(documents.values()), ()))
        return cls.empty().with_documents(np.arange(count), documents)

    @classmethod
    @cache
    def empty(cls) -> "TextIndex":
        """An index of nothing, over which all is laid."""
        index = tantivy.Index(_schema())
        spelling = Spelling.of((), _elsewhere(index.searcher()))
        return cls(index, spelling, Built(None, 0, spelling))

    def with_documents(self, rows: Rows, documents: Documents) -> "TextIndex":
        """The index as it was built, and some items beside, or in place of what it had of them.

        Words that an item had before still count for how rare they are, but do not find it any
        more.

        Args:
            rows: of these items, ascending.
            documents: in the order of `rows`.
        """
        digest = blake2b(rows.tobytes() + msgspec.json.encode(documents)).digest()
        made = self.built.last(digest)
        if made is None:  # else a price changed, and no word
            try:
                made = self._told(rows, documents, _MEMORY)
            except (ValueError, OSError):  # there is none of that name, or no room in it
                made = self._told(rows, documents, None)
            self.built.remember(digest, made)
        return made

    def _told(self, rows: Rows, documents: Documents, where: str | None) -> "TextIndex":
        with _private_folder(where) as folder, _panics_told():
            index = later = _opened(
                tantivy.Index(self.index.schema, path=str(folder) if self.built.segments else None)
            )
            _write(later, documents, heap=_LATER_BYTES, first=self.built.documents)
            later.reload()
            alone = later.searcher()
            stems = [
                (name, stem)
                for name in _ITEM_FIELDS
                for stem, _ in alone.terms_with_prefix(name, "")
            ]
            if self.built.segments:
                self.built.lay_into(folder)
                index = _opened(tantivy.Index.open(str(folder)))
            searcher = index.searcher()
            counted = [(stem, searcher.doc_freq(name, stem)) for name, stem in stems]
            return TextIndex(
                index,
                self.built.spelling.with_terms(counted, _elsewhere(searcher)),
                self.built,
                rows,
            )

    def search(
        self,
        query: str,
        limit: int,
        beside: Sequence[Phrase] = (),
        meant: Sequence[str] | None = None,
    ) -> tuple[Rows, npt.NDArray[np.float64]]:
        """Rows and scores of the best items for a query as a person typed it, best first. Never
        raises on its syntax.

        Args:
            beside: phrases that mean the same as what was typed, see `retrieval.synonyms`; they
                count `SYNONYM` times.
            meant: stems that were probably meant, see `retrieval.spelling`; they count `CORRECTED`
                times. Without, what `corrections` says.
        """
        typed = words_of(query[:QUERY_CHARACTERS_MAX])
        words = " ".join(typed)
        if not words or limit < 1:
            return np.zeros(0, np.intp), np.zeros(0)
        if meant is None:
            with _panics_told():
                meant = corrections(typed, self.spelling)
        exact = self._search(
            words + "".join(f' "{" ".join(phrase)}"^{SYNONYM}' for phrase in beside),
            limit,
            meant=meant,
        )
        if exact[0].size >= min(limit, 3):
            return exact
        long = " ".join(word for word in typed if len(word) >= LOOSE_MIN)
        if not long:
            return exact
        loose = self._search(long, limit, fuzzy=True)
        fresh = ~np.isin(loose[0], exact[0])
        # A loose hit never stands above an exact one: fuzzy scores are constants of another scale.
        ceiling = (
            0.5 * float(exact[1].min()) / max(float(loose[1].max(initial=0.0)), 1e-9)
            if exact[0].size
            else 1.0
        )
        rows = np.concatenate([exact[0], loose[0][fresh]])[:limit]
        return rows, np.concatenate([exact[1], loose[1][fresh] * min(ceiling, 1.0)])[:limit]

    def _search(
        self, words: str, limit: int, *, fuzzy: bool = False, meant: Sequence[str] = ()
    ) -> tuple[Rows, npt.NDArray[np.float64]]:
        # Words are in lower case: AND, OR and NOT are words of a person here, no operators.
        spelt = dict.fromkeys(FIELDS, (False, 1, True)) if fuzzy else None
        replaced = int(np.searchsorted(self.told, self.built.documents))
        # Some more than will be no hits any more, if those that were replaced are found as often as
        # others.
        asked = limit + min(replaced, 10 + 2 * limit * replaced // max(self.built.documents, 1))
        with _panics_told():
            parsed, _ = self.index.parse_query_lenient(words, list(FIELDS), FIELDS, spelt)
            if meant:
                parsed = tantivy.Query.boolean_query(
                    [(tantivy.Occur.Should, parsed), *self._meant(meant)]
                )
            searcher = self.index.searcher()
            while (
                True
            ):  # until enough of the hits are no documents that were replaced, or there are no more
                hits = searcher.search(parsed, asked, count=False).hits
                rows = self._rows(
                    searcher.fast_field_values("row", [address for _, address in hits])
                )
                kept = np.flatnonzero(rows >= 0)[:limit]
                if kept.size == limit or len(hits) < asked:
                    return rows[kept], np.array([score for score, _ in hits], np.float64)[kept]
                asked *= 4

    def _rows(self, numbers: Sequence[float | None]) -> Rows:
        """Items of documents by their numbers, -1 where a later one took the place."""
        if None in numbers:
            raise ValueError("the text index names no row for a document")
        found, built, told = np.array(numbers, np.intp), self.built.documents, self.told
        if found.size and not (found.min() >= 0 and found.max() < built + told.size):
            raise ValueError("the text index names an item that does not exist")
        if not told.size:
            return found
        of_later = told[np.clip(found - built, 0, told.size - 1)]
        replaced = told[np.minimum(np.searchsorted(told, found), told.size - 1)] == found
        return np.where(found >= built, of_later, np.where(replaced, -1, found))

    def _meant(self, stems: Sequence[str]) -> list[tuple[tantivy.Occur, tantivy.Query]]:
        schema = self.index.schema
        return [
            (
                tantivy.Occur.Should,
                tantivy.Query.boost_query(
                    tantivy.Query.term_query(schema, name, stem), CORRECTED * weight
                ),
            )
            for stem in stems
            for name, weight in FIELDS.items()
        ]


@contextmanager
def _panics_told() -> Iterator[None]:
    """Turn a panic of tantivy into a ValueError: a panic is no Exception in Python and would end
    the server.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("the text index is damaged") from error


@contextmanager
def _private_folder(where: str | None = None) -> Iterator[Path]:
    """A folder in another, or where temporary files are, that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tailorbird-text-", dir=where))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _opened(index: tantivy.Index) -> tantivy.Index:
    """An index as it is now: one that looked for changes would keep a thread."""
    index.config_reader(reload_policy="manual")
    index.reload()
    return index


def _terms(searcher: tantivy.Searcher) -> list[tuple[str, int]]:
    """The stems of titles, categories and brands, and how many items have each."""
    return [term for name in _ITEM_FIELDS for term in searcher.terms_with_prefix(name, "")]


def _elsewhere(searcher: tantivy.Searcher) -> Callable[[str], int]:
    return lambda stem: searcher.doc_freq("text", stem)


def write_text_index(folder: Path, documents: Documents) -> None:
    """Build an index in a new folder of documents in the order of their rows."""
    folder.mkdir(parents=True)
    index = tantivy.Index(_schema(), path=str(folder))
    _write(index, documents, heap=_WRITER_BYTES)
    del index
    for lock in folder.glob(".*.lock"):
        lock.unlink()


def documents_of(
    attributes: Mapping[str, Column], rows: npt.NDArray[np.intp]
) -> dict[str, list[str]]:
    """The texts of some items by field of the text index; attributes that are no field of their own
    go into `text`.
    """
    fields: dict[str, list[str]] = {
        name: _texts(attributes.get(name), rows) for name in _ITEM_FIELDS
    }
    rest = [
        _texts(column, rows)
        for name, column in sorted(attributes.items())
        if name not in _ITEM_FIELDS and isinstance(column, TextColumn)
    ]
    fields["text"] = (
        [" ".join(filter(None, parts)) for parts in zip(*rest, strict=True)]
        if rest
        else [""] * rows.size
    )
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


def _write(index: tantivy.Index, documents: Documents, *, heap: int, first: int = 0) -> None:
    """Add documents, whose numbers go on from `first`."""
    writer = index.writer(
        heap_size=heap, num_threads=1
    )  # one thread: the same input gives the same segments
    used = [name for name in FIELDS if name in documents]
    for number, texts in enumerate(zip(*(documents[name] for name in used), strict=True), first):
        document = tantivy.Document()
        document.add_unsigned("row", number)  # as a keyword it would be a signed column
        for name, text in zip(used, texts, strict=True):
            if text:
                document.add_text(name, text)
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
