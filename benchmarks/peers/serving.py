"""LightGBM behind FastAPI with Feast's online store, as a team would put them together.

    python serving.py load|serve FOLDER STORE

    STORE                   sqlite, or host:port of a Valkey or Redis
    FOLDER/views.json       {"views": {name: {"keys": […], "columns": […]}},
                            "columns": the matrix's, in order}
    FOLDER/NAME.parquet     a view: its keys, `ts`, and float32 columns
    FOLDER/catalogue.json   item → category, kept in memory
    FOLDER/model.txt        the trees

`load` writes the views into the online store; `serve` prints its port and answers on one thread:

    POST /recommend {"user_id", "country", "items": […], "given": {column: […]}} → {"items":
    [{"item_id", "score"}, … 20, best first]}

Each response makes one call to Feast for all candidates and views, by columns, with its own
`to_dict`. Runs in an environment without ours.
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
CHUNK_ROWS = 10_000
KEYS = ("user", "item", "category", "country")


def feature_store(folder: Path, store_address: str) -> Any:
    from feast import FeatureStore, RepoConfig

    store_folder = folder / store_address.replace(":", "-")
    store_folder.mkdir(exist_ok=True)
    online: dict[str, Any] = {"type": "sqlite", "path": str(store_folder / "online.db")}
    if store_address != "sqlite":
        online = {"type": "redis", "connection_string": store_address}
    # The registry does not change, and a refresh would delay a response.
    registry = {"path": str(store_folder / "registry.db"), "cache_ttl_seconds": 0}
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


def load(folder: Path, store_address: str) -> None:
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Float32

    store = feature_store(folder, store_address)
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
        for start in range(0, len(rows), CHUNK_ROWS):
            store.write_to_online_store(name, rows.iloc[start : start + CHUNK_ROWS])


def make_application(folder: Path, store_address: str) -> Any:
    import lightgbm
    from fastapi import FastAPI
    from pydantic import BaseModel

    class RecommendRequest(BaseModel):
        user_id: str
        country: str
        items: list[str]
        key_overrides: dict[str, list[float | None]]

    class ScoredItem(BaseModel):
        item_id: str
        score: float

    class RecommendResponse(BaseModel):
        items: list[ScoredItem]

    layout = json.loads((folder / "views.json").read_text())
    catalogue = json.loads((folder / "catalogue.json").read_text())
    store, model, app = (
        feature_store(folder, store_address),
        lightgbm.Booster(model_file=str(folder / "model.txt")),
        FastAPI(),
    )
    feature_names = [
        f"{name}:{column}" for name, view in layout["views"].items() for column in view["columns"]
    ]

    @app.post("/recommend")
    async def recommend(request: RecommendRequest) -> RecommendResponse:
        count = len(request.items)
        keys = {
            "user": [request.user_id] * count,
            "item": request.items,
            "category": [catalogue[item] for item in request.items],
            "country": [request.country] * count,
        }
        columns = (
            store.get_online_features(features=feature_names, entity_rows=keys).to_dict()
            | request.key_overrides
        )
        matrix = np.empty((count, len(layout["columns"])), np.float32)
        for column, name in enumerate(layout["columns"]):
            matrix[:, column] = np.array(columns[name], np.float32)  # None is missing: NaN
        scores = np.asarray(model.predict(matrix, num_threads=1))
        best = np.argsort(-scores, kind="stable")[:SHOWN]
        return RecommendResponse(
            items=[
                ScoredItem(item_id=request.items[row], score=float(scores[row]))
                for row in best.tolist()
            ]
        )

    return app


def serve(folder: Path, store_address: str) -> None:
    import uvicorn

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    app = make_application(folder, store_address)
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
