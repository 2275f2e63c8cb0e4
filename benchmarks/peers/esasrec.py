"""RecTools' eSASRec, as its README names it: SASRec with LiGR layers and sampled softmax.

    .peers/bin/python esasrec.py FOLDER

    FOLDER/job.json      {"settings": of SASRecModel, "epochs": [ascending], "patience", "seed",
                         "k", "repeats"}
    FOLDER/learn.npz     person, item, ts (n,)                   past interactions
    FOLDER/ask.npz       item, ts (m,), offsets (questions + 1,) history of each question's person,
                                                                 oldest first
                         truth (questions,)                      the next item; only where it stops
                                                                 early
    FOLDER/said.npz      item (looks, questions, k), −1 for missing places; seconds_fit (looks,):
                         CPU seconds of this process until then

It is evaluated after each of the numbers of epochs. With a patience, it stops after so many
evaluations whose NDCG@10 was not above the best. Each question is a person of its own with the
question's history. Imports nothing of ours.
"""

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.ligr import LiGRLayers

QUESTIONS = 1_000  # asked at once


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    job = json.loads((folder / "job.json").read_text())
    seed_everything(job["seed"], verbose=False)
    learn, ask = (dict(np.load(folder / f"{part}.npz")) for part in ("learn", "ask"))
    model = SASRecModel(
        loss="sampled_softmax",
        transformer_layers_type=LiGRLayers,
        recommend_torch_device="cpu",
        epochs=1,
        **job["settings"],
    )
    dataset = to_dataset(learn["person"], learn["item"], learn["ts"])
    lists: list[np.ndarray] = []
    ndcgs: list[float] = []
    seconds, learned = [0.0], 0
    for epochs in job["epochs"]:
        started = time.process_time()
        model.fit_partial(dataset, min_epochs=epochs - learned, max_epochs=epochs - learned)
        seconds.append(seconds[-1] + time.process_time() - started)
        learned = epochs
        lists.append(recommend_lists(model, learn["item"], ask, job["k"], job["repeats"]))
        if job["patience"]:
            ndcgs.append(ndcg_10(lists[-1], ask["truth"]))
            if len(ndcgs) - 1 - int(np.argmax(ndcgs)) >= job["patience"]:
                break
    np.savez(folder / "said.npz", item=np.stack(lists), seconds_fit=np.array(seconds[1:]))


def ndcg_10(listed: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean NDCG@10 over questions with one relevant item each."""
    hit = listed[:, :10] == truth[:, None]
    return float((hit / np.log2(np.arange(2, 12))).sum(axis=1).mean())


def to_dataset(person: np.ndarray, item: np.ndarray, ts: np.ndarray) -> Any:
    columns = {
        Columns.User: person,
        Columns.Item: item,
        Columns.Weight: 1.0,
        Columns.Datetime: pd.to_datetime(ts, unit="us"),
    }
    return Dataset.construct(pd.DataFrame(columns))


def recommend_lists(
    model: Any, learned: np.ndarray, ask: dict[str, np.ndarray], k: int, repeats: bool
) -> np.ndarray:
    """Return the best `k` items for each question; −1 where no item of its history was learned."""
    size = np.diff(ask["offsets"])
    owner, item, ts = np.repeat(np.arange(len(size)), size), ask["item"], ask["ts"]
    is_known = np.isin(item, learned)
    lists = np.full((len(size), k), -1)
    for low in range(0, len(size), QUESTIONS):
        part = is_known & (owner >= low) & (owner < low + QUESTIONS)
        if part.any():
            people = np.unique(owner[part])
            table_ = model.recommend(
                people,
                to_dataset(owner[part], item[part], ts[part]),
                k=k,
                filter_viewed=not repeats,
            )
            lists[table_[Columns.User].to_numpy(), table_[Columns.Rank].to_numpy() - 1] = table_[
                Columns.Item
            ].to_numpy()
    return lists


if __name__ == "__main__":
    main(Path(sys.argv[1]))
