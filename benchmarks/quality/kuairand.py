"""Several targets at once on KuaiRand's feedback: trees and nets for each task apart, and nets for
all tasks together.

python -m benchmarks.quality.kuairand [--data PATH] [--small] [--json] [--seeds 3] [--keep FOLDER]
[--choose]

Ids are few and views of each too, so nets learn people by heart: how many codes of a training row
are taken as unknown was chosen for each by `--choose`, which looks at nothing behind the validation
part.

Rows are built here, in columns, and not through the lake: the set has views, and none of the site's
answers. Every count is of what the person, or the video, did strictly before the row's time.
"""

import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks.quality.running import environment, folder_or_skip, options
from tailorbird.models.architectures import fit, is_available
from tailorbird.models.deep.batches import Rows
from tailorbird.models.deep.layout import History, Layout
from tailorbird.training.bootstrap import Bootstrap, Interval
from tailorbird.training.metrics import auc, auc_influence, log_losses
from tailorbird.training.resuming import load_or_make_arrays

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TASKS = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "like_not_hate",
    "profile": "is_profile_enter",
    "comment": "is_comment",
}
MODELS = {  # name → architecture
    "lightgbm": "gbdt",
    "mlp": "mlp",
    "single": "dcn",
    "shared": "shared",
    "mmoe": "mmoe",
}
OURS, ALONE = "mmoe", "single"
UNKNOWN = {"single": 0.5, "shared": 0.5, "mmoe": 0.5}  # `unknown_share` of each net, by `--choose`
SHARES = (0.02, 0.3, 0.5)  # of these
VALIDATION, TEST = 0.1, 0.2  # shares of the rows, by time
LENGTH, COUNT_MIN = 20, 5
HOUR_US = 3_600_000_000
SMOOTHING = 10.0


def main() -> None:
    parser = options(
        "kuairand",
        __doc__.partition("\n")[0],
        small="the first 8,000 rows, one seed, two epochs: within a minute",
        keep="keep what each fit said here, so that a run that was cut short goes on",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--choose",
        action="store_true",
        help="print the validation log loss of each net by unknown_share, and nothing else",
    )
    given = parser.parse_args()
    data = folder_or_skip("kuairand-feedback", given.data)
    if given.choose:
        print(json.dumps(choose(data, seeds=given.seeds), indent=1))
        return
    with tempfile.TemporaryDirectory(prefix="tailorbird-kuairand-") as scratch:
        keep = given.keep or Path(scratch)
        keep.mkdir(parents=True, exist_ok=True)
        result = run(data, keep, small=given.small, seeds=1 if given.small else given.seeds)
    print(json.dumps(result, indent=1) if given.json else told(result))


def run(folder: Path, keep: Path, *, small: bool, seeds: int) -> dict[str, Any]:
    """Fit every model with every seed, and judge them on the last part of the time."""
    columns = read(folder)
    if small:
        columns = {name: column[:8_000] for name, column in columns.items()}
    rows = len(columns["ts"])
    cut, end = round(rows * (1 - VALIDATION - TEST)), round(rows * (1 - TEST))
    matrix, of_columns = features(columns, cut)
    labels = {task: columns[column].astype(np.float32) for task, column in TASKS.items()}
    train, held, test = (
        part(matrix, labels, span) for span in (slice(cut), slice(cut, end), slice(end, None))
    )
    _, person = np.unique(columns["user_id"][end:], return_inverse=True)
    said: dict[str, list[dict[str, Floats]]] = {}
    seconds: dict[str, float] = {}
    curves: dict[str, dict[str, list[float]]] = {}
    wanted = [
        (seed, name)
        for seed in range(seeds)
        for name, architecture in MODELS.items()
        if is_available(architecture)
    ]
    for seed, name in wanted:
        architecture = MODELS[name]
        parameters = parameters_of(name) | (
            {"epochs": 2} if small and architecture != "gbdt" else {}
        )
        found = load_or_make_arrays(
            keep,
            f"{name} {seed} {small}",
            partial(fitted, architecture, parameters, of_columns, train, held, test, seed),
        )
        said.setdefault(name, []).append({task: found[f"said {task}"] for task in TASKS})
        seconds[name] = seconds.get(name, 0.0) + float(found["seconds"]) / seeds
        if architecture != "gbdt" and not seed:
            of_curve = {
                key.removeprefix("curve "): each
                for key, each in found.items()
                if key.startswith("curve ")
            }
            curves[name] = {
                figure: [round(value, 5) for value in series.tolist()]
                for figure, series in of_curve.items()
            }
    results, differences = judged(said, test, person)
    return {
        "benchmark": "kuairand",
        "kind": "tasks",
        "title": f"KuaiRand's explicit feedback: {len(TASKS)} targets of {rows:,} views by "
        f"{len(np.unique(columns['user_id'])):,} people",
        "small": small,
        "protocol": [
            f"learned from the first {cut:,} views by time, stopped by the next "
            f"{end - cut:,}, judged on the last {rows - end:,}; "
            f"exact repeats taken out; {seeds} seed(s), figures are means over seeds, "
            "intervals from resampling people",
            "columns: ids of person and video, the duration, the hour, smoothed rates of "
            "each target of person and video so far, and the "
            f"person's last {LENGTH} videos (nets alone); what is known only afterwards "
            "(play time, comments read) is no column",
            "the set holds only views that were liked or hated, so its rates say nothing "
            "about all traffic; settings are the defaults of "
            "each architecture, but for `unknown_share` of the nets over ids ("
            + ", ".join(f"{name} {share:g}" for name, share in UNKNOWN.items())
            + "), chosen on the validation part by `--choose`; none was tuned on the test part",
            "`lightgbm`, `mlp` and `single` (DCN-v2 with attention) have a model for each "
            "task; `shared` and `mmoe` one for all",
        ],
        "tasks": {
            task: {"rows": len(test), "positives": int(test.labels[task].sum())} for task in TASKS
        },
        "results": results,
        "differences": differences,
        "curves": curves,
        "seconds": {name: round(each, 1) for name, each in seconds.items()},
        "environment": environment(),
    }


def read(folder: Path) -> dict[str, Ints]:
    """The columns of the set."""
    table = pq.read_table(folder / "interactions.parquet")
    return once({name: table[name].cast("int64").to_numpy() for name in table.column_names})


def parameters_of(name: str) -> dict[str, Any]:
    """What a model is fitted with, beside its defaults."""
    return {"threads": 1, **({"unknown_share": UNKNOWN[name]} if name in UNKNOWN else {})}


def choose(folder: Path, *, seeds: int) -> dict[str, dict[str, float]]:
    """Log loss on the validation part, mean over targets and seeds, of each net by `unknown_share`.

    The net learns from all before but the last seventh, which stops it: so the validation part lies
    behind what stopped it, as the test part does. Nothing of the test part is looked at.
    """
    columns = read(folder)
    rows = len(columns["ts"])
    end = round(rows * (1 - TEST))
    columns = {name: column[:end] for name, column in columns.items()}
    learned, stopped = (
        round(rows * (1 - TEST - 2 * VALIDATION)),
        round(rows * (1 - TEST - VALIDATION)),
    )
    matrix, of_columns = features(columns, learned)
    labels = {task: columns[column].astype(np.float32) for task, column in TASKS.items()}
    train, held, judge = (
        part(matrix, labels, span)
        for span in (slice(learned), slice(learned, stopped), slice(stopped, end))
    )
    found: dict[str, dict[str, float]] = {}
    for name in UNKNOWN:
        for share in SHARES:
            losses = []
            for seed in range(seeds):
                model = fit(
                    MODELS[name],
                    {"threads": 1, "unknown_share": share},
                    of_columns,
                    train,
                    held,
                    seed=seed,
                )
                said = model.score(judge.matrix)
                losses += [
                    float(log_losses(said[task], label).mean())
                    for task, label in judge.labels.items()
                ]
            found.setdefault(name, {})[f"{share:g}"] = round(float(np.mean(losses)), 5)
    return found


def fitted(
    architecture: str,
    parameters: dict[str, Any],
    layout: Layout,
    train: Rows,
    held: Rows,
    test: Rows,
    seed: int,
) -> dict[str, npt.NDArray]:
    """What a model says of the test part, its curve, and how long it was fitted."""
    begin = time.monotonic()
    model = fit(architecture, parameters, layout, train, held, seed=seed)
    found = {"seconds": np.array(time.monotonic() - begin)}
    found |= {f"said {task}": column for task, column in model.score(test.matrix).items()}
    return found | {f"curve {name}": np.array(series) for name, series in model.curve.items()}


def once(columns: dict[str, Ints]) -> dict[str, Ints]:
    """In order of time, without exact repeats."""
    order = np.lexsort(
        list(columns.values())[::-1]
    )  # by ts first, then all other columns, so that repeats lie together
    columns = {name: column[order] for name, column in columns.items()}
    same = np.all([column[1:] == column[:-1] for column in columns.values()], axis=0)
    return {name: column[np.concatenate(([True], ~same))] for name, column in columns.items()}


def part(
    matrix: npt.NDArray[np.float32], labels: dict[str, npt.NDArray[np.float32]], part: slice
) -> Rows:
    return Rows(
        np.ascontiguousarray(matrix[part]), {task: label[part] for task, label in labels.items()}
    )


def features(columns: dict[str, Ints], cut: int) -> tuple[npt.NDArray[np.float32], Layout]:
    """The matrix (n, columns) of all rows; codes are learned from the first `cut` of them."""
    ts, user, video = columns["ts"], columns["user_id"], columns["video_id"]
    numbers: dict[str, Floats] = {
        "duration": np.where(columns["duration_ms"] > 0, columns["duration_ms"], np.nan) / 1000.0,
        "hour": ((ts // HOUR_US + 8) % 24).astype(np.float64),  # where the people live
    }
    for who, key in (("user", user), ("video", video)):
        before = _before(key, ts)
        numbers[f"{who}_views"] = before(np.ones(len(ts)))
        for task, column in TASKS.items():
            mean, views = float(columns[column][:cut].mean()), numbers[f"{who}_views"]
            done = before(columns[column].astype(np.float64))
            numbers[f"{who}_{task}"] = (done + SMOOTHING * mean) / (views + SMOOTHING)
    users, videos = _codes(user, cut), _codes(video, cut)
    recent, gaps = _recent(user, videos, ts)
    names = (
        *numbers,
        "user",
        "item_code",
        *(f"recent_{n}" for n in range(LENGTH)),
        *(f"gap_{n}" for n in range(LENGTH)),
    )
    matrix = np.column_stack([*numbers.values(), users, videos, recent, gaps]).astype(np.float32)
    at = len(numbers)
    past = History(
        at + 1,
        tuple(range(at + 2, at + 2 + LENGTH)),
        tuple(range(at + 2 + LENGTH, at + 2 + 2 * LENGTH)),
        int(videos.max()) + 1,
    )
    return matrix, Layout(names, tuple(range(at)), {at: int(users.max()) + 1}, history=past)


def _before(key: Ints, ts: Ints) -> Any:
    """A function from values (n,) to their sums over rows of the same key strictly before each
    row's time.
    """
    order = np.lexsort((ts, key))
    pair = np.stack([key[order], ts[order]], axis=1)
    _, first = np.unique(key[order], return_index=True)
    start = np.repeat(first, np.diff(np.append(first, len(key))))
    fresh = np.concatenate(([True], np.any(pair[1:] != pair[:-1], axis=1)))
    place = np.maximum.accumulate(
        np.where(fresh, np.arange(len(key)), 0)
    )  # rows of one moment know nothing of each other

    def sums(value: Floats) -> Floats:
        running = np.concatenate(([0.0], np.cumsum(value[order])))
        out = np.empty(len(key))
        out[order] = running[place] - running[start]
        return out

    return sums


def _codes(key: Ints, cut: int) -> Ints:
    known, counts = np.unique(key[:cut], return_counts=True)
    known = known[counts >= COUNT_MIN]
    at = np.minimum(np.searchsorted(known, key), len(known) - 1)
    return np.where(known[at] == key, at + 2, 1)


def _recent(user: Ints, code: Ints, ts: Ints) -> tuple[Floats, Floats]:
    """Codes of the person's newest videos strictly before each row, newest first, and hours since."""
    recent, gaps = np.zeros((len(ts), LENGTH)), np.full((len(ts), LENGTH), np.nan)
    order = np.lexsort((ts, user))
    for mine in np.split(order, np.flatnonzero(np.diff(user[order])) + 1):
        until = np.searchsorted(ts[mine], ts[mine])
        for age in range(LENGTH):
            there = until - 1 - age >= 0
            earlier = mine[(until - 1 - age)[there]]
            recent[mine[there], age] = code[earlier]
            gaps[mine[there], age] = (ts[mine[there]] - ts[earlier]) / HOUR_US
    return recent, gaps


def judged(
    said: dict[str, list[dict[str, Floats]]], test: Rows, person: Ints
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures by model, and the paired differences of `mmoe` from the single-task nets and from
    trees.
    """
    bootstrap, every = Bootstrap(person), np.arange(len(test))
    found: dict[
        str, dict[str, tuple[float, Floats]]
    ] = {}  # model → figure → value, and what each row has to do with it
    for name, seeds in said.items():
        for task, label in test.labels.items():
            areas = [auc(seed[task], label) for seed in seeds]
            influence = np.mean([auc_influence(seed[task], label) for seed in seeds], axis=0)
            losses = np.mean([log_losses(seed[task], label) for seed in seeds], axis=0)
            found.setdefault(name, {})[f"auc_{task}"] = float(np.mean(areas)), influence
            found[name][f"log_loss_{task}"] = float(losses.mean()), losses
        for kind in ("auc", "log_loss"):
            each = [found[name][f"{kind}_{task}"] for task in test.labels]
            found[name][kind] = (
                float(np.mean([value for value, _ in each])),
                np.mean([rows for _, rows in each], axis=0),
            )

    def interval(figure: str, value: float, rows: Floats) -> Interval:
        return (
            bootstrap.auc(value, rows, every) if figure.startswith("auc") else bootstrap.mean(rows)
        )

    results = {
        name: _flat({f: interval(f, *each) for f, each in figures.items()})
        for name, figures in found.items()
    }
    ours = found.get(OURS, {})
    differences = {
        other: _flat(
            {
                f: interval(f, value - found[other][f][0], rows - found[other][f][1])
                for f, (value, rows) in ours.items()
            }
        )
        for other in found
        if ours and other != OURS
    }
    return results, differences


def _flat(figures: dict[str, Interval]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, each in figures.items():
        flat |= {
            name: round(each.value, 5),
            f"{name}_low": round(each.low, 5),
            f"{name}_high": round(each.high, 5),
        }
    return flat


def told(result: dict[str, Any]) -> str:
    """For people."""
    lines = [result["title"], *result["protocol"]]
    for kind in ("auc", "log_loss"):
        figures = [kind, *(f"{kind}_{task}" for task in result["tasks"])]
        lines.append(f"{'':10}" + "".join(f"{name:>26}" for name in figures))
        for name, each in result["results"].items():
            lines.append(
                f"{name:10}"
                + "".join(
                    f"{each[f]:>10.4f} ({each[f + '_low']:.4f}–{each[f + '_high']:.4f})"
                    for f in figures
                )
            )
    lines.append(f"seconds of one fit: {result['seconds']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
