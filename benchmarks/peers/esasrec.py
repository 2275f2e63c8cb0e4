"""RecTools' eSASRec, as its README names it: SASRec with LiGR layers and sampled softmax.
`.peers/bin/python esasrec.py FOLDER`.

    FOLDER/job.json      {"settings": of SASRecModel, "epochs": [ascending], "patience", "seed", "k", "repeats"}
    FOLDER/learn.npz     person, item, ts (n,)                          what was done before
    FOLDER/ask.npz       item, ts (m,), offsets (questions + 1,)        what each question's person did so far, oldest first
                         truth (questions,)                             what it did next; only where it stops early
    FOLDER/said.npz      item (looks, questions, k), −1 where fewer were found; seconds_fit (looks,): of this process's CPU until then

It is asked after each of the numbers of epochs. With a patience, it stops after so many looks whose
NDCG@10 was not above the best. Each question is asked as a person of its own, whose past is the
question's. Imports nothing of ours.
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
    data = table(learn["person"], learn["item"], learn["ts"])
    listed: list[np.ndarray] = []
    values: list[float] = []
    seconds, learned = [0.0], 0
    for epochs in job["epochs"]:
        begun = time.process_time()
        model.fit_partial(data, min_epochs=epochs - learned, max_epochs=epochs - learned)
        seconds.append(seconds[-1] + time.process_time() - begun)
        learned = epochs
        listed.append(answers(model, learn["item"], ask, job["k"], job["repeats"]))
        if job["patience"]:
            values.append(ndcg_10(listed[-1], ask["truth"]))
            if len(values) - 1 - int(np.argmax(values)) >= job["patience"]:
                break
    np.savez(folder / "said.npz", item=np.stack(listed), seconds_fit=np.array(seconds[1:]))


def ndcg_10(listed: np.ndarray, truth: np.ndarray) -> float:
    """Mean over questions with one right item each."""
    hit = listed[:, :10] == truth[:, None]
    return float((hit / np.log2(np.arange(2, 12))).sum(axis=1).mean())


def table(person: np.ndarray, item: np.ndarray, ts: np.ndarray) -> Any:
    columns = {
        Columns.User: person,
        Columns.Item: item,
        Columns.Weight: 1.0,
        Columns.Datetime: pd.to_datetime(ts, unit="us"),
    }
    return Dataset.construct(pd.DataFrame(columns))


def answers(
    model: Any, learned: np.ndarray, ask: dict[str, np.ndarray], k: int, repeats: bool
) -> np.ndarray:
    """The best `k` for each question; none where its past holds no item that was learned."""
    size = np.diff(ask["offsets"])
    owner, item, ts = np.repeat(np.arange(len(size)), size), ask["item"], ask["ts"]
    seen = np.isin(item, learned)
    found = np.full((len(size), k), -1)
    for low in range(0, len(size), QUESTIONS):
        part = seen & (owner >= low) & (owner < low + QUESTIONS)
        if part.any():
            asked = np.unique(owner[part])
            told = model.recommend(
                asked, table(owner[part], item[part], ts[part]), k=k, filter_viewed=not repeats
            )
            found[told[Columns.User].to_numpy(), told[Columns.Rank].to_numpy() - 1] = told[
                Columns.Item
            ].to_numpy()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
