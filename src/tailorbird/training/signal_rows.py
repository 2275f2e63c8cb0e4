"""What columns are judged by: the rows of four parts of the time, encoded as the model sees them.

    ──── train ────|── watch ──|── choose ──|── judge ──►  t

Trees learn from the first part and stop by the second. What is kept is decided on the third alone,
and what that costs is told by the fourth alone: a subset that was chosen by luck shows it there.
Rows are those of `training.rows`; where requests are drawn, all parts hold some of the candidates,
as training does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import NotReadyError
from tailorbird.events import to_iso
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.models.gbdt import Sample
from tailorbird.ranking.encoders import fit_encoder
from tailorbird.ranking.slot import Slot
from tailorbird.training.completing import completed
from tailorbird.training.dataset import Dataset
from tailorbird.training.indexes import build_series
from tailorbird.training.matrix import columns_of, encoded, featured
from tailorbird.training.replaying import Replay, live_columns
from tailorbird.training.rows import Material, load_material
from tailorbird.training.settings import Progress, TrainSettings
from tailorbird.training.split import split_at, split_by_time
from tailorbird.training.thinned import thinned

Matrix = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

WATCH, LATER = (
    0.1,
    0.35,
)  # shares of all requests; the later part is cut in halves: to choose by, and to judge by
# requests with something to find, in each part: with fewer hardly an interval excludes anything
FOUND_MIN = 60


@dataclass(frozen=True)
class SignalRows:
    """Requests in order of time and their rows.

    Attributes:
        matrix: shape (rows, columns), as the model sees it.
        label: shape (rows,), whether the target happened.
        weight: shape (rows,), how many rows of the full set a row stands for.
        offsets: shape (requests + 1,). t, person: shape (requests,); −1 for nobody.
        evenly: shape (requests,), whether the request was drawn whatever came of it; the others
            only because something did.
    """

    matrix: Matrix
    label: Bools
    weight: Floats
    offsets: Ints
    t: Ints
    person: Ints
    evenly: Bools

    @property
    def requests(self) -> int:
        return len(self.t)

    @cached_property
    def request(self) -> Ints:
        """The request of each row."""
        return np.repeat(np.arange(self.requests), np.diff(self.offsets))

    @cached_property
    def found(self) -> Bools:
        """Requests in which there is something to find, and something else to tell it from."""
        positives = np.bincount(self.request, self.label, minlength=self.requests)
        return (positives > 0) & (positives < np.diff(self.offsets))

    def take(self, requests: Bools) -> "SignalRows":
        """Some requests."""
        rows = requests[self.request]
        offsets = np.concatenate(([0], np.cumsum(np.diff(self.offsets)[requests]))).astype(np.int64)
        of_rows = (self.matrix[rows], self.label[rows], self.weight[rows])
        return SignalRows(
            *of_rows, offsets, self.t[requests], self.person[requests], self.evenly[requests]
        )

    def sample(self, columns: Sequence[int]) -> Sample:
        """Some columns, to learn from or to watch."""
        return Sample(
            np.ascontiguousarray(self.matrix[:, columns]),
            self.label,
            np.diff(self.offsets),
            self.weight,
        )

    def of_request(self) -> Bools:
        """Columns that never differ within a request, shape (columns,): they are of who asks and
        when, not of the item.
        """
        first = self.matrix[self.offsets[:-1]][self.request]
        same = (self.matrix == first) | (np.isnan(self.matrix) & np.isnan(first))
        return same.all(axis=0)


@dataclass(frozen=True)
class Ground:
    """The four parts, and what their columns are called.

    Attributes:
        names: of the matrix's columns; `categorical`: those that hold codes.
        about: what a reader must know to trust the figures, as JSON.
    """

    names: tuple[str, ...]
    categorical: tuple[str, ...]
    train: SignalRows
    watch: SignalRows
    choose: SignalRows
    judge: SignalRows
    about: dict[str, Any]

    def arrays(self) -> dict[str, npt.NDArray]:
        """All rows as arrays with names, for a file."""
        parts = {
            "train": self.train,
            "watch": self.watch,
            "choose": self.choose,
            "judge": self.judge,
        }
        return {
            f"{part}.{field.name}": getattr(rows, field.name)
            for part, rows in parts.items()
            for field in fields(rows)
        }

    @staticmethod
    def part(arrays: dict[str, npt.NDArray], part: str) -> SignalRows:
        """One part out of `arrays`."""
        return SignalRows(
            **{field.name: arrays[f"{part}.{field.name}"] for field in fields(SignalRows)}
        )


def gather(
    features: FeatureSet,
    slot: Slot,
    target: str,
    lake: Lake,
    now: int,
    settings: TrainSettings,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> Ground:
    """Read the lake, cut it in four, and encode the rows.

    Args:
        target: what columns should tell, as `click`.
        settings: `requests` is how many of training at most; `test_requests`, how many with
            something to find of each other part.

    Raises:
        NotReadyError: there are too few requests in which the target happened.
    """
    asked = replace(slot, objective={target: 1.0})
    progress("read", 0, 1)
    material = load_material(lake, features, asked, settings.wanted(now))
    data, gap = material.data, material.label_window
    _enough(data, target, 4 * FOUND_MIN, f"{data.requests:,} requests of slot {slot.name}")
    first = split_by_time(data.t, validation=WATCH, test=LATER, gap=gap)
    middle = int(np.quantile(data.t[first.test], 0.5))
    later = split_at(data.t, first.validation_until, middle, gap=gap)
    progress("read", 1, 1)

    start = data.t[first.train]
    places = np.linspace(0, len(start), settings.index_parts + 1).astype(int)[:-1]
    moments = sorted(
        {
            *(int(start[place]) for place in places),
            first.train_until,
            first.validation_until,
            middle,
        }
    )
    series = build_series(
        material.events, material.items, moments, progress=partial(progress, "index")
    )
    live = live_columns(features, slot)
    replay = Replay(material.log, features, slot, material.codes, live)
    learned = first.train[series.place_of(start) >= 0]
    everyone = np.ones(data.requests, bool)
    chosen = {
        "train": (thinned(learned, settings.requests, settings.seed), everyone),
        "watch": (thinned(first.validation, settings.requests, settings.seed), everyone),
        "choose": _later(data, later.validation, target, settings),
        "judge": _later(data, later.test, target, settings),
    }
    parts: dict[str, SignalRows] = {}
    encoder = None
    for place, (name, (requests, evenly)) in enumerate(chosen.items()):
        progress("features", place, len(chosen))
        part = completed(material, data.take(requests), replay)
        _enough(part, target, FOUND_MIN, f"the {part.requests:,} requests of the part to {name} by")
        pieces = list(featured(part, features, material.events))
        if encoder is None:
            seen = np.concatenate([piece.rows.categorical for piece in pieces])
            encoder = fit_encoder(
                columns_of(features),
                seen,
                similarities=features.similarities,
                candidates=live.candidates,
            )
        matrix = np.concatenate([encoded(piece, encoder, series, live=live) for piece in pieces])
        drawn = evenly[requests] if material.logged else np.ones(part.requests, bool)
        parts[name] = SignalRows(
            matrix, part.labels[target], part.weight, part.offsets, part.t, part.person, drawn
        )
    progress("features", len(chosen), len(chosen))
    assert encoder is not None
    return Ground(
        encoder.names,
        encoder.categorical_names,
        **parts,
        about=_about(material, slot, target, parts),
    )


def _later(
    data: Dataset, requests: Ints, target: str, settings: TrainSettings
) -> tuple[Ints, Bools]:
    """Requests with something to find, which the figures are made of, and some drawn evenly, which
    drift is seen in.

    Second, by request of the set, whether it is one of the latter.
    """
    happened = np.zeros(data.requests, bool)
    happened[data.request[data.labels[target]]] = True
    even = thinned(requests, settings.test_requests, settings.seed)
    found = thinned(requests[happened[requests]], settings.test_requests, settings.seed)
    drawn = np.zeros(data.requests, bool)
    drawn[even] = True
    return np.union1d(even, found), drawn


def _about(
    material: Material, slot: Slot, target: str, parts: dict[str, SignalRows]
) -> dict[str, Any]:
    """Sizes and times of the parts."""
    told = {
        name: {
            "from": to_iso(int(rows.t[0])),
            "to": to_iso(int(rows.t[-1])),
            "requests": rows.requests,
            "with_something_to_find": int(rows.found.sum()),
            "rows": len(rows.label),
            "people": len(np.unique(rows.person)),
        }
        for name, rows in parts.items()
    }
    return {"slot": slot.name, "target": target, "source": material.why, "parts": told}


def _enough(data: Dataset, target: str, least: int, where: str) -> None:
    count = len(np.unique(data.request[data.labels[target]])) if target in data.labels else 0
    if count < least:
        raise NotReadyError(
            f"{where}: {target} happened in {count}, and at least {least} are needed to tell "
            "a signal from chance",
            fix="rank on a longer --window, on another --target, or when more answers have an "
            "outcome",
        )
