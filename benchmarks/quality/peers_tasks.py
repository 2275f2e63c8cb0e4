"""`peers` on several targets at once: the rows of `kuairand`, put to DCN-v2 and MMoE of FuxiCTR as well.

Of each peer a variant is taken by the rows that stop training, for the first seed; our nets are at their defaults. Seconds are CPU time
of one thread, of all five targets together.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.asking import HERE
from benchmarks.peers.asking import run as run_peer
from benchmarks.quality import kuairand
from tailorbird.models.architectures import fit
from tailorbird.models.deep.batches import Rows
from tailorbird.models.deep.layout import Layout
from tailorbird.training.bootstrap import Bootstrap
from tailorbird.training.metrics import auc, auc_influence, log_losses
from tailorbird.training.resuming import kept_arrays

OURS: Mapping[str, str] = {"lightgbm": "gbdt", "single": "dcn", "mmoe": "mmoe"}
PEERS: Mapping[str, str] = {"fuxictr_dcn": "dcn", "fuxictr_mmoe": "mmoe"}
PAIRS = (("single", "fuxictr_dcn"), ("mmoe", "fuxictr_mmoe"), ("lightgbm", "fuxictr_dcn"), ("lightgbm", "fuxictr_mmoe"))
VARIANTS: tuple[dict[str, float], ...] = (
    {"dropout": 0.2, "embedding_l2": 1e-5, "rate": 1e-3},
    {"dropout": 0.2, "embedding_l2": 1e-3, "rate": 1e-3},
)
Arrays = dict[str, npt.NDArray]


def run(folder: Path, keep: Path, versions: Mapping[str, str], *, seeds: int, small: bool) -> dict[str, Any]:
    """Learn, score and compare."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "interactions.parquet")
    columns = kuairand.once({name: table[name].cast("int64").to_numpy() for name in table.column_names})
    columns = {name: column[:8_000] for name, column in columns.items()} if small else columns
    rows = len(columns["ts"])
    cut, end = round(rows * (1 - kuairand.VALIDATION - kuairand.TEST)), round(rows * (1 - kuairand.TEST))
    matrix, layout = kuairand.features(columns, cut)
    labels = {task: columns[column].astype(np.float32) for task, column in kuairand.TASKS.items()}
    train, held, test = (kuairand.part(matrix, labels, span) for span in (slice(cut), slice(cut, end), slice(end, None)))
    said: dict[str, list[Arrays]] = {}
    for name, architecture in OURS.items():
        parameters = {"threads": 1, **({"epochs": 1} if small and architecture != "gbdt" else {})}
        for seed in range(seeds):
            found = kept_arrays(
                keep, f"{name} {seed}", lambda a=architecture, p=parameters, s=seed: _ours(a, p, layout, train, held, test, s)
            )
            said.setdefault(name, []).append(found)
    variants, failed = dict.fromkeys(OURS, "defaults"), {}
    for name in PEERS if "fuxictr" in versions else ():
        try:
            variants[name], said[name] = _peer(name, keep, layout, train, held, test, seeds, small)
        except RuntimeError as error:
            failed[name] = str(error)
    _, person = np.unique(columns["user_id"][end:], return_inverse=True)
    results, pairs = _judged(said, variants, test, Bootstrap(person), np.arange(len(test)))
    return {
        "title": f"KuaiRand's explicit feedback: {len(labels)} targets of {rows:,} views at once",
        "figure": "auc",
        "protocol": [
            f"learned from the first {cut:,} views by time, stopped by the next {end - cut:,}, judged on the last {len(test):,}; columns "
            f"as in [kuairand](#kuairand); `auc` is the mean over targets; seeds: {seeds}, figures are means over them",
            "`single` and `fuxictr_dcn` are DCN-v2 for each target, `mmoe` and `fuxictr_mmoe` one net for all; the newest videos are asked "
            "by attention in ours, averaged in theirs",
        ],
        "results": results,
        "pairs": pairs,
        "failed": failed,
    }


def _ours(architecture: str, parameters: dict[str, Any], layout: Layout, train: Rows, held: Rows, test: Rows, seed: int) -> Arrays:
    chosen = parameters if architecture != "gbdt" else {"threads": 1}
    begin = time.process_time()
    model = fit(architecture, chosen, layout, train, held, seed=seed)
    fitted = time.process_time()
    said = model.score(test.matrix)
    spent = {"fit": np.array(fitted - begin), "ask": np.array(time.process_time() - fitted)}
    return {"said": np.stack([said[task] for task in test.labels], axis=1), **spent}


def _peer(name: str, keep: Path, layout: Layout, train: Rows, held: Rows, test: Rows, seeds: int, small: bool) -> tuple[str, list[Arrays]]:
    desk = keep / "desk"
    desk.mkdir(exist_ok=True)
    past = layout.history
    assert past is not None
    codes = {str(place): size for place, size in layout.codes.items()}
    told = {
        "targets": list(test.labels),
        "numbers": layout.numbers,
        "codes": codes,
        "item": [past.candidate, past.size],
        "recent": past.items,
    }
    (desk / "layout.json").write_text(json.dumps(told))

    def asked(variant: Mapping[str, float], seed: int, last: Rows) -> Arrays:
        parts = {"train": train, "held": held, "test": last}
        arrays = {f"{part}_matrix": each.matrix for part, each in parts.items()}
        arrays |= {f"{part}_label": np.stack(list(each.labels.values()), axis=1) for part, each in parts.items()}
        np.savez(desk / "rows.npz", **arrays)  # type: ignore[arg-type]  # no array is called as an argument is
        job = {"model": PEERS[name], "variant": dict(variant), "seed": seed, "out": "said", **({"epochs": 1} if small else {})}
        (desk / "jobs.json").write_text(json.dumps([job]))
        run_peer(HERE / "several_targets.py", desk)
        with np.load(desk / "said.npz") as read:
            return {"said": read["said"].astype(np.float64), "fit": read["seconds_fit"], "ask": read["seconds_ask"]}

    def of_held(place: int) -> float:
        kept = kept_arrays(keep, f"{name} {place} held", lambda: asked(VARIANTS[place], 0, held))
        return float(np.mean([auc(kept["said"][:, task], label) for task, label in enumerate(held.labels.values())]))

    chosen = VARIANTS[0] if small else VARIANTS[int(np.argmax([of_held(place) for place in range(len(VARIANTS))]))]
    return str(chosen), [kept_arrays(keep, f"{name} {seed}", lambda seed=seed: asked(chosen, seed, test)) for seed in range(seeds)]


def _judged(
    said: Mapping[str, list[Arrays]], variants: Mapping[str, str], test: Rows, bootstrap: Bootstrap, every: npt.NDArray[np.intp]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Mean AUC over targets, the mean log loss beside it, and the pairs."""
    value: dict[str, float] = {}
    rows: dict[str, npt.NDArray[np.float64]] = {}
    results: dict[str, Any] = {}
    for name, seeds in said.items():
        areas, influence, losses = [], [], []
        for each in seeds:
            columns = [(each["said"][:, task], label) for task, label in enumerate(test.labels.values())]
            areas.append(np.mean([auc(column, label) for column, label in columns]))
            influence.append(np.mean([auc_influence(column, label) for column, label in columns], axis=0))
            losses.append(np.mean([log_losses(column, label).mean() for column, label in columns]))
        value[name], rows[name] = float(np.mean(areas)), np.mean(influence, axis=0)
        interval = bootstrap.auc(value[name], rows[name], every)
        spent = {f"seconds_{part}": round(float(np.mean([each[part] for each in seeds])), 3) for part in ("fit", "ask")}
        results[name] = {
            "auc": round(interval.value, 6),
            "auc_low": round(interval.low, 6),
            "auc_high": round(interval.high, 6),
            "log_loss": round(float(np.mean(losses)), 6),
            "seeds": [round(float(area), 6) for area in areas],
            **spent,
            "variant": variants[name],
        }
    pairs = []
    for ours, peer in PAIRS:
        if peer not in said:
            continue
        gain = bootstrap.auc(value[ours] - value[peer], rows[ours] - rows[peer], every)
        times = [results[name]["seconds_fit"] + results[name]["seconds_ask"] for name in (ours, peer)]
        told = {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
        pair = {
            "ours": ours,
            "peer": peer,
            "quality": round(value[ours] / value[peer], 4),
            "time": round(times[0] / max(times[1], 1e-9), 4),
        }
        pairs.append({**pair, **{key: round(float(each), 6) for key, each in told.items()}})
    return results, pairs
