"""Whether servers scored as their bundle says: what the model made of each item shown, computed
again from the features that were logged.

It shares nothing with the server but the bundle: what is read are the lake's `answers`, what is
scored goes through the same encoder, models, calibration and formula. `tailorbird models verify`
prints the report; whether the logged features are those of the lake is what `tailorbird features
verify` tells.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import hash64s, micros
from tailorbird.events.clock import SECOND
from tailorbird.features.recompute import UNLINKED
from tailorbird.features.request import Rows, Sequence, unpack_sequences
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.formula import parse_formula
from tailorbird.retrieval import Index
from tailorbird.retrieval.overlay import ItemVersion, laid_over, take_version

RELATIVE, ABSOLUTE = 1e-6, 1e-9  # of another machine
NEAR_US = (
    10 * SECOND
    # within which a server may not have known what the catalogue said, or the answer's time is not its
    # own
)
EXAMPLES_MAX = 20
COLUMNS = (
    "request_id",
    "ts",
    "model",
    "items",
    "numeric",
    "categorical",
    "sequences",
    "degraded",
    "formula",
    "values",
    "live",
)
ITEM_COLUMNS = ("id", "valid_from", "attributes", "timeless", "p", "received_at")

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Otherwise:
    """An item that was scored otherwise than it is now."""

    request_id: str
    item: str
    logged: float
    recomputed: float


@dataclass
class ScoreReport:
    """What came of a comparison.

    Attributes:
        answers, scores: compared.
        unequal: scores that differ by more than 1e-6 of their size.
        other_bits: those that differ by less, but in some bit.
        skipped: answers that no model ordered, whose features were not logged, or with features of
            what was erased since.
        moved: scores that were left out since they hang on items that came or changed within
            seconds of the answer: whether the server knew it already, nothing tells; or on one
            without a profile, of which it knew by what people did.
        examples: some of the unequal ones.
    """

    answers: int = 0
    scores: int = 0
    unequal: int = 0
    other_bits: int = 0
    skipped: int = 0
    moved: int = 0
    examples: list[Otherwise] = field(default_factory=list)


class Laid:
    """A bundle's index with what the catalogue said since, at times that only grow: servers lay it
    over in the same way.

    Args:
        items: rows of the lake's `items`.
        together: whether what one item has become moves the scores of others, as it does where
            vectors are compared.
    """

    def __init__(self, base: Index, items: pa.Table, *, together: bool) -> None:
        self._base, self._index = replace(base, text=None), replace(base, text=None)
        self._together = together
        self._versions = _later(base, items)
        self._known = [version.known_since for _, version in self._versions]
        self._keys = (
            hash64s([item for item, _ in self._versions])
            if self._versions
            else np.zeros(0, np.uint64)
        )
        self._newest: dict[str, ItemVersion] = {}
        self._taken = self._laid = 0

    def at(self, ts: int, about: npt.NDArray[np.uint64]) -> tuple[Index, frozenset[str]]:
        """The index at a time, and the items that moved so shortly before or after that a server
        may have known them or not.

        Args:
            about: keys of the items that scores hang on. Where none of them came or changed, and
                none is new, an older index says the same.
        """
        while self._taken < len(self._versions) and self._known[self._taken] <= ts:
            take_version(self._newest, *self._versions[self._taken])
            self._taken += 1
        waiting = self._keys[self._laid : self._taken]
        if waiting.size and (
            self._together or (self._index.find(waiting) < 0).any() or np.isin(waiting, about).any()
        ):
            self._laid = self._taken
            self._index = laid_over(self._base, self._newest, texts=False)
        start, stop = (
            bisect_left(self._known, ts - NEAR_US),
            bisect_right(self._known, ts + NEAR_US),
        )
        return self._index, frozenset(item for item, _ in self._versions[start:stop])


def _later(base: Index, items: pa.Table) -> list[tuple[str, ItemVersion]]:
    """All versions of items that came or changed after an index, in the order in which they got
    known.
    """
    valid_from = micros(items["valid_from"])
    known_since = np.maximum(valid_from, micros(items["received_at"]))
    ids = items["id"].to_pylist()
    starts = np.where(
        items["timeless"].to_numpy(zero_copy_only=False).astype(bool), 0, valid_from
    ).tolist()
    texts, places = items["attributes"].to_pylist(), items["p"].to_pylist()
    told = zip(texts, starts, known_since.tolist(), places, strict=True)
    versions = [ItemVersion(text or "{}", start, known, p) for text, start, known, p in told]
    unknown = (base.find_ids(ids) < 0).tolist()
    moved = {
        item
        for item, new, version in zip(ids, unknown, versions, strict=True)
        if new or version.is_later_than(base)
    }
    chosen = [(item, version) for item, version in zip(ids, versions, strict=True) if item in moved]
    return sorted(chosen, key=lambda one: (one[1].known_since, one[1].p))


def rescored(
    bundle: Bundle,
    answers: Iterable[pa.Table],
    items: pa.Table,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> ScoreReport:
    """Score what was shown again, and compare.

    Args:
        answers: rows of the lake's `answers` with `COLUMNS`, some after others in time; those of
            other versions are passed over.
        items: rows of the lake's `items` with `ITEM_COLUMNS`.
        progress: told how many answers were looked at.
    """
    report, laid, done = (
        ScoreReport(),
        Laid(bundle.index, items, together=bundle.space is not None),
        0,
    )
    for some in answers:
        own = some.filter(pc.equal(some["model"], bundle.version))
        own = own.set_column(
            own.column_names.index("ts"), "ts", own["ts"].cast(pa.int64())
        ).sort_by("ts")
        for row in own.to_pylist():
            if _told(row):
                _compare(bundle, row, laid, report)
            else:
                report.skipped += 1
            done += 1
            progress(done)
    return report


def _told(row: dict) -> bool:
    """Whether all that the model looked at was logged, and is still there."""
    items, values = row["items"] or [], row["values"] or []
    return (
        bool(items)
        and len(values) == len(items)
        and bool(row["numeric"] or row["categorical"])
        and UNLINKED not in row["degraded"]
    )


def _compare(bundle: Bundle, row: dict, laid: Laid, report: ScoreReport) -> None:
    ids: list[str] = row["items"]
    rows, keys = _rows(bundle, row), hash64s(ids)
    seen = np.concatenate([one.item for one in rows.sequences.values()] or [np.zeros(0, np.uint64)])
    index, near = laid.at(row["ts"], np.concatenate([keys, seen]))
    moved = sorted(near)
    if near and (
        bundle.space is not None or np.isin(seen, hash64s(moved)).any()
    ):  # vectors compare an item with all others
        report.moved += len(ids)
        return
    kept = np.array([one not in near for one in ids]) & (index.find(keys) >= 0)
    weights = parse_formula(row["formula"]) if row["formula"] else None
    scorer = (bundle.without_tower() if "vectors" in row["degraded"] else bundle).with_index(index)
    live = np.array(row["live"], np.float32).reshape(len(ids), -1) if row["live"] else None
    logged, found = (
        np.array(row["values"], np.float64),
        scorer.score(rows, keys, objective=weights, live=live).value,
    )
    differ = kept & (logged != found)
    unequal = differ & ~np.isclose(logged, found, rtol=RELATIVE, atol=ABSOLUTE)
    report.answers += 1
    report.scores += int(kept.sum())
    report.moved += int((~kept).sum())
    report.unequal += int(unequal.sum())
    report.other_bits += int((differ & ~unequal).sum())
    for place in np.flatnonzero(unequal)[: EXAMPLES_MAX - len(report.examples)]:
        report.examples.append(
            Otherwise(row["request_id"], ids[place], float(logged[place]), float(found[place]))
        )


def _rows(bundle: Bundle, row: dict) -> Rows:
    """The features of one answer, as the log keeps them."""
    count = len(row["items"])
    numeric = np.array(row["numeric"] or (), np.float32).reshape(count, len(bundle.columns.numeric))
    categorical = (
        np.array(row["categorical"] or (), np.int64)
        .view(np.uint64)
        .reshape(count, len(bundle.columns.categorical))
    )
    sequences = {
        name: Sequence(np.array(item, np.uint64), np.array(kind, np.uint64), np.array(ts, np.int64))
        for name, (item, kind, ts, *_) in unpack_sequences(row["sequences"]).items()
    }
    return Rows(numeric, categorical, sequences, t=row["ts"], commit=0, p=0)
