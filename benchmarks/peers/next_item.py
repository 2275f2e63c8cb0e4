"""Lists of implicit and RecTools, in the environment of the peers.

    .peers/bin/python next_item.py FOLDER

    FOLDER/jobs.json        [{"model", "variant", "seed", "learn": part, "ask": [part …], "repeats",
                            "length", "out"}]
    FOLDER/PART.learn.npz   person, item, ts (n,), items ()          past interactions
    FOLDER/PART.ask.npz     item, ts (m,), offsets (questions + 1,)  history of each question's
                                                                     person, oldest first
    FOLDER/OUT.npz          item (questions, 10), −1 for missing places; seconds_fit, seconds_ask:
                            CPU seconds of this process

Imports nothing of ours.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

K = 10
Top = np.ndarray
Ask = Callable[[dict[str, np.ndarray], bool], Top]


def main(folder: Path) -> None:
    jobs = json.loads((folder / "jobs.json").read_text())
    for module in {module for job in jobs for module in LOADED[job["model"]]}:
        importlib.import_module(module)  # before the clock runs
    for job in jobs:
        learn = dict(np.load(folder / f"{job['learn']}.learn.npz"))
        begin = time.process_time()
        ask = MODELS[job["model"]](learn, job)
        fitted = time.process_time()
        lists = [
            ask(dict(np.load(folder / f"{part}.ask.npz")), job["repeats"]) for part in job["ask"]
        ]
        spent = {"seconds_fit": fitted - begin, "seconds_ask": time.process_time() - fitted}
        np.savez(folder / f"{job['out']}.npz", item=np.concatenate(lists), **spent)


def count_interactions(owner: np.ndarray, item: np.ndarray, owners: int, items: int) -> Any:
    """Return counts of each owner's interactions with each item, sparse, (owners, items)."""
    from scipy.sparse import csr_matrix

    return csr_matrix((np.ones(len(item), np.float32), (owner, item)), shape=(owners, items))


def question_of_row(ask: dict[str, np.ndarray]) -> np.ndarray:
    return np.repeat(np.arange(len(ask["offsets"]) - 1), np.diff(ask["offsets"]))


def als(learn: dict[str, np.ndarray], job: dict[str, Any]) -> Ask:
    """Fit implicit's alternating least squares; a question's vector is solved for as a new user's."""
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        **job["variant"], random_state=job["seed"], num_threads=1, use_gpu=False
    )
    items = int(learn["items"])
    model.fit(
        count_interactions(learn["person"], learn["item"], int(learn["person"].max()) + 1, items),
        show_progress=False,
    )
    return lambda ask, repeats: recommend_lists(model, ask, items, repeats, recalculate_user=True)


def item_item(learn: dict[str, np.ndarray], job: dict[str, Any]) -> Ask:
    """Fit implicit's nearest items, by cosine, TF-IDF or BM25."""
    from implicit import nearest_neighbours

    settings = dict(job["variant"])
    model = getattr(nearest_neighbours, settings.pop("kind"))(**settings, num_threads=1)
    items = int(learn["items"])
    model.fit(
        count_interactions(learn["person"], learn["item"], int(learn["person"].max()) + 1, items),
        show_progress=False,
    )
    return lambda ask, repeats: recommend_lists(model, ask, items, repeats)


def recommend_lists(
    model: Any, ask: dict[str, np.ndarray], items: int, repeats: bool, **options: Any
) -> Top:
    questions = len(ask["offsets"]) - 1
    histories = count_interactions(question_of_row(ask), ask["item"], questions, items)
    items_, score = model.recommend(
        np.arange(questions), histories, N=K, filter_already_liked_items=not repeats, **options
    )
    return np.where(score > -1e30, items_, -1)[:, :K]


def sasrec(learn: dict[str, np.ndarray], job: dict[str, Any]) -> Ask:
    """Fit RecTools' SASRec; each question is a person of its own with the question's history."""
    import warnings

    import pandas as pd
    import torch
    from pytorch_lightning import seed_everything
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    seed_everything(job["seed"], verbose=False)

    def table(person: np.ndarray, item: np.ndarray, ts: np.ndarray) -> Any:
        columns = {
            Columns.User: person,
            Columns.Item: item,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(ts, unit="us"),
        }
        return Dataset.construct(pd.DataFrame(columns))

    model = SASRecModel(
        **job["variant"], session_max_len=job["length"], recommend_torch_device="cpu"
    )
    model.fit(table(learn["person"], learn["item"], learn["ts"]))
    is_learned = np.zeros(int(learn["items"]), bool)
    is_learned[learn["item"]] = True

    def recommend_sasrec(ask: dict[str, np.ndarray], repeats: bool) -> Top:
        owner, item, ts = question_of_row(ask), ask["item"], ask["ts"]
        lists = np.full((len(ask["offsets"]) - 1, K), -1)
        is_known = is_learned[item]
        people = np.unique(owner[is_known])
        recommendations = model.recommend(
            people,
            table(owner[is_known], item[is_known], ts[is_known]),
            k=K,
            filter_viewed=not repeats,
        )
        lists[
            recommendations[Columns.User].to_numpy(), recommendations[Columns.Rank].to_numpy() - 1
        ] = recommendations[Columns.Item].to_numpy()
        return lists

    return recommend_sasrec


MODELS: dict[str, Callable[[dict[str, np.ndarray], dict[str, Any]], Ask]] = {
    "implicit_als": als,
    "implicit_item_item": item_item,
    "rectools_sasrec": sasrec,
}
LOADED = {
    "implicit_als": ("implicit.als", "scipy.sparse"),
    "implicit_item_item": ("implicit.nearest_neighbours", "scipy.sparse"),
    "rectools_sasrec": (
        "rectools.models",
        "rectools.dataset",
        "pandas",
        "torch",
        "pytorch_lightning",
    ),
}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
