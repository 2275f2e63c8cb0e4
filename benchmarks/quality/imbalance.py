"""Measure class weights, negative sampling and position bias.

    python -m benchmarks.quality.imbalance [--data PATH] [--json] [--seeds 3]

The first part uses KuaiRand's rare targets. It needs `kuairand-feedback`, and is left out if that
is missing. The second uses a site whose truth is known and needs no data. Both need the extra
`deep`.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks.quality import kuairand
from benchmarks.quality.running import default_data, environment, find_data_set
from tailorbird.models.deep.fitting import NetModel, fit_net
from tailorbird.models.deep.layout import build_layout
from tailorbird.models.deep.rows import Rows
from tailorbird.simulator import Site
from tailorbird.training.evaluation.metrics import auc, log_loss
from tailorbird.training.fit.examination import Examination, click_weights, estimate_examination

Floats = npt.NDArray[np.float64]

RARE_TASKS = ("profile", "comment")
PARAMETERS_BY_WAY: dict[str, dict[str, Any]] = {
    "as they are": {},
    "classes balanced": {"positive_weight": 0},
    "a fifth of the negatives": {"negative_share": 0.2},
    "both": {"positive_weight": 0, "negative_share": 0.2},
}
USERS, ITEMS, DAYS, SEED = 1_200, 300, 4, 11
LISTS, LIST_LENGTH = 1_500, 12


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.imbalance", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--data", type=Path, default=default_data(), help="the folder that holds the data sets"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout and nothing else"
    )
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    folder = find_data_set("kuairand-feedback", arguments.data)
    rare = rare_targets(folder, arguments.seeds) if folder else {}
    result = {
        "benchmark": "imbalance",
        "rare": rare,
        "place": position_effects(arguments.seeds),
        "environment": environment(),
    }
    print(json.dumps(result, indent=1) if arguments.json else format_report(result))


def rare_targets(folder: Path, seeds: int) -> dict[str, dict[str, float]]:
    """Return mean figures over two rare targets and the seeds, by way of weighting.

    Log loss is given with and without the correction of the prior.
    """
    table = pq.read_table(folder / "interactions.parquet")
    columns = kuairand.drop_repeats(
        {name: table[name].cast("int64").to_numpy() for name in table.column_names}
    )
    rows = len(columns["ts"])
    cut, end = round(rows * 0.7), round(rows * 0.8)
    matrix, column_layout = kuairand.make_features(columns, cut)
    labels = {
        task: columns[kuairand.COLUMN_BY_TASK[task]].astype(np.float32) for task in RARE_TASKS
    }
    train, validation, test = (
        kuairand.take_rows(matrix, labels, part)
        for part in (slice(cut), slice(cut, end), slice(end, None))
    )
    metrics_by_way = {}
    for way, parameters in PARAMETERS_BY_WAY.items():
        started = time.monotonic()
        metrics: list[dict[str, float]] = []
        for seed in range(seeds):
            model = fit_net(
                "shared", {"threads": 1, **parameters}, column_layout, train, validation, seed=seed
            )
            for task, label in test.labels.items():
                metrics.append(_prediction_metrics(model, task, label, test.matrix))
        metrics_by_way[way] = {
            name: round(float(np.mean([figures_[name] for figures_ in metrics])), 4)
            for name in metrics[0]
        }
        metrics_by_way[way]["seconds"] = round((time.monotonic() - started) / seeds, 1)
    return metrics_by_way


def _prediction_metrics(
    model: NetModel, task: str, label: npt.NDArray, matrix: npt.NDArray[np.float32]
) -> dict[str, float]:
    predictions = model.score(matrix)[task]
    logit_shift = float(model.deep.net.shift[model.heads.index(task)])
    uncorrected = 1 / (
        1 + (1 - predictions) / np.maximum(predictions, 1e-12) * np.exp(logit_shift)
    )  # the uncorrected output of the net
    return {
        "auc": auc(predictions, label),
        "log_loss": log_loss(predictions, label),
        "said_over_happened": float(predictions.mean() / label.mean()),
        "log_loss_uncorrected": log_loss(uncorrected, label),
        "said_over_happened_uncorrected": float(uncorrected.mean() / label.mean()),
    }


def position_effects(seeds: int) -> dict[str, Any]:
    """Return expected clicks on lists of random items, by the treatment of a row's position."""
    site = Site(SEED, users=USERS, items=ITEMS, days=DAYS + 1)
    rows = _impression_rows(site)
    examination = estimate_examination(
        rows["position"], rows["click"], rows["propensity"], rows["request"]
    )
    rng = np.random.default_rng(SEED)
    users = rng.integers(0, USERS, LISTS).tolist()
    lists_drawn = np.stack([rng.permutation(ITEMS // 2)[:LIST_LENGTH] for _ in range(LISTS)]) + 1
    times = [site.start + DAYS * 86_400_000_000] * LISTS
    all_items = np.arange(1, ITEMS + 1)

    def expected_clicks(score: Floats) -> float:
        lists = np.take_along_axis(
            lists_drawn, np.argsort(-score[lists_drawn], axis=1, kind="stable"), axis=1
        )
        return float(
            site.truth.expected(
                users, [[f"i{item:05}" for item in list_] for list_ in lists], times
            ).clicks.mean()
        )

    clicks_by_way: dict[str, float] = {"in random order": expected_clicks(np.zeros(ITEMS + 1))}
    for way in ("left out", "a column", "weights"):
        values = []
        for seed in range(seeds):
            scores = _fit_scores(rows, examination, way, all_items, seed)
            values.append(expected_clicks(np.concatenate(([0.0], scores))))
        clicks_by_way[f"place {way}"] = float(np.mean(values))
    return {
        "examined": [round(chance, 3) for chance in examination.chance_by_position.tolist()],
        "expected_clicks": {k: round(v, 4) for k, v in clicks_by_way.items()},
    }


def _fit_scores(
    rows: dict[str, npt.NDArray], examination: Examination, way: str, items: npt.NDArray, seed: int
) -> Floats:
    """Return the scores of items by a net that sees only the item, and perhaps the position."""
    has_position_column = way == "a column"
    matrix = np.stack([rows["item"], rows["position"]], axis=1)[
        :, : 2 if has_position_column else 1
    ].astype(np.float32)
    weight = (
        click_weights(examination, rows["position"], rows["click"]) if way == "weights" else None
    )
    column_layout = build_layout(("item", "position")[: matrix.shape[1]], {"item": ITEMS + 200})
    parameters = {"threads": 1, "epochs": 3, "rate": 3e-3}
    model = fit_net(
        "mlp",
        parameters,
        column_layout,
        *Rows(matrix, {"click": rows["click"]}, weight).split_newest(0.1),
        seed=seed,
    )
    queries = np.stack([items + 1, np.ones(len(items))], axis=1)[:, : matrix.shape[1]].astype(
        np.float32
    )
    return model.score(queries)["click"]


def _impression_rows(site: Site) -> dict[str, npt.NDArray]:
    """Return a row for each impression of the home page, from the lines of the site's history."""
    answer_by_request: dict[str, dict[str, Any]] = {}
    clicked: set[tuple[str, str]] = set()
    with tempfile.TemporaryDirectory(prefix="tailorbird-imbalance-") as scratch:
        site.history(DAYS).write(path := Path(scratch) / "history.jsonl")
        lines = path.read_text().splitlines()
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # the site's log has broken lines too
            continue
        if not isinstance(event, dict) or "type" not in event:
            continue
        if event["type"] == "answer" and event["answer"]["slot"] == "home":
            answer_by_request.setdefault(event["request_id"], event)
        elif event["type"] == "click" and event.get("request_id"):
            clicked.add((event["request_id"], event["item_id"]))
    columns: dict[str, list[float]] = {
        "request": [],
        "item": [],
        "position": [],
        "propensity": [],
        "click": [],
    }
    for number, (request, event) in enumerate(answer_by_request.items()):
        for position, (item, propensity) in enumerate(
            zip(event["items"], event["answer"]["propensities"], strict=True), 1
        ):
            columns["request"].append(number)
            columns["item"].append(int(item[1:]) + 1)
            columns["position"].append(position)
            columns["propensity"].append(propensity)
            columns["click"].append((request, item) in clicked)
    return {name: np.array(values, np.float64) for name, values in columns.items()}


def format_report(result: dict[str, Any]) -> str:
    """Format the result for people."""
    lines = []
    for way, figures in result["rare"].items():
        lines.append(
            f"{way:28}" + "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        )
    lines.append(f"looked at, by place: {result['place']['examined']}")
    lines += [
        f"{way:28}{value:.4f} clicks expected of a list"
        for way, value in result["place"]["expected_clicks"].items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
