"""A bundle asked for the last click of each session, as a server would be: its candidates, features as of the moment, its model."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality.hourly import K, Log, judged
from tailorbird.cli.train import settings_for
from tailorbird.config import open_project
from tailorbird.events import HOUR
from tailorbird.features.backfill import History
from tailorbird.lake import Lake
from tailorbird.models.retrievers.pairs import Pairs
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.slot import Slot
from tailorbird.retrieval import Index, candidates
from tailorbird.training.clicks import Scheme
from tailorbird.training.dataset import Dataset
from tailorbird.training.indexes import IndexSeries, build_series
from tailorbird.training.matrix import encoded, featured_from
from tailorbird.training.rows import Material, Wanted, load_material

LENGTH = 32  # of the declared sequence
WAYS = ("tailorbird", "bundle_all_day")


@dataclass(frozen=True)
class Asking:
    """What it took to ask: the share of questions whose truth was a candidate, candidates a question, and µs of finding them."""

    found: float
    values: Mapping[str, float]

    @classmethod
    def of(cls, parts: Sequence[dict[str, Any]]) -> "Asking":
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name.startswith("asking_")}
        values = {}
        for way in WAYS:
            held, count, us = (whole[f"asking_{way}_{what}"] for what in ("held", "count", "us"))
            values |= {f"{way}_held": float(held.mean()), f"{way}_candidates": float(count.mean()), f"{way}_us": float(np.median(us))}
        return cls(values["tailorbird_held"], values)

    def plain(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in self.values.items()}


def judge_day(root: Path, version: str, log: Log, at: npt.NDArray) -> dict[str, npt.NDArray]:
    """Figures of each of some sessions, which begin within a day, by a bundle and by indexes as of the hours that they begin in."""
    project = open_project(root)
    settings = settings_for(project, window="", rows="clicks", leave_out="", quick=True)
    slot, features = project.slots[project.settings.train.slot], project.features
    bundle = Bundle.load(project.paths.registry / version, schema_hash=features.schema_hash)
    end = int(log.ts.max()) + 1
    wanted = Wanted(log.begin + int(log.hour[at].min()) * HOUR, end, 0, "clicks", Scheme(type="click"))
    material = load_material(Lake(project.paths.lake), features, slot, wanted)
    past = History(features, material.events)
    own = IndexSeries(np.array([bundle.index.as_of], np.int64), (bundle.index,))
    request = _requests(material, log, at)
    found: dict[str, npt.NDArray] = {}
    for hour in np.unique(log.hour[at]).tolist():
        here = np.flatnonzero(log.hour[at] == hour)
        asked = material.data.take(request[here])
        fresh = build_series(material.events, material.items, [log.begin + hour * HOUR], settings.index)
        for way, series in zip(WAYS, (fresh, own), strict=True):
            for name, value in _ask(material, past, slot, bundle, series, asked).items():
                found.setdefault(name.format(way), np.zeros(len(at), value.dtype))[here] = value
    return found


def _requests(material: Material, log: Log, at: npt.NDArray) -> npt.NDArray:
    """The request before the last click of each session, by reader and time."""
    data, last = material.data, log.first[at] + log.length[at] - 1
    code = {int(name): place for place, name in enumerate(material.people.values.to_pylist())}
    known = {(person, t): place for place, (person, t) in enumerate(zip(data.person.tolist(), data.t.tolist(), strict=True))}
    readers = log.user[log.first[at]].tolist()
    return np.array([known[code[reader], t] for reader, t in zip(readers, log.ts[last].tolist(), strict=True)], np.int64)


def _ask(
    material: Material, past: History, slot: Slot, bundle: Bundle, series: IndexSeries, asked: Dataset
) -> dict[str, npt.NDArray]:  # fmt: skip
    """Figures of each question; in their names `{}` is the way."""
    truth, index = asked.item, series.indexes[0]
    listed, us = _candidates(material, slot.sources, index, asked)
    size = np.array([len(each) for each in listed])
    item = np.concatenate(listed)
    question = np.repeat(np.arange(asked.requests), size)
    rows = len(item)
    held = item == truth[question]
    data = replace(
        asked, offsets=np.concatenate(([0], np.cumsum(size))).astype(np.int64), item=item, position=np.zeros(rows, np.int32),
        propensity=np.ones(rows), labels={"click": held}, weight=np.ones(rows),
    )  # fmt: skip
    value = np.concatenate([_scored(piece, bundle, series, slot) for piece in featured_from(past, data)])
    top = Pairs(question, item, asked.requests, len(material.codes)).best(value, K)
    told = {f"{{}}_{figure}": each for figure, each in judged(top, truth).items()}
    found = np.bincount(question, held, minlength=asked.requests)
    return told | {"asking_{}_held": found, "asking_{}_count": size, "asking_{}_us": us}


def _candidates(material: Material, sources: Mapping[str, int], index: Index, asked: Dataset) -> tuple[list[npt.NDArray], npt.NDArray]:
    """Codes of the candidates of each question, ascending, and how long each took."""
    codes = material.codes
    past, ts, offsets = material.history.recent_with_times(asked.person, asked.t, LENGTH)
    code = codes.encode(_ids(index))
    listed, us = [], np.zeros(asked.requests)
    for question in range(asked.requests):
        here = slice(offsets[question], offsets[question + 1])
        keys = codes.keys[past[here]]
        begun = time.perf_counter()
        rows = candidates(index, sources, recent=keys, recent_ts=ts[here]).rows
        us[question] = (time.perf_counter() - begun) * 1e6
        listed.append(np.setdiff1d(code[rows], past[here]))
    return listed, us


def _ids(index: Index) -> Any:
    import pyarrow as pa

    return pa.array(index.ids, pa.string())


def _scored(piece: Any, bundle: Bundle, series: IndexSeries, slot: Slot) -> npt.NDArray:
    return bundle.score_matrix(encoded(piece, bundle.encoder, series), objective=slot.objective).value
