"""One day of the hourly protocol on Globo.com's clicks: what each model lists for each session. Told in `next_click`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from tailorbird.events import DAY, HOUR, MINUTE
from tailorbird.models.baselines import Interactions
from tailorbird.models.gbdt import Gbdt, GbdtSettings, Sample, fit_gbdt
from tailorbird.models.retrievers import STAN, Contexts, Popular, Top, VSkNN, WhatGoesWith
from tailorbird.models.retrievers.crowd import Crowd
from tailorbird.models.retrievers.neighbours import Neighbours
from tailorbird.models.retrievers.pairs import pool, scores_of
from tailorbird.models.retrievers.sessions import Sequences

Ints = npt.NDArray[np.int64]

FIGURES = ("ndcg_20", "hr_20")
BY_SEED = "tree_seed_"
CLICKS_MAX = 20
K = 20
DAYS_TUNED = 4
LEARNED_DAYS = 2
LEARNED_AN_HOUR = 100
V_SKNN = VSkNN(k=800, sample=500, weighting="quadratic", weighting_score="quadratic")
S_TAN = STAN(k=500, sample=500, position=0.6725, recency_us=100.0 * DAY, closeness=0.6725)
OTHERS = {
    "clicks_1h": Popular(HOUR),
    "cooccurrence": WhatGoesWith(memory_us=DAY),
    "clicks_15m": Popular(15 * MINUTE),
    "goes_on": WhatGoesWith(memory_us=6 * HOUR, backward=False),
}
TAKE = {"stan": 60, "vsknn": 60, "cooccurrence": 40, "goes_on": 30, "clicks_1h": 80, "clicks_15m": 40}
SCORED = ("stan", "vsknn", "cooccurrence", "goes_on")
TOLD = ("stan", "vsknn", "cooccurrence", "clicks_1h")
SEGMENTS = {"device_group": HOUR, "region": 6 * HOUR, "referrer_type": 3 * HOUR}
TREES = GbdtSettings(objective="lambdarank", trees=100, patience=0, leaves=15, leaf_rows=100, rate=0.08, l2=5.0, columns=0.6, rows=0.8)


@dataclass(frozen=True)
class Log:
    """Clicks ordered by (session, ts), and the sessions that they make.

    Attributes:
        session, item, ts, user: shape (clicks,); segments: name → codes.
        first, length: shape (sessions,): a session's first click, and how many it has.
        hour: shape (sessions,): of its first click, from the beginning of the log.
        by_time: the clicks in order of time.
        asked_every: sessions of every so many readers are asked about; models learn from all.
    """

    session: Ints
    item: Ints
    ts: Ints
    user: Ints
    segments: dict[str, Ints]
    first: Ints
    length: Ints
    hour: Ints
    by_time: Ints
    items: int
    begin: int
    asked_every: int

    @property
    def hours(self) -> int:
        return int(self.hour.max()) + 1


def read_log(data: Path, *, every: int = 1, asked_every: int = 1) -> Log:
    """The clicks of every `every`-th reader."""
    table = pq.read_table(data / "clicks.parquet", columns=["session_id", "article_id", "user_id", "ts", *SEGMENTS])
    column = {name: table[name].cast("int64").to_numpy() for name in table.column_names}
    kept = np.flatnonzero(column["user_id"] % every == 0)
    order = kept[np.lexsort((column["ts"][kept], column["session_id"][kept]))]
    begin = int(column["ts"].min())
    column = {name: values[order] for name, values in column.items()}
    session = np.cumsum(np.concatenate(([0], np.diff(column["session_id"]) != 0)))
    size = np.bincount(session)
    within = np.arange(len(session)) - np.repeat(np.cumsum(size) - size, size)
    kept = np.flatnonzero((within < CLICKS_MAX) & (size[session] >= 2))
    session = np.unique(session[kept], return_inverse=True)[1]
    column = {name: values[kept] for name, values in column.items()}
    names, item = np.unique(column["article_id"], return_inverse=True)
    length = np.bincount(session)
    first = np.cumsum(length) - length
    ts = column["ts"]
    return Log(
        session, item.astype(np.int64), ts, column["user_id"], {name: column[name] for name in SEGMENTS},
        first, length, (ts[first] - begin) // HOUR, np.argsort(ts, kind="stable"), len(names), begin, asked_every,
    )  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """The sessions of one hour as questions.

    Attributes:
        at: which sessions; contexts: all clicks but the last; truth: the last.
        segment: name → codes, of the session's first click.
    """

    at: Ints
    contexts: Contexts
    truth: Ints
    segment: dict[str, Ints]


def asked(log: Log, hour: int) -> Asked:
    """What is asked of one hour."""
    at = np.flatnonzero((log.hour == hour) & (log.user[log.first] % log.asked_every == 0))
    segment = {name: codes[log.first[at]] for name, codes in log.segments.items()}
    return Asked(at, contexts_of(log, at), log.item[log.first[at] + log.length[at] - 1], segment)


def contexts_of(log: Log, at: Ints) -> Contexts:
    """All clicks but the last of some sessions."""
    size = log.length[at] - 1
    offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
    rows = np.arange(offsets[-1]) + np.repeat(log.first[at] - offsets[:-1], size)
    return Contexts(log.ts[log.first[at] + size - 1], log.item[rows], log.ts[rows], offsets)


def run_day(
    log: Log, day: int, folder: Path, *, threads: int, judge: bool = True, seeds: Sequence[int] = (TREES.seed,)
) -> dict[str, npt.NDArray]:
    """Figures of each session of one day, and rows to learn from, which go into the folder; without `judge`, only these.

    Ours are means over the trees of all seeds; of several, `tree_seed_SEED` is the NDCG@20 of each.
    """
    models = {seed: _learned(folder, day, threads, seed) for seed in seeds} if judge else {}
    crowd = _crowd(log)
    found: dict[str, list[npt.NDArray]] = {}
    learned: dict[str, list[npt.NDArray]] = {"matrix": [], "label": [], "lengths": []}
    columns: list[str] = []
    for hour in range(24 * day, 24 * day + 24):
        questions = asked(log, hour)
        if not len(questions.at):
            continue
        t = log.begin + hour * HOUR
        tops = _tops(log, t, questions.contexts)
        pairs = pool(tops, TAKE, log.items)
        made = {name: column for each in SCORED for name, column in scores_of(each, tops[each], pairs).items()}
        made |= crowd.columns(t, questions.contexts, questions.segment, pairs)
        columns, matrix = list(made), np.stack(list(made.values()), axis=1)
        truth = pairs.item == questions.truth[pairs.question]
        reached = np.bincount(pairs.question, truth, minlength=len(questions.at)) > 0
        if judge:
            ours = {
                seed: judged(pairs.best(model.score(matrix), K) if model else tops["stan"], questions.truth)
                for seed, model in models.items()
            }
            row = {"hour": np.full(len(questions.at), hour), "user": log.user[log.first[questions.at]], "found": reached}
            for name in TOLD:
                row |= {f"{name}_{figure}": value for figure, value in judged(tops[name], questions.truth).items()}
            row |= {f"tailorbird_{figure}": np.mean([each[figure] for each in ours.values()], axis=0) for figure in FIGURES}
            row |= {f"{BY_SEED}{seed}": each[FIGURES[0]] for seed, each in ours.items()} if len(seeds) > 1 else {}
            for name, value in row.items():
                found.setdefault(name, []).append(value)
        chosen = _to_learn(log, questions, day, hour, reached)
        rows = np.isin(pairs.question, chosen)
        for name, value in (("matrix", matrix[rows]), ("label", truth[rows]), ("lengths", np.diff(pairs.offsets)[chosen])):
            learned[name].append(value)
    whole = {name: np.concatenate(values) for name, values in learned.items()}
    with (folder / f"rows-{day:02}.{os.getpid()}").open("wb") as file:
        np.savez(file, columns=np.array(columns), **whole)  # type: ignore[arg-type]  # no array is called as an argument is
    Path(file.name).rename(folder / f"rows-{day:02}.npz")
    return {name: np.concatenate(values) for name, values in found.items()}


def _to_learn(log: Log, questions: Asked, day: int, hour: int, reached: npt.NDArray[np.bool_]) -> Ints:
    """Some questions whose truth a source found, and whose session is over before the next day begins."""
    last = log.first[questions.at] + log.length[questions.at] - 1
    chosen = np.flatnonzero(reached & (log.ts[last] < log.begin + (24 * day + 24) * HOUR))
    if len(chosen) <= LEARNED_AN_HOUR:
        return chosen
    return np.sort(np.random.default_rng(hour).choice(chosen, LEARNED_AN_HOUR, replace=False))


def judged(top: Top, truth: Ints) -> dict[str, npt.NDArray]:
    """NDCG@20 and HR@20 of each question, which has one truth."""
    hit = top.item[:, :K] == truth[:, None]
    return {FIGURES[0]: (hit / np.log2(np.arange(K) + 2)).sum(axis=1).astype(np.float32), FIGURES[1]: hit.any(axis=1).astype(np.float32)}


def _tops(log: Log, t: int, contexts: Contexts) -> dict[str, Top]:
    """What each source lists, knowing the clicks before t."""
    rows = np.flatnonzero(log.ts < t)  # in the order of sessions, which is what sorting them again is quickest with
    seen = Interactions(log.session[rows], log.item[rows], log.ts[rows], len(log.first), log.items)
    sequences = Sequences.of(seen)
    tops = {name: Neighbours(recipe, sequences).top(contexts, TAKE[name]) for name, recipe in (("stan", S_TAN), ("vsknn", V_SKNN))}
    lately = seen.before(t, t - DAY)
    return tops | {name: recipe.fit(lately, t).top(contexts, TAKE[name]) for name, recipe in OTHERS.items()}


def _crowd(log: Log) -> Crowd:
    opening = np.zeros(len(log.item), bool)
    opening[log.first] = True
    order = log.by_time
    segments = {name: codes[order] for name, codes in log.segments.items()}
    return Crowd(log.item[order], log.ts[order], opening[order], segments, log.items, SEGMENTS)


def days_learned_from(day: int) -> range:
    """The days whose rows a day's trees are grown on."""
    return range(max(day - LEARNED_DAYS, 0), day)


def _learned(folder: Path, day: int, threads: int, seed: int) -> Gbdt | None:
    """Trees on the rows of the days before; None where there are none."""
    files = [folder / f"rows-{before:02}.npz" for before in days_learned_from(day) if (folder / f"rows-{before:02}.npz").exists()]
    if not files:
        return None
    parts = [dict(np.load(file)) for file in files]
    matrix, label, lengths = (np.concatenate([part[name] for part in parts]) for name in ("matrix", "label", "lengths"))
    names = parts[0]["columns"].tolist()
    nothing = Sample(np.zeros((0, len(names)), np.float32), np.zeros(0), np.zeros(0, np.int64))
    return fit_gbdt(Sample(matrix, label, lengths), nothing, names, replace(TREES, threads=threads, seed=seed))
