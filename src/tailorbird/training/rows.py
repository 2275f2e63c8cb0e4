"""What training takes from the lake: events, items and logged answers in columns, coded once; and
the requests that come of them.

Logged answers give rows of what was shown (`training.dataset`); where too few of them have a known
outcome, what people chose gives requests, whose candidates are those of the slot at that moment
(`training.clicks`). Everything after that treats both alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, duration, micros, to_iso
from tailorbird.features import FeatureSet
from tailorbird.features.attached import AttachedEvents
from tailorbird.lake import Lake, span
from tailorbird.models.interactions import History, Interactions
from tailorbird.ranking.slot import Slot
from tailorbird.ranking.targets import chances_of_items, is_amount, of_items
from tailorbird.training.before_looks import ASKED, before_looks
from tailorbird.training.clicks import Scheme, choices, scheme_of
from tailorbird.training.coding import INTERESTS, Codes, interactions, interesting, seconds_viewed
from tailorbird.training.dataset import Dataset, answers_dataset
from tailorbird.training.happened import Happened
from tailorbird.training.indexes import no_items
from tailorbird.training.matrix import needed_columns
from tailorbird.training.returning import Returns, of_return

Floats = npt.NDArray[np.float64]

Rows = Literal["auto", "answers", "clicks"]

NEGATIVES = 60  # of a drawn request in training and validation
# answers with an outcome, below which the log's choices teach more: split in three, fewer leave too
# few positives
ANSWERS_MIN = 300


@dataclass(frozen=True)
class Wanted:
    """Which requests, and what they become rows of.

    Attributes:
        ts_from, now: of the window.
        lateness_us: how late events may come: younger answers are left out.
        rows: `answers` or `clicks`; `auto` takes answers where enough have an outcome, else what
            people chose, where that is more.
        scheme: how requests are drawn although there may be answers; None guesses it where it is
            needed.
        heads: targets of other slots, which get labels as well.
    """

    ts_from: int
    now: int
    lateness_us: int = DAY
    rows: Rows = "auto"
    scheme: Scheme | None = None
    heads: Sequence[str] = ()


@dataclass(frozen=True)
class Material:
    """The lake's columns, loaded and coded, and the requests.

    Attributes:
        events: all that features may look back at, up to now.
        items: item profiles, all versions. people, codes: of persons and items.
        data: all requests of the window: of logged answers with their rows, else with the truth
            alone.
        scheme: how requests are drawn, or None where they are logged answers.
        why: which of the two was taken and why, as a sentence.
        heads: all targets: the slot's, then those of other slots.
        attribution: the slot's: how long after a request something still belongs to it.
        known: the moment up to which the log is complete.
    """

    events: pa.Table
    items: pa.Table
    people: Codes
    codes: Codes
    data: Dataset
    scheme: Scheme | None
    why: str
    heads: tuple[str, ...]
    attribution: int
    known: int

    @cached_property
    def log(self) -> pa.Table:
        """The events as candidate sources see them: with what profiles said of items."""
        return with_profiles(self.events, self.items)

    @property
    def logged(self) -> bool:
        """Whether rows are what was shown."""
        return self.scheme is None

    @cached_property
    def history(self) -> History:
        """What people did with items; where requests are drawn, only what is to be predicted."""
        return History(interactions(self.events, self.people, self.codes, self._types))

    @property
    def by_type(self) -> dict[str, Interactions]:
        """What is in `history`, each type apart."""
        return {
            each: interactions(self.events, self.people, self.codes, (each,))
            for each in self._types
        }

    @property
    def _types(self) -> Sequence[str]:
        return INTERESTS if self.scheme is None else (self.scheme.type,)

    @property
    def label_window(self) -> int:
        """How long after a request its labels may still change; what is drawn for happens at the
        request itself, unless that was moved.
        """
        later = (
            self.logged
            or ASKED in self.data.scheme
            or any(len(each) for each in self._further.values())
        )
        return self.attribution if later else 0

    @cached_property
    def _further(self) -> dict[str, Happened]:
        """Of drawn requests, all targets but the one that they are drawn for."""
        others = [
            head
            for head in of_items(self.heads)
            if self.scheme is not None and head != self.scheme.type
        ]
        return {head: self._happened(head) for head in others}

    def _happened(self, head: str) -> Happened:
        kept = self.events.filter(interesting(self.events, (head,)))
        return Happened(
            interactions(kept, self.people, self.codes, (head,)),
            seconds_viewed(kept) if is_amount(head) else None,
        )

    def labelled(self, drawn: Dataset) -> Dataset:
        """Add the labels of further targets to requests with their candidates."""
        if self.scheme is None:
            return drawn
        further: dict[str, npt.NDArray] = {
            head: each.total(drawn, self.attribution)
            if is_amount(head)
            else each.within(drawn, self.attribution)
            for head, each in self._further.items()
        }
        # What was a candidate beside the truth was not seen, so nobody returned, or stayed away,
        # because of it.
        chosen = drawn.labels[self.scheme.type]
        for head, asked in of_return(self.heads).items():
            further[head] = np.where(
                chosen,
                self._returns.label(asked, drawn.person, drawn.t)[drawn.request],
                np.float32(np.nan),
            )
        return replace(drawn, labels={**drawn.labels, **further})

    @cached_property
    def _returns(self) -> Returns:
        return Returns(self.events, self.people, self.known)


def load_material(
    lake: Lake,
    features: FeatureSet,
    slot: Slot,
    wanted: Wanted,
    *,
    beside: Sequence[FeatureSet] = (),
) -> Material:
    """Read what training needs.

    Args:
        beside: other sets whose values are asked for too: those of an incumbent that reads another
            schema.
    Raises:
        NotReadyError: the lake holds no event yet, or none that rows could be made of.
    """
    needed = list(
        dict.fromkeys(name for each in (features, *beside) for name in needed_columns(each))
    )
    events = _in_order(
        AttachedEvents(lake, features, *beside).table(needed, span(ts_to=wanted.now))
    )
    if not events.num_rows:
        raise _nothing(lake, wanted.now)
    people = Codes.of(events["person"])
    codes = Codes.of(events["item_id"], pc.list_flatten(events["items"]))
    items = _items(lake) if lake.exists("items") else no_items()
    known = min(wanted.now - wanted.lateness_us, log_end(events))
    data, scheme, why = _requests(lake, events, people, codes, slot, wanted, known)
    heads = tuple(dict.fromkeys((*slot.objective, *wanted.heads)))
    return _settled(
        Material(
            events,
            items,
            people,
            codes,
            data,
            scheme,
            why,
            heads,
            duration(slot.attribution),
            known,
        )
    )


def log_end(events: pa.Table) -> int:
    """Just behind the newest event: a log that ended, as one that was imported, does not know what
    came of its last hours.
    """
    dated = ~pc.fill_null(events["timeless"], False).to_numpy().astype(bool)
    return int(micros(events["ts"]).max(initial=0, where=dated)) + 1


def _settled(material: Material) -> Material:
    """Without drawn requests whose further targets may still happen; of logged answers those are
    not among the rows anyway.
    """
    data = material.data
    if material.logged or not material.label_window:
        return material
    settled = np.flatnonzero(data.t + material.label_window <= material.known)
    if not len(settled):
        what = f"what came of the {data.requests:,} choices in the window is not known yet"
        raise NotReadyError(
            what,
            fix="import more history, shorten the slot's attribution, or train as of an earlier "
            "day: --as-of 2026-11-25",
        )
    return replace(material, data=data.take(settled))


def _nothing(lake: Lake, now: int) -> NotReadyError:
    """Why there is nothing to learn from."""
    if (
        lake.exists("events") and lake.table("events", ["p"]).num_rows
    ):  # no SQL: it knows no lake as it was
        return NotReadyError(
            f"the lake holds no event before {to_iso(now)[:16]}",
            where=str(lake.path),
            fix="a later --as-of, such as latest",
        )
    return NotReadyError(
        "the lake holds no event yet", where=str(lake.path), fix="tailorbird import FORMAT PATH"
    )


def _in_order(rows: pa.Table) -> pa.Table:
    """The rows in the order of the log, however the files of the lake were cut since: codes, and
    with them draws, depend on it.
    """
    p = rows["p"].to_numpy()
    return (
        rows if bool(np.all(p[1:] > p[:-1])) else rows.take(pa.array(np.argsort(p)))
    ).combine_chunks()


def _items(lake: Lake) -> pa.Table:
    names = ["id", "valid_from", "attributes", "timeless", "received_at"]
    return _in_order(lake.table("items", [*names, "p"]))


def _requests(
    lake: Lake,
    events: pa.Table,
    people: Codes,
    codes: Codes,
    slot: Slot,
    wanted: Wanted,
    known: int,
) -> tuple[Dataset, Scheme | None, str]:
    """Requests of logged answers or of what people chose, the scheme of the latter, and which it is
    and why.
    """
    shown = None
    if wanted.rows != "clicks" and wanted.scheme is None:
        try:
            shown = _shown(lake, events, people, codes, slot, wanted, known)
        except NotReadyError:
            if wanted.rows == "answers" or (
                _answered(events, slot) and not _chosen(events, slot, wanted)[1]
            ):
                raise
    count = _with_outcome(shown, slot) if shown else 0
    told = f"{count:,} answers of slot {slot.name!r} have an outcome that is known by now"
    if shown and wanted.rows == "answers":
        return shown, None, f"rows are logged answers, as asked for: {told}"
    if shown and count >= ANSWERS_MIN:
        return shown, None, f"rows are logged answers: {told}"
    head, chosen = _chosen(events, slot, wanted)
    if (
        shown and chosen < 2 * count
    ):  # nearly all that people chose, they chose from these very answers
        return (
            shown,
            None,
            f"rows are logged answers, though only {told}: the log holds hardly any {head} "
            "beside them",
        )
    scheme = wanted.scheme or scheme_of(events, head)
    data = choices(events, people, codes, scheme, ts_from=wanted.ts_from, ts_to=wanted.now)
    drawn, asked = (
        f"requests are put before what people chose ({data.rows:,} of type {scheme.type})",
        "",
    )
    if (
        moved := before_looks(events, data, scheme.type, duration(slot.attribution))
        if scheme.before_looks
        else None
    ):
        data, asked = moved.data, f"; {moved.told}"
    if wanted.scheme or wanted.rows == "clicks":
        return data, scheme, f"{drawn}, as asked for{asked}"
    if not _answered(events, slot):
        return data, scheme, f"{drawn}: slot {slot.name!r} has no logged answer{asked}"
    return (
        data,
        scheme,
        f"{drawn}: only {told}, and {ANSWERS_MIN} are needed to learn from them{asked}",
    )


def _shown(
    lake: Lake,
    events: pa.Table,
    people: Codes,
    codes: Codes,
    slot: Slot,
    wanted: Wanted,
    known: int,
) -> Dataset:
    return answers_dataset(
        events,
        slot.name,
        list(slot.objective),
        ts_from=wanted.ts_from,
        mature_before=known,
        attribution=duration(slot.attribution),
        denominator=slot.denominator,
        answers=lake.answers(["request_id", "p", "positions"]) if lake.exists("answers") else None,
        people=people,
        items=codes,
        further=wanted.heads,
    )


def _answered(events: pa.Table, slot: Slot) -> bool:
    """Whether the slot has answers at all."""
    mine = pc.and_(
        pc.equal(events["type"], "answer"), pc.fill_null(pc.equal(events["slot"], slot.name), False)
    )
    return bool(pc.any(mine).as_py())


def _with_outcome(shown: Dataset, slot: Slot) -> int:
    """How many answers led to something that the slot's objective asks for."""
    good = np.logical_or.reduce([shown.labels[head] > 0 for head in of_items(slot.objective)])
    return len(np.unique(shown.request[good]))


def _chosen(events: pa.Table, slot: Slot, wanted: Wanted) -> tuple[str, int]:
    """The objective's first target that people chose anything by in the window, and how often they
    did; amounts are of views.
    """
    heads = chances_of_items(slot.objective) or ["view"]
    t = micros(events["ts"])
    recent = (t >= wanted.ts_from) & (t < wanted.now)
    for head in heads:
        chosen = pc.and_(interesting(events, (head,)), pc.is_valid(events["person"])).to_numpy()
        if count := int(np.count_nonzero(chosen & recent)):
            return head, count
    return heads[0], 0


def with_profiles(events: pa.Table, items: pa.Table) -> pa.Table:
    """Return the events with the properties of item profiles, which the lake keeps in a table of
    their own, and no others.
    """
    if "properties" in events.column_names or "p" not in items.column_names:
        return events
    at = pc.index_in(events["p"], value_set=items["p"].combine_chunks())
    return events.append_column(
        "properties", items["attributes"].combine_chunks().take(at.combine_chunks())
    )
