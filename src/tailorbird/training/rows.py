"""What training takes from the lake: events, items and logged answers in columns, coded once; and the rows that come of them.

A lake with answers gives rows of what was shown (`training.dataset`); one without gives requests with drawn candidates
(`training.clicks`). Everything after that treats both alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, duration
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.models.baselines import History, simple_baselines
from tailorbird.ranking.slot import Slot
from tailorbird.training.clicks import Scheme, choices, guess_scheme, with_candidates
from tailorbird.training.coding import INTERESTS, Codes, interactions
from tailorbird.training.dataset import Dataset, answers_dataset
from tailorbird.training.indexes import no_items
from tailorbird.training.item_to_item import Rolling
from tailorbird.training.matrix import needed_columns

Floats = npt.NDArray[np.float64]

WINDOWS: dict[str, int | None] = {"1d": DAY, "7d": 7 * DAY, "ever": None}
NEGATIVES = 60  # of a drawn request in training and validation


@dataclass(frozen=True)
class Material:
    """The lake's columns, loaded and coded.

    Attributes:
        events: all that features may look back at, up to now.
        items: item profiles, all versions.
        answers: request_id and p of logged answers, or None.
        people, codes: of persons and items.
        scheme: how requests are drawn, or None where answers were logged.
        windows: name → length of the popularity baselines; None counts all.
    """

    events: pa.Table
    items: pa.Table
    answers: pa.Table | None
    people: Codes
    codes: Codes
    scheme: Scheme | None
    windows: Mapping[str, int | None]

    @property
    def logged(self) -> bool:
        """Whether rows are what was shown."""
        return self.scheme is None

    @cached_property
    def history(self) -> History:
        """What people did with items; where requests are drawn, only what is to be predicted."""
        types = INTERESTS if self.scheme is None else (self.scheme.type,)
        return History(interactions(self.events, self.people, self.codes, types))

    def dataset(self, slot: Slot, *, ts_from: int, now: int, lateness_us: int) -> Dataset:
        """All requests since `ts_from`: of logged answers with their rows, else with the truth alone (see `complete`)."""
        if self.scheme is not None:
            return choices(self.events, self.people, self.codes, self.scheme, ts_from=ts_from, ts_to=now)
        return answers_dataset(
            self.events,
            slot.name,
            list(slot.objective),
            ts_from=ts_from,
            mature_before=now - lateness_us,
            attribution=duration(slot.attribution),
            denominator=slot.denominator,
            answers=self.answers,
            people=self.people,
            items=self.codes,
        )

    def complete(self, part: Dataset, rolling: Rolling, *, sampled: bool) -> Dataset:
        """The rows of a part: as logged, or with drawn candidates, of which `sampled` keeps some."""
        if self.scheme is None:
            return part
        return with_candidates(part, self.history, self.scheme, rolling=rolling, negatives=NEGATIVES if sampled else 0)


def load_material(
    lake: Lake, features: FeatureSet, slot: Slot, *, now: int, scheme: Scheme | None = None, windows: Mapping[str, int | None] = WINDOWS
) -> Material:
    """Read what training needs.

    Args:
        scheme: how to draw requests although there may be answers; None looks whether the slot has answers, and else guesses.

    Raises:
        NotReadyError: the lake holds no event yet.
    """
    events = lake.events(needed_columns(features), ts_to=now).combine_chunks()
    if not events.num_rows:
        raise NotReadyError("the lake holds no event yet", where=str(lake.path), fix="tailorbird import FORMAT PATH")
    people = Codes.of(events["person"])
    codes = Codes.of(events["item_id"], pc.list_flatten(events["items"]))
    items = lake.table("items", ["id", "valid_from", "attributes", "timeless"]) if lake.exists("items") else no_items()
    shown = pc.and_(pc.equal(events["type"], "answer"), pc.fill_null(pc.equal(events["slot"], slot.name), False))
    if scheme is None and not pc.any(shown).as_py():
        scheme = guess_scheme(events, next(iter(slot.objective)))
    answers = lake.answers(["request_id", "p"]) if scheme is None and lake.exists("answers") else None
    return Material(events, items, answers, people, codes, scheme, windows)


def baselines_of(material: Material, part: Dataset, rolling: Rolling, seed: int) -> dict[str, Floats]:
    """Scores of every baseline for the rows of a part, by name.

    `item_to_item` uses the very tables that the model's column uses; where nothing leads to an item, it falls back to popularity.
    """
    questions = part.questions()
    repeats = material.scheme is None or material.scheme.repeats
    scores = simple_baselines(material.history, questions, material.windows, seed=seed, repeats=repeats)
    crowd = next(score for name, score in scores.items() if name.startswith("popular_"))
    related = rolling.score(material.history, questions)
    scores["item_to_item"] = related + 1e-9 * crowd
    scores["newest"] = _newest(material.history, part)
    return scores


def _newest(history: History, part: Dataset) -> Floats:
    """When the item was first chosen; one that nobody had chosen before the request comes last, for nobody knew of it."""
    i = history.interactions
    first = np.full(i.items, np.iinfo(np.int64).max)
    known = i.item >= 0
    np.minimum.at(first, i.item[known], i.ts[known])
    age = part.t[part.request] - first[part.item]
    return np.where(age > 0, -age.astype(np.float64), -np.inf)
