"""The peer of `benchmarks.serving`: LightGBM behind FastAPI with Feast's online store.

It runs in the environment of `make peers`. It is given what it has no part for: the candidates of
each question, found by our retrieval, and the columns that candidate sources and the user's last
items make of them. It looks up the other 41 columns by user, item, user × category and item ×
country, as floats that were computed before, scores them by the same trees, and returns the best
twenty. Its stores hold only what is requested. So it does less than ours: no retrieval, no windows
that end now, no choice by a policy, no log. Each response is checked for equal scores.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.install import SERVING, interpreter, last_error
from benchmarks.serving_site import CATEGORIES, CLOCK, SLOTS, Site, item
from tailorbird.events.keys import hash64s
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.serving.messages import RecommendQuery
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.models.state import StateReader
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle

SCRIPT = Path(__file__).with_name("peers") / "serving.py"
SHOWN = 20
TOLERANCE = 1e-5  # of a probability, between trees by LightGBM and by ONNX Runtime
KEYS = {
    "items": ("item",),
    "users": ("user",),
    "mine": ("user", "category"),
    "places": ("item", "country"),
}


@dataclass(frozen=True)
class Question:
    """A request for the peer, and the scores that it has to return.

    Attributes:
        scores: shape (20,), of the best, descending.
    """

    body: dict
    scores: np.ndarray


def view_of_column(column: str, live: Sequence[str]) -> str:
    """Return the view that holds a column of the matrix; "" if it comes with the question."""
    if column == "recent_age" or column in live:
        return ""
    if column.startswith("mine_") or column == "category_share":
        return "mine"
    if column == "item_here_7d":
        return "places"
    return "users" if column.startswith(("user_", "session_")) else "items"


def prepare_peers(site: Site, bodies: Sequence[dict], folder: Path) -> list[Question]:
    """Write the peer's files for these requests and return the questions in its format."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = [item(number) for number in range(site.size.items)]
    numbers = {key: number for number, key in enumerate(hash64s(names).tolist())}
    bundle = site.bundle()
    columns, live = bundle.encoder.names, bundle.encoder.live_columns.names
    tables: dict[str, dict[tuple[str, ...], np.ndarray]] = {view: {} for view in KEYS}
    places = {
        view: [at for at, column in enumerate(columns) if view_of_column(column, live) == view]
        for view in ("", *KEYS)
    }
    questions = []
    for body, (keys, matrix) in zip(bodies, _candidate_matrices(site, bundle, bodies), strict=True):
        chosen = [numbers[key] for key in keys.tolist()]
        country = body["context"]["country"]
        for number, row in zip(chosen, matrix, strict=True):
            values_by_key = {
                "user": body["user_id"],
                "item": names[number],
                "category": _category(number),
                "country": country,
            }
            for view, key_names in KEYS.items():
                key = tuple(values_by_key[key_name] for key_name in key_names)
                before = tables[view].setdefault(key, row[places[view]])
                assert np.array_equal(before, row[places[view]], equal_nan=True), (
                    f"{view} is no function of {key_names}"
                )
        given = {columns[at]: _to_json_list(matrix[:, at]) for at in places[""]}
        scores = np.sort(next(iter(bundle.raw_scores(matrix).values())))[::-1][:SHOWN]
        request = {
            "user_id": body["user_id"],
            "country": country,
            "items": [names[number] for number in chosen],
            "given": given,
        }
        questions.append(Question(request, scores))
    for view, rows in tables.items():
        parts = {key: pa.array([each[at] for each in rows]) for at, key in enumerate(KEYS[view])}
        values = np.stack(list(rows.values()))
        parts |= {columns[at]: pa.array(values[:, place]) for place, at in enumerate(places[view])}
        parts["ts"] = pa.array(np.full(len(rows), CLOCK.now())).cast(pa.timestamp("us", tz="UTC"))
        pq.write_table(pa.table(parts), folder / f"{view}.parquet")
    views = {
        view: {"keys": KEYS[view], "columns": [columns[at] for at in places[view]]} for view in KEYS
    }
    (folder / "views.json").write_text(json.dumps({"views": views, "columns": columns}))
    (folder / "catalogue.json").write_text(
        json.dumps({name: _category(number) for number, name in enumerate(names)})
    )
    shutil.copy(site.model, folder / "model.txt")
    return questions


def _candidate_matrices(
    site: Site, bundle: Bundle, bodies: Sequence[dict]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield candidate keys and matrix of each question, as our own pipeline computes them."""
    recorded: list[tuple[np.ndarray, np.ndarray]] = []
    encode = Encoder.encode_request

    def record_matrix(encoder, rows, item_keys, *further):
        matrix = encode(encoder, rows, item_keys, *further)
        recorded.append((item_keys, matrix))
        return matrix

    reader = StateReader(site.state, site.features)
    readings, rng, tables = (
        SingleSchema(site.features, reader),
        np.random.default_rng(1),
        site.tables(),
    )
    pipeline = Pipeline(
        slots=SLOTS,
        bundle_selector=FixedBundle(bundle),
        feature_provider=readings,
        response_log=None,
        clock=CLOCK,
        rng=rng,
        table_provider=tables,
    )
    Encoder.encode_request = record_matrix  # type: ignore[method-assign]
    try:
        for body in bodies:
            pipeline.answer(msgspec.convert(body, RecommendQuery))
            yield recorded[-1]
    finally:
        Encoder.encode_request = encode


def _category(number: int) -> str:
    return f"c{number % CATEGORIES}"


def _to_json_list(column: np.ndarray) -> list[float | None]:
    return [None if value != value else value for value in column.astype(float).tolist()]


def store_problems() -> dict[str, str]:
    """Return each kind of store with the reason why it cannot run here, or ""."""
    reason = "" if interpreter(SERVING).exists() else f"no {interpreter(SERVING)}: make peers"
    valkey = reason or ("" if _valkey() else "no valkey-server and no redis-server on the path")
    return {"feast_sqlite": reason, "feast_valkey": valkey}


def _valkey() -> str | None:
    return shutil.which("valkey-server") or shutil.which("redis-server")


@contextmanager
def run_peer(kind: str, folder: Path) -> Iterator[int]:
    """Run the peer over one kind of store and yield its port.

    Raises:
        RuntimeError: it did not load or start; with the last line of its output.
    """
    if kind == "feast_sqlite":
        with _serve("sqlite", folder) as port:
            yield port
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    command = [
        _valkey() or "",
        "--port",
        str(number),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for(number)
        with _serve(f"127.0.0.1:{number}", folder) as port:
            yield port
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def _serve(address: str, folder: Path) -> Iterator[int]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "FEAST_USAGE": "False"}
    python = str(interpreter(SERVING))
    loading = subprocess.run(
        [python, str(SCRIPT), "load", str(folder), address],
        env=environment,
        capture_output=True,
        text=True,
    )
    if loading.returncode:
        raise RuntimeError(last_error(loading.stderr))
    log = folder / "serve.log"
    with log.open("w") as log_file:
        command = [python, str(SCRIPT), "serve", str(folder), address]
        server = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log_file, text=True
        )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise RuntimeError(last_error(log.read_text()))
        yield int(line)
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nothing answers at port {port}")


def check_scores(answer: bytes, question: Question) -> None:
    """Raise AssertionError unless the response has the scores of our trees for the same rows."""
    reply: Mapping = json.loads(answer)
    scores = np.array([scored_item["score"] for scored_item in reply["items"]])
    largest_error = float(np.abs(scores - question.scores).max())
    assert largest_error <= TOLERANCE, f"the peer's scores differ by {largest_error:.2g}"
