"""LightGBM behind FastAPI with Feast's online store, as a team would put them together: `python
serving.py load|serve FOLDER STORE`.

    STORE                   sqlite, or host:port of a Valkey or Redis
    FOLDER/views.json       {"views": {name: {"keys": […], "columns": […]}}, "columns": the matrix's, in order}
    FOLDER/NAME.parquet     a view: its keys, `ts`, and float32 columns
    FOLDER/catalogue.json   item → category, kept in memory
    FOLDER/model.txt        the trees

`load` writes the views into the online store; `serve` prints its port and answers on one thread:

    POST /recommend {"user_id", "country", "items": […], "given": {column: […]}} → {"items":
    [{"item_id", "score"}, … 20, best first]}

One question to Feast an answer, for all candidates and views, by columns; its own `to_dict`. Runs
in an environment without ours.
"""

import json
import os
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SHOWN = 20
ROWS_AT_ONCE = 10_000
KEYS = ("user", "item", "category", "country")


def feature_store(folder: Path, at: str) -> Any:
    from feast import FeatureStore, RepoConfig

    own = folder / at.replace(":", "-")
    own.mkdir(exist_ok=True)
    online: dict[str, Any] = {"type": "sqlite", "path": str(own / "online.db")}
    if at != "sqlite":
        online = {"type": "redis", "connection_string": at}
    # The registry is never looked at again: it does not change, and looking would be a pause in an
    # answer.
    registry = {"path": str(own / "registry.db"), "cache_ttl_seconds": 0}
    return FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=registry,
            online_store=online,
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )


def load(folder: Path, at: str) -> None:
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Float32

    store = feature_store(folder, at)
    views = json.loads((folder / "views.json").read_text())["views"]
    entities = {
        name: Entity(name=name, join_keys=[name], value_type=ValueType.STRING) for name in KEYS
    }
    declared = [
        FeatureView(
            name=name,
            entities=[entities[key] for key in view["keys"]],
            schema=[Field(name=column, dtype=Float32) for column in view["columns"]],
            source=FileSource(path=str(folder / f"{name}.parquet"), timestamp_field="ts"),
            ttl=timedelta(0),  # never too old
        )
        for name, view in views.items()
    ]
    store.apply([*entities.values(), *declared])
    for name in views:
        rows = pd.read_parquet(folder / f"{name}.parquet")
        for start in range(0, len(rows), ROWS_AT_ONCE):
            store.write_to_online_store(name, rows.iloc[start : start + ROWS_AT_ONCE])


def application(folder: Path, at: str) -> Any:
    import lightgbm
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Asked(BaseModel):
        user_id: str
        country: str
        items: list[str]
        given: dict[str, list[float | None]]

    class Shown(BaseModel):
        item_id: str
        score: float

    class Answered(BaseModel):
        items: list[Shown]

    told = json.loads((folder / "views.json").read_text())
    catalogue = json.loads((folder / "catalogue.json").read_text())
    store, model, app = (
        feature_store(folder, at),
        lightgbm.Booster(model_file=str(folder / "model.txt")),
        FastAPI(),
    )
    wanted = [
        f"{name}:{column}" for name, view in told["views"].items() for column in view["columns"]
    ]

    @app.post("/recommend")
    async def recommend(asked: Asked) -> Answered:
        count = len(asked.items)
        keys = {
            "user": [asked.user_id] * count,
            "item": asked.items,
            "category": [catalogue[item] for item in asked.items],
            "country": [asked.country] * count,
        }
        found = store.get_online_features(features=wanted, entity_rows=keys).to_dict() | asked.given
        matrix = np.empty((count, len(told["columns"])), np.float32)
        for place, name in enumerate(told["columns"]):
            matrix[:, place] = np.array(found[name], np.float32)  # None is missing: NaN
        scores = np.asarray(model.predict(matrix, num_threads=1))
        best = np.argsort(-scores, kind="stable")[:SHOWN]
        return Answered(
            items=[
                Shown(item_id=asked.items[row], score=float(scores[row])) for row in best.tolist()
            ]
        )

    return app


def serve(folder: Path, at: str) -> None:
    import uvicorn

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    app = application(folder, at)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    {"load": load, "serve": serve}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
