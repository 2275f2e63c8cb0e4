"""Small logs as collector, router and server write them, for the tests of the lake."""

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from tests.support.network.bucket import BUCKET, Home, s3_server

from tailorbird.events.answer_record import ResponseRecord, encode_responses
from tailorbird.events.clock import DAY, SECOND
from tailorbird.events.contract.schema import QUARANTINE, ROUTED
from tailorbird.events.contract.verdict import Receipt
from tailorbird.lake.tables import DUPLICATES_SCHEMA
from tailorbird.storage_paths import StoragePath, open_storage
from tailorbird.stream import Block, open_writer, raw_path, response_log_path, routed_path

START = 20_000 * DAY  # 2024-10-04
KINDS = ("click", "view", "item", "user")


def ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def columns(schema: pa.Schema, rows: int, **given: object) -> pa.Table:
    """A table of nulls but for what is given."""
    return pa.table(
        {
            f.name: pa.array(given[f.name], f.type) if f.name in given else pa.nulls(rows, f.type)
            for f in schema
        },
        schema=schema,
    )


def events(
    first: int,
    rows: int,
    *,
    partition: str = "collector",
    span: int = 3 * DAY,
    raw: np.ndarray | None = None,
) -> pa.Table:
    """`rows` events from p = `first` on; event k is made of raw row k - 1 unless `raw` says."""
    p = np.arange(first, first + rows)
    raw = p - 1 if raw is None else raw
    kinds = [KINDS[k % len(KINDS)] for k in raw.tolist()]
    ts = START + (p * 7_919 * SECOND) % span
    return columns(
        ROUTED,
        rows,
        p=p,
        event_id=[f"e{k}" for k in raw.tolist()],
        type=kinds,
        ts=ts,
        received_at=START + p * SECOND,
        user_id=[
            None if kind == "item" else f"u{k % 50}"
            for k, kind in zip(raw.tolist(), kinds, strict=True)
        ],
        person=[
            None if kind == "item" else f"u{k % 50}"
            for k, kind in zip(raw.tolist(), kinds, strict=True)
        ],
        item_id=[
            None if kind == "user" else f"i{k % 20}"
            for k, kind in zip(raw.tolist(), kinds, strict=True)
        ],
        properties=['{"colour": "red"}'] * rows,
        counts=[True] * rows,
        timeless=[False] * rows,
        raw_partition=[partition] * rows,
        raw_offset=raw,
        raw_row=[0] * rows,
    )


def quarantine(raw: list[int], *, partition: str = "collector") -> pa.Table:
    n = len(raw)
    return columns(
        QUARANTINE,
        n,
        received_at=[START + k for k in raw],
        source=["collector"] * n,
        code=["bad"] * n,
        path=["$.ts"] * n,
        message=["no"] * n,
        body=[b'\x00{"half": ' + bytes([255, 10, k % 256]) for k in raw],
        raw_partition=[partition] * n,
        raw_offset=raw,
        raw_row=[0] * n,
    )


def duplicates(raw: list[int], first: list[int], *, partition: str = "collector") -> pa.Table:
    n = len(raw)
    return columns(
        DUPLICATES_SCHEMA,
        n,
        event_id=[f"e{k}" for k in first],
        raw_partition=[partition] * n,
        raw_offset=raw,
        raw_row=[0] * n,
        first_partition=[partition] * n,
        first_offset=first,
        first_row=[0] * n,
    )


def answer(k: int) -> ResponseRecord:
    return ResponseRecord(
        request_id=f"r{k}",
        ts=START + k,
        p=k,
        commit=k,
        schema_hash="abc",
        person=f"u{k}",
        slot="home",
        local_hour=k % 24,
        items=["i1", "i2"],
        sources=["popular", "fresh"],
        propensities=[1.0, 0.5],
        scores=[0.25, 0.125],
        numeric=[1.0, float("nan"), 2.0, 3.0],
        categorical=[2**64 - 1, 0],
        sequences=b"\x80",
        degraded=["store"],
    )


class Site:
    """Logs in `stream`, to which whole rounds of traffic can be added: each is 10 raw rows, one
    refused, one repeated.
    """

    def __init__(self, stream: Path, *, producer: str = "collector") -> None:
        self.stream = stream
        self.producer = producer
        self.rounds = 0
        self.raw = open_writer(raw_path(stream, producer), partition=producer)
        self.routed = open_writer(routed_path(stream), partition="routed", first_position=1)
        self.answers = open_writer(response_log_path(stream, "serve-1"), partition="serve-1")

    def add(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            first = self.rounds * 10
            receipt = msgspec.json.encode(Receipt(received_at=START + first))
            self.raw.append(
                [
                    Block(
                        kind="body",
                        rows=10,
                        payload=b"".join(b'{"n": %d}\n' % k for k in range(first, first + 10)),
                        receipt=receipt,
                    )
                ]
            )
            good = np.arange(first, first + 8)
            table = events(self.routed.end(), 8, partition=self.producer, raw=good)
            self.routed.append(
                [
                    Block(kind="events", rows=8, payload=ipc(table)),
                    Block(
                        kind="quarantine",
                        rows=1,
                        payload=ipc(quarantine([first + 8], partition=self.producer)),
                    ),
                    Block(
                        kind="duplicates",
                        rows=1,
                        payload=ipc(duplicates([first + 9], [first], partition=self.producer)),
                    ),
                ]
            )
            self.answers.append(
                [
                    Block(
                        kind="answers",
                        rows=2,
                        payload=encode_responses(
                            [answer(2 * self.rounds), answer(2 * self.rounds + 1)]
                        ),
                    )
                ]
            )
            self.rounds += 1

    def close(self) -> None:
        for log in (self.raw, self.routed, self.answers):
            log.close()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A server of S3's protocol; its address."""
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(request: pytest.FixtureRequest, s3: str) -> StoragePath:
    """A prefix of its own in a bucket."""
    return open_storage(f"s3://{BUCKET}/{uuid.uuid4().hex}/lake", Path())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TAILORBIRD_TEST_S3") == "all":
        return
    for item in items:
        on_s3 = (
            getattr(item, "callspec", None) is not None and item.callspec.params.get("home") == "s3"
        )  # type: ignore[attr-defined]
        if on_s3 and item.get_closest_marker("long_on_s3"):
            item.add_marker(pytest.mark.skip(reason="long on object storage: make test-s3"))


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """Logs on the disk, and a lake on either kind of storage."""
    return Home(
        tmp_path,
        tmp_path / "lake" if request.param == "local" else request.getfixturevalue("bucket"),
    )


@pytest.fixture
def samples() -> ModuleType:
    """The builders of this module."""
    return sys.modules[__name__]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Logs in `tmp_path / "stream"` with three rounds of traffic."""
    made = Site(tmp_path / "stream")
    made.add(3)
    yield made
    made.close()
