"""What class weights, drawn negatives and the place of a row do to a model: on KuaiRand's rare
targets, and on a site whose truth is known.

python -m benchmarks.quality.imbalance [--data PATH] [--json] [--seeds 3]

The first part needs `kuairand-feedback`, and is left out where it is not here; the second needs no
data. Both need the extra `deep`.
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
from benchmarks.quality.running import default_data, environment, folder_of
from tailorbird.models.architectures import Net, fit_net
from tailorbird.models.deep.batches import Rows
from tailorbird.models.deep.layout import build_layout
from tailorbird.simulator import Site
from tailorbird.training.metrics import auc, log_loss
from tailorbird.training.position import Examination, click_weights, estimate_examination

Floats = npt.NDArray[np.float64]

RARE = ("profile", "comment")
WAYS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "classes balanced": {"positive_weight": 0},
    "a fifth of the negatives": {"negative_share": 0.2},
    "both": {"positive_weight": 0, "negative_share": 0.2},
}
USERS, ITEMS, DAYS, SEED = 1_200, 300, 4, 11
LISTS, LENGTH = 1_500, 12


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
    given = parser.parse_args()
    folder = folder_of("kuairand-feedback", given.data)
    rare = rare_targets(folder, given.seeds) if folder else {}
    result = {
        "benchmark": "imbalance",
        "rare": rare,
        "place": places(given.seeds),
        "environment": environment(),
    }
    print(json.dumps(result, indent=1) if given.json else told(result))


def rare_targets(folder: Path, seeds: int) -> dict[str, dict[str, float]]:
    """Means over two rare targets and the seeds: what each way says, as it is and with the prior
    put back.
    """
    table = pq.read_table(folder / "interactions.parquet")
    columns = kuairand.once(
        {name: table[name].cast("int64").to_numpy() for name in table.column_names}
    )
    rows = len(columns["ts"])
    cut, end = round(rows * 0.7), round(rows * 0.8)
    matrix, of_columns = kuairand.features(columns, cut)
    labels = {task: columns[kuairand.TASKS[task]].astype(np.float32) for task in RARE}
    train, held, test = (
        kuairand.part(matrix, labels, part)
        for part in (slice(cut), slice(cut, end), slice(end, None))
    )
    found = {}
    for way, parameters in WAYS.items():
        begin = time.monotonic()
        figures: list[dict[str, float]] = []
        for seed in range(seeds):
            model = fit_net(
                "shared", {"threads": 1, **parameters}, of_columns, train, held, seed=seed
            )
            for task, label in test.labels.items():
                figures.append(_judged(model, task, label, test.matrix))
        found[way] = {
            name: round(float(np.mean([each[name] for each in figures])), 4) for name in figures[0]
        }
        found[way]["seconds"] = round((time.monotonic() - begin) / seeds, 1)
    return found


def _judged(
    model: Net, task: str, label: npt.NDArray, matrix: npt.NDArray[np.float32]
) -> dict[str, float]:
    said = model.score(matrix)[task]
    shift = float(model.deep.net.shift[model.heads.index(task)])
    raw = 1 / (
        1 + (1 - said) / np.maximum(said, 1e-12) * np.exp(shift)
    )  # what the net was trained to say
    return {
        "auc": auc(said, label),
        "log_loss": log_loss(said, label),
        "said_over_happened": float(said.mean() / label.mean()),
        "log_loss_uncorrected": log_loss(raw, label),
        "said_over_happened_uncorrected": float(raw.mean() / label.mean()),
    }


def places(seeds: int) -> dict[str, Any]:
    """Clicks that lists of random items get, in expectation, by how the place of a training row
    counted.
    """
    site = Site(SEED, users=USERS, items=ITEMS, days=DAYS + 1)
    rows = _rows(site)
    examined = estimate_examination(
        rows["position"], rows["click"], rows["propensity"], rows["request"]
    )
    rng = np.random.default_rng(SEED)
    users = rng.integers(0, USERS, LISTS).tolist()
    drawn = np.stack([rng.permutation(ITEMS // 2)[:LENGTH] for _ in range(LISTS)]) + 1
    at = [site.start + DAYS * 86_400_000_000] * LISTS
    every = np.arange(1, ITEMS + 1)

    def clicks(score: Floats) -> float:
        lists = np.take_along_axis(drawn, np.argsort(-score[drawn], axis=1, kind="stable"), axis=1)
        return float(
            site.truth.expected(
                users, [[f"i{item:05}" for item in one] for one in lists], at
            ).clicks.mean()
        )

    found: dict[str, float] = {"in random order": clicks(np.zeros(ITEMS + 1))}
    for way in ("left out", "a column", "weights"):
        values = []
        for seed in range(seeds):
            said = _scores(rows, examined, way, every, seed)
            values.append(clicks(np.concatenate(([0.0], said))))
        found[f"place {way}"] = float(np.mean(values))
    return {
        "examined": [round(chance, 3) for chance in examined.chance.tolist()],
        "expected_clicks": {k: round(v, 4) for k, v in found.items()},
    }


def _scores(
    rows: dict[str, npt.NDArray], examined: Examination, way: str, items: npt.NDArray, seed: int
) -> Floats:
    """What a net that sees only the item, and perhaps the place, says of each."""
    column = way == "a column"
    matrix = np.stack([rows["item"], rows["position"]], axis=1)[:, : 2 if column else 1].astype(
        np.float32
    )
    weight = click_weights(examined, rows["position"], rows["click"]) if way == "weights" else None
    of_columns = build_layout(("item", "position")[: matrix.shape[1]], {"item": ITEMS + 200})
    parameters = {"threads": 1, "epochs": 3, "rate": 3e-3}
    model = fit_net(
        "mlp",
        parameters,
        of_columns,
        *Rows(matrix, {"click": rows["click"]}, weight).cut(0.1),
        seed=seed,
    )
    asked = np.stack([items + 1, np.ones(len(items))], axis=1)[:, : matrix.shape[1]].astype(
        np.float32
    )
    return model.score(asked)["click"]


def _rows(site: Site) -> dict[str, npt.NDArray]:
    """A row for each item of each answer of the home page, from the lines of the site's history."""
    answers: dict[str, dict[str, Any]] = {}
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
            answers.setdefault(event["request_id"], event)
        elif event["type"] == "click" and event.get("request_id"):
            clicked.add((event["request_id"], event["item_id"]))
    found: dict[str, list[float]] = {
        "request": [],
        "item": [],
        "position": [],
        "propensity": [],
        "click": [],
    }
    for number, (request, event) in enumerate(answers.items()):
        for place, (item, propensity) in enumerate(
            zip(event["items"], event["answer"]["propensities"], strict=True), 1
        ):
            found["request"].append(number)
            found["item"].append(int(item[1:]) + 1)
            found["position"].append(place)
            found["propensity"].append(propensity)
            found["click"].append((request, item) in clicked)
    return {name: np.array(values, np.float64) for name, values in found.items()}


def told(result: dict[str, Any]) -> str:
    """For people."""
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
