"""Going on from yesterday's weights against training from scratch, over the days of Globo.com's clicks.

python -m benchmarks.quality.incremental [--data PATH] [--days 8] [--seeds 3] [--small] [--keep FOLDER] [--json]

Each midnight two nets are made of the same rows: one from scratch on the days before, one by what `tailorbird train --incremental` does
(`training.incremental`): yesterday's weights, rows for new ids, the rows since then and as many before. Both rank the next day's clicks.
With `--keep`, each training that is done stays done.
"""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality.hourly import Log, read_log
from benchmarks.quality.running import environment, folder_or_skip, options
from tailorbird.events import DAY, HOUR
from tailorbird.models.architectures import fit_net
from tailorbird.models.deep.batches import Rows
from tailorbird.models.deep.layout import History, Layout
from tailorbird.models.retrievers import Contexts
from tailorbird.models.retrievers.crowd import Crowd
from tailorbird.models.retrievers.pairs import Pairs
from tailorbird.training.bootstrap import Bootstrap, Interval
from tailorbird.training.incremental import begun, keep
from tailorbird.training.resuming import kept_arrays
from tailorbird.training.settings import TrainSettings

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray]

WAYS = ("scratch", "incremental")
ARCHITECTURE, HEAD = "dcn", "click"
WINDOW, FIRST = 5, 3  # days learned from; the first day that is judged
LEARNED, JUDGED = 1_600, 1_000  # clicks of a day
CANDIDATES, NEGATIVES, LENGTH, K = 100, 10, 10, 20
COUNT_MIN = 5
DAYS, SEEDS = 8, 3
WINDOWS = (HOUR, 3 * HOUR, 6 * HOUR, 24 * HOUR)


def main() -> None:
    """The command line."""
    parser = options(
        "incremental",
        __doc__.partition("\n")[0],
        small="the first five days, few clicks, one epoch",
        keep="keep what is done in this folder, and go on from there",
    )
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--days", type=int, default=DAYS, help="the first so many of the log, which has 14")
    given = parser.parse_args()
    data = folder_or_skip("globo-clicks", given.data)
    with tempfile.TemporaryDirectory(prefix="tailorbird-incremental-") as scratch:
        root = given.keep or Path(scratch)
        root.mkdir(parents=True, exist_ok=True)
        days = min(5, given.days) if given.small else given.days
        result = run(data, root, days_max=days, seeds=1 if given.small else given.seeds, small=given.small)
    print(json.dumps(result, indent=1) if given.json else told(result))


def run(data: Path, root: Path, *, days_max: int, seeds: int, small: bool) -> dict[str, Any]:
    """Every day, both ways."""
    share = 10 if small else 1
    log = read_log(data, every=8 if small else 1)
    days = min(days_max, log.hours // 24)
    drawn = partial(rows_of, log, learned=LEARNED // share, judged=JUDGED // share)
    rows: list[Arrays] = [kept_arrays(root, f"rows {day} {small}", partial(drawn, day)) for day in range(days)]
    parameters = {"threads": 1, **({"epochs": 2} if small else {})}
    said: dict[str, list[list[Arrays]]] = {way: [] for way in WAYS}
    for seed in range(seeds):
        for way in WAYS:
            found: list[Arrays] = []
            for day in range(FIRST, days):
                warm = root / f"warm-{small}-{seed}-{way}"
                make = partial(trained, rows, day, way, warm, parameters, log.begin, seed)
                found.append(kept_arrays(root, f"{way} {day} {seed} {small}", make))
            said[way].append(found)
    judged = _judged(rows, said, seeds, share)
    return {"benchmark": "incremental", "small": small, "command": command(days_max, seeds), **judged, "environment": environment()}


def command(days: int, seeds: int) -> str:
    """What to type for the same figures."""
    return f"python -m benchmarks.quality.incremental --days {days} --seeds {seeds}"


def rows_of(log: Log, day: int, learned: int, judged: int) -> Arrays:
    """Clicks of a day that follow another of their session, each with the articles of the hour as candidates.

    Returns: by part (`learn`, `judge`) `numbers` (pairs, columns), `item`, `truth` and `question` (pairs,), `recent` (questions, LENGTH),
    newest first, −1 where there is none, `t` and `user` (questions,).
    """
    place = np.arange(len(log.session)) - np.repeat(log.first, log.length)
    day_of = (log.ts - log.begin) // DAY
    at = np.flatnonzero((day_of == day) & (place > 0))
    rng = np.random.default_rng(day)
    at = rng.permutation(at)[: learned + judged]
    crowd = Crowd(
        log.item[log.by_time], log.ts[log.by_time], (place == 0)[log.by_time],
        {name: codes[log.by_time] for name, codes in log.segments.items()}, log.items, {"device_group": HOUR}, WINDOWS,
    )  # fmt: skip
    found: dict[str, list[npt.NDArray]] = {}
    parts = {"learn": np.sort(at[:learned]), "judge": np.sort(at[learned:])}
    for part, chosen in parts.items():
        chosen = chosen[np.argsort(log.ts[chosen], kind="stable")]
        questions = 0
        for hour in np.unique((log.ts[chosen] - log.begin) // HOUR).tolist():
            here = chosen[(log.ts[chosen] - log.begin) // HOUR == hour]
            told = _hour(log, crowd, here, place[here], hour, rng if part == "learn" else None)
            told["question"] = told["question"] + questions
            questions += len(here)
            for name, column in told.items():
                found.setdefault(f"{part} {name}", []).append(column)
    return {name: np.concatenate(columns) for name, columns in found.items()}


def _hour(log: Log, crowd: Crowd, at: Ints, place: Ints, hour: int, rng: np.random.Generator | None) -> dict[str, npt.NDArray]:
    """The pairs of an hour's clicks; with `rng` only some that were not clicked."""
    t = log.begin + hour * HOUR
    low, high = np.searchsorted(crowd.ts, (t - 3 * HOUR, t))
    count = np.bincount(crowd.item[low:high], minlength=log.items)
    top = np.argsort(-count, kind="stable")[:CANDIDATES]
    top = np.sort(top[count[top] > 0])
    back = place[:, None] - 1 - np.arange(LENGTH)
    recent = np.where(back >= 0, log.item[np.maximum(at[:, None] - 1 - np.arange(LENGTH), 0)], -1)
    question, item = np.repeat(np.arange(len(at)), len(top)), np.tile(top, len(at))
    truth = item == log.item[at][question]
    kept = ~(recent[question] == item[:, None]).any(axis=1)
    if rng is not None:
        reached = np.bincount(question, truth, minlength=len(at)) > 0
        kept &= (truth | (rng.random(len(item)) < NEGATIVES / max(len(top), 1))) & reached[question]
    question, item, truth = question[kept], item[kept], truth[kept]
    sizes = np.minimum(place, LENGTH)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    rows = np.arange(offsets[-1]) + np.repeat(at - sizes - offsets[:-1], sizes)
    contexts = Contexts(log.ts[at], log.item[rows], log.ts[rows], offsets)
    device = {"device_group": log.segments["device_group"][at]}
    columns = crowd.columns(t, contexts, device, Pairs(question, item, len(at), log.items))
    columns.pop("minutes")
    numbers = np.stack(list(columns.values()), axis=1).astype(np.float32)
    return {
        "numbers": numbers,
        "item": item,
        "truth": truth,
        "question": question,
        "recent": recent,
        "t": log.ts[at],
        "user": log.user[at],
    }  # fmt: skip


@dataclass(frozen=True)
class Coded:
    """Articles that are frequent in the days learned from: those have a code."""

    known: Ints

    def code(self, item: Ints) -> Ints:
        at = np.minimum(np.searchsorted(self.known, item), len(self.known) - 1)
        return np.where(item < 0, 0, np.where(self.known[at] == item, at + 2, 1))

    def layout(self, numbers: int) -> Layout:
        names = [f"number_{n}" for n in range(numbers)] + ["item_code"]
        names += [f"recent_{n}" for n in range(LENGTH)] + [f"gap_{n}" for n in range(LENGTH)]
        first = numbers + 1
        past = History(
            numbers, tuple(range(first, first + LENGTH)), tuple(range(first + LENGTH, first + 2 * LENGTH)), len(self.known) + 2
        )  # fmt: skip
        return Layout(tuple(names), tuple(range(numbers)), {}, history=past)

    def matrix(self, rows: Arrays, part: str) -> npt.NDArray[np.float32]:
        """Columns of pairs; gaps stay empty: the publishers made up the time before a session's last click."""
        question = rows[f"{part} question"]
        recent = self.code(rows[f"{part} recent"])[question]
        codes = (self.code(rows[f"{part} item"])[:, None], recent, np.full(recent.shape, np.nan))
        return np.concatenate((rows[f"{part} numbers"], *codes), axis=1).astype(np.float32)


def trained(
    rows: list[Arrays], day: int, way: str, warm: Path, parameters: dict[str, Any], begin: int, seed: int
) -> dict[str, npt.NDArray]:  # fmt: skip
    """A net as of the midnight before `day`, what it says of that day's pairs, and what it cost."""
    until = begin + day * DAY
    learned = rows[max(0, day - WINDOW) : day]
    items, counts = np.unique(np.concatenate([each["learn item"] for each in learned]), return_counts=True)
    coded = Coded(items[counts >= COUNT_MIN])
    layout = coded.layout(learned[0]["learn numbers"].shape[1])
    folder, before = warm / f"{day:02}", warm / f"{day - 1:02}"
    rmtree(folder, ignore_errors=True)
    if way == "incremental" and before.exists():
        copytree(before, folder)
    settings = TrainSettings(architecture=ARCHITECTURE, incremental=way == "incremental", warm=folder)
    keys = {layout.history.candidate: coded.known.astype(np.uint64)} if layout.history else {}
    began = time.process_time()
    start = begun(ARCHITECTURE, dict(parameters), layout, keys, (HEAD,), until, settings)
    matrix = np.concatenate([coded.matrix(each, "learn") for each in learned])
    t = np.concatenate([each["learn t"][each["learn question"]] for each in learned])
    truth = np.concatenate([each["learn truth"] for each in learned]).astype(np.float32)
    newer = t >= (0 if start.since is None else start.since)
    train, watched = Rows(np.ascontiguousarray(matrix[newer]), {HEAD: truth[newer]}).cut(0.1)
    net = fit_net(ARCHITECTURE, start.parameters, start.layout, train, watched, seed=seed, begin=start.weights)
    spent = time.process_time() - began
    keep(net.deep, keys, until, settings)
    said = net.score(coded.matrix(rows[day], "judge"))[HEAD]
    warmed = start.weights is not None
    return {"said": said, "seconds": np.array(spent), "rows": np.array(len(train)), "warm": np.array(warmed)}


def _ndcg(rows: Arrays, said: Floats) -> Floats:
    """NDCG@20 of each click: one truth, 0 where the hour's articles do not hold it."""
    question, truth = rows["judge question"], rows["judge truth"]
    order = np.lexsort((-said, question))
    first = np.searchsorted(question[order], question[order])
    nth = np.arange(len(order)) - first
    gain = np.where(truth[order] & (nth < K), 1 / np.log2(nth + 2), 0.0)
    return np.bincount(question[order], gain, minlength=len(rows["judge t"])).astype(np.float64, copy=False)


def _judged(rows: list[Arrays], said: dict[str, list[list[Arrays]]], seeds: int, share: int) -> dict[str, Any]:
    """By day and in all."""
    judged = rows[FIRST:]
    values = {
        way: [np.mean([_ndcg(part, found[way_day]["said"]) for found in each], axis=0) for way_day, part in enumerate(judged)]
        for way, each in said.items()
    }
    values["popular_3h"] = [_ndcg(part, part["judge numbers"][:, 1].astype(np.float64)) for part in judged]
    user = [part["judge user"] for part in judged]
    spent = {way: np.array([[float(day["seconds"]) for day in found] for found in each]) for way, each in said.items()}
    by_day = []
    for number in range(len(judged)):
        one = {way: round(float(values[way][number].mean()), 6) for way in values}
        ours = _told(_bootstrap(user[number]).difference(values["incremental"][number], values["scratch"][number]))
        cost = {f"seconds_{way}": round(float(spent[way][:, number].mean()), 2) for way in WAYS}
        warm = bool(said["incremental"][0][number]["warm"])
        by_day.append({"day": FIRST + number, **one, "difference": ours, **cost, "warm": warm})
    later = [number for number, one in enumerate(by_day) if one["warm"]]
    joined = {way: np.concatenate([each[number] for number in later]) for way, each in values.items()}
    bootstrap = _bootstrap(np.concatenate([user[number] for number in later]))
    ratio = bootstrap.ratio(joined["incremental"], joined["scratch"])
    total = {way: float(spent[way][:, later].sum()) for way in WAYS}
    return {
        "title": "Globo.com news, day by day: going on from yesterday's weights against training from scratch",
        "protocol": [
            f"{len(later)} midnights; before each a DCN-v2 with attention (defaults) learns from the {WINDOW} days before, "
            f"{LEARNED // share:,} clicks a day drawn evenly, {NEGATIVES} of the hour's articles against each; the incremental one from "
            "the rows since the last training and as many before, two epochs at most, by `training.incremental`, which "
            "`tailorbird train --incremental` calls",
            f"judged on {JUDGED // share:,} clicks of the next day that follow another of their session: NDCG@{K} among the {CANDIDATES} "
            "articles most clicked in the three hours before the hour; an article outside them is a miss for all",
            "columns: shares, trends and ages of articles as of the hour's beginning, ids of the article and of the session's last "
            f"{LENGTH}; no time between clicks, since the publishers made up the last one",
            f"{seeds} seed(s); intervals resample readers; seconds are of the processor",
        ],
        "days": by_day,
        "results": {way: _flat(bootstrap.mean(each)) for way, each in joined.items()},
        "difference": _told(bootstrap.difference(joined["incremental"], joined["scratch"])),
        "quality_ratio": _told(ratio),
        "time_ratio": round(total["incremental"] / total["scratch"], 4),
        "seconds": {way: round(value, 1) for way, value in total.items()},
    }  # fmt: skip


def _bootstrap(user: npt.NDArray) -> Bootstrap:
    return Bootstrap(np.unique(user, return_inverse=True)[1].astype(np.int64))


def _told(interval: Interval) -> list[float]:
    return [round(float(each), 6) for each in (interval.value, interval.low, interval.high)]


def _flat(interval: Interval) -> dict[str, float]:
    return dict(zip(("ndcg_20", "ndcg_20_low", "ndcg_20_high"), _told(interval), strict=True))


def told(result: Mapping[str, Any]) -> str:
    """For people."""
    lines = [result["title"], *result["protocol"]]
    for one in result["days"]:
        lines.append("  ".join(f"{name} {value}" for name, value in one.items()))
    quality = "{:.4f} ({:.4f} to {:.4f})".format(*result["quality_ratio"])
    lines.append(f"incremental ÷ scratch: NDCG@{K} {quality}, processor time {result['time_ratio']:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
