"""Benchmark several targets at once on KuaiRand's feedback: one model per task against joint nets.

    python -m benchmarks.quality.kuairand [--data PATH] [--small] [--json] [--seeds 3]
    [--keep FOLDER] [--choose]

Trees and nets are fitted for each task, and nets for all tasks together. There are few ids and few
views of each, so nets memorise people: the share of a training row's codes that counts as unknown
was chosen for each net by `--choose`, which uses nothing after the validation part.

Rows are built here, in columns, and not through the lake: the set has views, and no responses of
the site. Every count covers what the person, or the video, did strictly before the row's time.
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

from benchmarks.quality.running import environment, make_parser, require_data_set
from tailorbird.models.architectures import fit
from tailorbird.models.deep.fitting import is_available
from tailorbird.models.deep.layout import History, Layout
from tailorbird.models.deep.rows import Rows
from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval
from tailorbird.training.evaluation.metrics import auc, auc_influence, log_losses
from tailorbird.training.fit.resume import load_or_compute_arrays

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

COLUMN_BY_TASK = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "like_not_hate",
    "profile": "is_profile_enter",
    "comment": "is_comment",
}
ARCHITECTURE_BY_MODEL = {  # name → architecture
    "lightgbm": "gbdt",
    "mlp": "mlp",
    "single": "dcn",
    "shared": "shared",
    "mmoe": "mmoe",
}
OUR_MODEL, SINGLE_TASK_MODEL = "mmoe", "single"
UNKNOWN_SHARE_BY_NET = {
    "single": 0.5,
    "shared": 0.5,
    "mmoe": 0.5,
}  # `unknown_share` of each net, by `--choose`
UNKNOWN_SHARES = (0.02, 0.3, 0.5)  # of these
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2  # shares of the rows, by time
HISTORY_LENGTH, CODE_COUNT_MIN = 20, 5
HOUR_US = 3_600_000_000
SMOOTHING = 10.0


def main() -> None:
    parser = make_parser(
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
    arguments = parser.parse_args()
    data = require_data_set("kuairand-feedback", arguments.data)
    if arguments.choose:
        print(json.dumps(choose_unknown_shares(data, seeds=arguments.seeds), indent=1))
        return
    with tempfile.TemporaryDirectory(prefix="tailorbird-kuairand-") as scratch:
        keep = arguments.keep or Path(scratch)
        keep.mkdir(parents=True, exist_ok=True)
        result = run(
            data, keep, small=arguments.small, seeds=1 if arguments.small else arguments.seeds
        )
    print(json.dumps(result, indent=1) if arguments.json else format_report(result))


def run(folder: Path, keep_folder: Path, *, small: bool, seeds: int) -> dict[str, Any]:
    """Fit every model with every seed and evaluate them on the last part of the time."""
    columns = read_columns(folder)
    if small:
        columns = {name: column[:8_000] for name, column in columns.items()}
    rows = len(columns["ts"])
    cut, end = round(rows * (1 - VALIDATION_SHARE - TEST_SHARE)), round(rows * (1 - TEST_SHARE))
    matrix, column_layout = make_features(columns, cut)
    labels = {task: columns[column].astype(np.float32) for task, column in COLUMN_BY_TASK.items()}
    train, validation, test = (
        take_rows(matrix, labels, span) for span in (slice(cut), slice(cut, end), slice(end, None))
    )
    _, person = np.unique(columns["user_id"][end:], return_inverse=True)
    predictions_by_model: dict[str, list[dict[str, Floats]]] = {}
    seconds: dict[str, float] = {}
    curves: dict[str, dict[str, list[float]]] = {}
    seeds_and_names = [
        (seed, name)
        for seed in range(seeds)
        for name, architecture in ARCHITECTURE_BY_MODEL.items()
        if is_available(architecture)
    ]
    for seed, name in seeds_and_names:
        architecture = ARCHITECTURE_BY_MODEL[name]
        parameters = fit_parameters(name) | (
            {"epochs": 2} if small and architecture != "gbdt" else {}
        )
        outputs = load_or_compute_arrays(
            keep_folder,
            f"{name} {seed} {small}",
            partial(
                fit_and_score,
                architecture,
                parameters,
                column_layout,
                train,
                validation,
                test,
                seed,
            ),
        )
        predictions_by_model.setdefault(name, []).append(
            {task: outputs[f"said {task}"] for task in COLUMN_BY_TASK}
        )
        seconds[name] = seconds.get(name, 0.0) + float(outputs["seconds"]) / seeds
        if architecture != "gbdt" and not seed:
            curve = {
                key.removeprefix("curve "): series_
                for key, series_ in outputs.items()
                if key.startswith("curve ")
            }
            curves[name] = {
                figure: [round(value, 5) for value in series.tolist()]
                for figure, series in curve.items()
            }
    results, differences = evaluate_models(predictions_by_model, test, person)
    return {
        "benchmark": "kuairand",
        "kind": "tasks",
        "title": f"KuaiRand's explicit feedback: {len(COLUMN_BY_TASK)} targets of {rows:,} views by "
        f"{len(np.unique(columns['user_id'])):,} people",
        "small": small,
        "protocol": [
            f"learned from the first {cut:,} views by time, stopped by the next "
            f"{end - cut:,}, judged on the last {rows - end:,}; "
            f"exact repeats taken out; {seeds} seed(s), figures are means over seeds, "
            "intervals from resampling people",
            "columns: ids of person and video, duration, hour, smoothed rates of each target of "
            f"both, and the person's last {HISTORY_LENGTH} videos (nets alone); nothing that is known "
            "only afterwards (play time, comments read)",
            "the set holds only views that were liked or hated, so its rates say nothing about "
            "all traffic",
            "settings are the defaults, but for `unknown_share` of the nets over ids ("
            + ", ".join(f"{name} {share:g}" for name, share in UNKNOWN_SHARE_BY_NET.items())
            + "), chosen on the validation part by `--choose`; none was tuned on the test part",
            "`lightgbm`, `mlp` and `single` (DCN-v2 with attention) have a model for each "
            "task; `shared` and `mmoe` one for all",
        ],
        "tasks": {
            task: {"rows": len(test), "positives": int(test.labels[task].sum())}
            for task in COLUMN_BY_TASK
        },
        "results": results,
        "differences": differences,
        "curves": curves,
        "seconds": {name: round(series_, 1) for name, series_ in seconds.items()},
        "environment": environment(),
    }


def read_columns(folder: Path) -> dict[str, Ints]:
    """Read the columns of the set."""
    table = pq.read_table(folder / "interactions.parquet")
    return drop_repeats({name: table[name].cast("int64").to_numpy() for name in table.column_names})


def fit_parameters(name: str) -> dict[str, Any]:
    """Return the parameters of a model that differ from its defaults."""
    return {
        "threads": 1,
        **({"unknown_share": UNKNOWN_SHARE_BY_NET[name]} if name in UNKNOWN_SHARE_BY_NET else {}),
    }


def choose_unknown_shares(folder: Path, *, seeds: int) -> dict[str, dict[str, float]]:
    """Return the validation log loss of each net by `unknown_share`, mean over targets and seeds.

    The net learns from all rows before the last seventh, which decides when it stops. So the
    validation part lies after the stopping part, as the test part does. Nothing of the test part is
    used.
    """
    columns = read_columns(folder)
    rows = len(columns["ts"])
    end = round(rows * (1 - TEST_SHARE))
    columns = {name: column[:end] for name, column in columns.items()}
    train_end, validation_end = (
        round(rows * (1 - TEST_SHARE - 2 * VALIDATION_SHARE)),
        round(rows * (1 - TEST_SHARE - VALIDATION_SHARE)),
    )
    matrix, column_layout = make_features(columns, train_end)
    labels = {task: columns[column].astype(np.float32) for task, column in COLUMN_BY_TASK.items()}
    train, validation, judged_rows = (
        take_rows(matrix, labels, span)
        for span in (slice(train_end), slice(train_end, validation_end), slice(validation_end, end))
    )
    losses_by_net: dict[str, dict[str, float]] = {}
    for name in UNKNOWN_SHARE_BY_NET:
        for share in UNKNOWN_SHARES:
            losses = []
            for seed in range(seeds):
                model = fit(
                    ARCHITECTURE_BY_MODEL[name],
                    {"threads": 1, "unknown_share": share},
                    column_layout,
                    train,
                    validation,
                    seed=seed,
                )
                predictions = model.score(judged_rows.matrix)
                losses += [
                    float(log_losses(predictions[task], label).mean())
                    for task, label in judged_rows.labels.items()
                ]
            losses_by_net.setdefault(name, {})[f"{share:g}"] = round(float(np.mean(losses)), 5)
    return losses_by_net


def fit_and_score(
    architecture: str,
    parameters: dict[str, Any],
    layout: Layout,
    train: Rows,
    validation: Rows,
    test: Rows,
    seed: int,
) -> dict[str, npt.NDArray]:
    """Fit a model; return its predictions for the test part, its curve, and the seconds taken."""
    started = time.monotonic()
    model = fit(architecture, parameters, layout, train, validation, seed=seed)
    outputs = {"seconds": np.array(time.monotonic() - started)}
    outputs |= {f"said {task}": column for task, column in model.score(test.matrix).items()}
    return outputs | {f"curve {name}": np.array(series) for name, series in model.curve.items()}


def drop_repeats(columns: dict[str, Ints]) -> dict[str, Ints]:
    """Sort rows by time and drop exact repeats."""
    order = np.lexsort(
        list(columns.values())[::-1]
    )  # by ts, then all other columns, so that repeats are adjacent
    columns = {name: column[order] for name, column in columns.items()}
    same = np.all([column[1:] == column[:-1] for column in columns.values()], axis=0)
    return {name: column[np.concatenate(([True], ~same))] for name, column in columns.items()}


def take_rows(
    matrix: npt.NDArray[np.float32], labels: dict[str, npt.NDArray[np.float32]], span: slice
) -> Rows:
    return Rows(
        np.ascontiguousarray(matrix[span]), {task: label[span] for task, label in labels.items()}
    )


def make_features(columns: dict[str, Ints], cut: int) -> tuple[npt.NDArray[np.float32], Layout]:
    """Return the matrix (n, columns) of all rows; codes are learned from the first `cut` rows."""
    ts, user, video = columns["ts"], columns["user_id"], columns["video_id"]
    numbers: dict[str, Floats] = {
        "duration": np.where(columns["duration_ms"] > 0, columns["duration_ms"], np.nan) / 1000.0,
        "hour": ((ts // HOUR_US + 8) % 24).astype(np.float64),  # the users' local time zone
    }
    for owner, key in (("user", user), ("video", video)):
        sums_before = _sum_before(key, ts)
        numbers[f"{owner}_views"] = sums_before(np.ones(len(ts)))
        for task, column in COLUMN_BY_TASK.items():
            mean, views = float(columns[column][:cut].mean()), numbers[f"{owner}_views"]
            count_before = sums_before(columns[column].astype(np.float64))
            numbers[f"{owner}_{task}"] = (count_before + SMOOTHING * mean) / (views + SMOOTHING)
    users, videos = _encode_frequent(user, cut), _encode_frequent(video, cut)
    recent, gaps = _recent_videos(user, videos, ts)
    names = (
        *numbers,
        "user",
        "item_code",
        *(f"recent_{n}" for n in range(HISTORY_LENGTH)),
        *(f"gap_{n}" for n in range(HISTORY_LENGTH)),
    )
    matrix = np.column_stack([*numbers.values(), users, videos, recent, gaps]).astype(np.float32)
    user_column = len(numbers)
    history = History(
        user_column + 1,
        tuple(range(user_column + 2, user_column + 2 + HISTORY_LENGTH)),
        tuple(range(user_column + 2 + HISTORY_LENGTH, user_column + 2 + 2 * HISTORY_LENGTH)),
        int(videos.max()) + 1,
    )
    return matrix, Layout(
        names, tuple(range(user_column)), {user_column: int(users.max()) + 1}, history=history
    )


def _sum_before(key: Ints, ts: Ints) -> Any:
    """Return a function from values (n,) to sums over earlier rows of the same key.

    Only rows strictly before each row's time count.
    """
    order = np.lexsort((ts, key))
    key_and_ts = np.stack([key[order], ts[order]], axis=1)
    _, first_rows = np.unique(key[order], return_index=True)
    key_start = np.repeat(first_rows, np.diff(np.append(first_rows, len(key))))
    is_new_moment = np.concatenate(([True], np.any(key_and_ts[1:] != key_and_ts[:-1], axis=1)))
    moment_start = np.maximum.accumulate(
        np.where(is_new_moment, np.arange(len(key)), 0)
    )  # rows of one moment do not count each other

    def sum_before(value: Floats) -> Floats:
        running = np.concatenate(([0.0], np.cumsum(value[order])))
        result = np.empty(len(key))
        result[order] = running[moment_start] - running[key_start]
        return result

    return sum_before


def _encode_frequent(key: Ints, cut: int) -> Ints:
    frequent, counts = np.unique(key[:cut], return_counts=True)
    frequent = frequent[counts >= CODE_COUNT_MIN]
    position = np.minimum(np.searchsorted(frequent, key), len(frequent) - 1)
    return np.where(frequent[position] == key, position + 2, 1)


def _recent_videos(user: Ints, code: Ints, ts: Ints) -> tuple[Floats, Floats]:
    """Return codes of each person's newest earlier videos, newest first, and hours since."""
    recent, gaps = np.zeros((len(ts), HISTORY_LENGTH)), np.full((len(ts), HISTORY_LENGTH), np.nan)
    order = np.lexsort((ts, user))
    for person_rows in np.split(order, np.flatnonzero(np.diff(user[order])) + 1):
        earlier_count = np.searchsorted(ts[person_rows], ts[person_rows])
        for age in range(HISTORY_LENGTH):
            has_earlier = earlier_count - 1 - age >= 0
            earlier = person_rows[(earlier_count - 1 - age)[has_earlier]]
            recent[person_rows[has_earlier], age] = code[earlier]
            gaps[person_rows[has_earlier], age] = (
                ts[person_rows[has_earlier]] - ts[earlier]
            ) / HOUR_US
    return recent, gaps


def evaluate_models(
    predictions_by_model: dict[str, list[dict[str, Floats]]], test: Rows, person: Ints
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return figures by model, and paired differences of `mmoe` from each other model."""
    bootstrap, all_rows = Bootstrap(person), np.arange(len(test))
    metrics_by_model: dict[
        str, dict[str, tuple[float, Floats]]
    ] = {}  # model → figure → value, and the influence of each row
    for name, seeds in predictions_by_model.items():
        for task, label in test.labels.items():
            aucs = [auc(seed[task], label) for seed in seeds]
            influence = np.mean([auc_influence(seed[task], label) for seed in seeds], axis=0)
            losses = np.mean([log_losses(seed[task], label) for seed in seeds], axis=0)
            metrics_by_model.setdefault(name, {})[f"auc_{task}"] = float(np.mean(aucs)), influence
            metrics_by_model[name][f"log_loss_{task}"] = float(losses.mean()), losses
        for kind in ("auc", "log_loss"):
            metric_values = [metrics_by_model[name][f"{kind}_{task}"] for task in test.labels]
            metrics_by_model[name][kind] = (
                float(np.mean([value for value, _ in metric_values])),
                np.mean([rows for _, rows in metric_values], axis=0),
            )

    def interval(metric_name: str, value: float, rows: Floats) -> Interval:
        return (
            bootstrap.auc(value, rows, all_rows)
            if metric_name.startswith("auc")
            else bootstrap.mean(rows)
        )

    results = {
        name: _flatten_intervals(
            {
                metric_name: interval(metric_name, *metric_values)
                for metric_name, metric_values in metrics.items()
            }
        )
        for name, metrics in metrics_by_model.items()
    }
    our_figures = metrics_by_model.get(OUR_MODEL, {})
    differences = {
        other: _flatten_intervals(
            {
                metric_name: interval(
                    metric_name,
                    value - metrics_by_model[other][metric_name][0],
                    rows - metrics_by_model[other][metric_name][1],
                )
                for metric_name, (value, rows) in our_figures.items()
            }
        )
        for other in metrics_by_model
        if our_figures and other != OUR_MODEL
    }
    return results, differences


def _flatten_intervals(intervals: dict[str, Interval]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, interval in intervals.items():
        flat |= {
            name: round(interval.value, 5),
            f"{name}_low": round(interval.low, 5),
            f"{name}_high": round(interval.high, 5),
        }
    return flat


def format_report(result: dict[str, Any]) -> str:
    """Format the result for people."""
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
