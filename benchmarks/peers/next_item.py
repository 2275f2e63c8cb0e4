"""What implicit and RecTools list, in the environment of the peers: `.peers/bin/python next_item.py
FOLDER`. Imports nothing of ours.

FOLDER/jobs.json        [{"model", "variant", "seed", "learn": part, "ask": [part …], "repeats", "length", "out"}]
FOLDER/PART.learn.npz   person, item, ts (n,), items ()                 what was done before
FOLDER/PART.ask.npz     item, ts (m,), offsets (questions + 1,)         what each question's person did so far, oldest first
FOLDER/OUT.npz          item (questions, 10), −1 where fewer were found; seconds_fit, seconds_ask: of this process's CPU
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
        found = [
            ask(dict(np.load(folder / f"{part}.ask.npz")), job["repeats"]) for part in job["ask"]
        ]
        spent = {"seconds_fit": fitted - begin, "seconds_ask": time.process_time() - fitted}
        np.savez(folder / f"{job['out']}.npz", item=np.concatenate(found), **spent)


def counted(owner: np.ndarray, item: np.ndarray, owners: int, items: int) -> Any:
    """How often each owner had each item, as a sparse matrix (owners, items)."""
    from scipy.sparse import csr_matrix

    return csr_matrix((np.ones(len(item), np.float32), (owner, item)), shape=(owners, items))


def owners(ask: dict[str, np.ndarray]) -> np.ndarray:
    return np.repeat(np.arange(len(ask["offsets"]) - 1), np.diff(ask["offsets"]))


def als(learn: dict[str, np.ndarray], job: dict[str, Any]) -> Ask:
    """Alternating least squares of implicit; the vector of a question is solved for, as for a
    person who is new.
    """
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        **job["variant"], random_state=job["seed"], num_threads=1, use_gpu=False
    )
    items = int(learn["items"])
    model.fit(
        counted(learn["person"], learn["item"], int(learn["person"].max()) + 1, items),
        show_progress=False,
    )
    return lambda ask, repeats: listed(model, ask, items, repeats, recalculate_user=True)


def item_item(learn: dict[str, np.ndarray], job: dict[str, Any]) -> Ask:
    """Nearest items of implicit, by cosine, TF-IDF or BM25."""
    from implicit import nearest_neighbours

    given = dict(job["variant"])
    model = getattr(nearest_neighbours, given.pop("kind"))(**given, num_threads=1)
    items = int(learn["items"])
    model.fit(
        counted(learn["person"], learn["item"], int(learn["person"].max()) + 1, items),
        show_progress=False,
    )
    return lambda ask, repeats: listed(model, ask, items, repeats)


def listed(model: Any, ask: dict[str, np.ndarray], items: int, repeats: bool, **more: Any) -> Top:
    questions = len(ask["offsets"]) - 1
    had = counted(owners(ask), ask["item"], questions, items)
    found, score = model.recommend(
        np.arange(questions), had, N=K, filter_already_liked_items=not repeats, **more
    )
    return np.where(score > -1e30, found, -1)[:, :K]


def sasrec(learn: dict[str, np.ndarray], job: dict[str, Any]) -> Ask:
    """RecTools' SASRec; each question is asked as a person of its own, whose past is the
    question's.
    """
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
    known = np.zeros(int(learn["items"]), bool)
    known[learn["item"]] = True

    def ask_(ask: dict[str, np.ndarray], repeats: bool) -> Top:
        owner, item, ts = owners(ask), ask["item"], ask["ts"]
        found = np.full((len(ask["offsets"]) - 1, K), -1)
        seen = known[item]
        asked = np.unique(owner[seen])
        told = model.recommend(
            asked, table(owner[seen], item[seen], ts[seen]), k=K, filter_viewed=not repeats
        )
        found[told[Columns.User].to_numpy(), told[Columns.Rank].to_numpy() - 1] = told[
            Columns.Item
        ].to_numpy()
        return found

    return ask_


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
