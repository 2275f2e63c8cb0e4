"""A small site whose people are canaries: each of their ids and texts says so, so that a search for
one word finds what is left of them.
"""

import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.support.commands import environment
from tests.support.roles import make_project
from tests.support.shops.evolving_shop import make_item_events, promote

from tailorbird.config import Project, open_project
from tailorbird.errors import NotReadyError
from tailorbird.events import HOUR, MINUTE, SECOND, SystemClock, hash64
from tailorbird.features.migration.erase import is_personal
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.request import ReadRequest
from tailorbird.features.state.state import Records, open_state
from tailorbird.platform.inprocess import InProcessServer
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.privacy import People, SearchReport, search_project
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.messages import RecommendQuery
from tailorbird.serving.scores.log import BLOCK_KIND, Scored, encode_scores
from tailorbird.stream import Block, open_reader, open_writer
from tailorbird.stream.importer import import_files

CLOCK = SystemClock()
CANARY = b"canary-"
FEATURES = """
from tailorbird.features import attribute, decayed, distinct, first, quantile, seen
flat_seller = attribute("flat_seller", item, "seller", kind="categorical")
item_users = distinct("item_users", item, "click", of="user", window="28d", precision=8)
item_sessions = distinct("item_sessions", item, "view", of="session", window="28d", precision=5)
everyone_users = distinct("everyone_users", everyone, ["view", "click", "answer"], of="user", window="28d", precision=6)
item_last_price = last("item_last_price", item, ["click", "purchase"], of="price")
item_first_device = first("item_first_device", item, "click", of="device")
item_phone = count("item_phone", item, "click", window="7d", where="device == 'phone'")
item_income = total("item_income", item, "purchase", of="price", unit=0.01, max=1000, window="28d")
item_heat = decayed("item_heat", item, "view", half_life="2d")
device_clicks = count("device_clicks", entity("device"), "click", window="7d")
"""
EVENT_TYPES = ("view", "click", "view", "purchase")


@dataclass
class Site:
    """The project, whose canaries are `users`; `requests` are theirs, in an id that does not say
    so.
    """

    root: Path
    users: list[str]
    requests: list[str] = field(default_factory=list)

    @property
    def project(self) -> Project:
        return open_project(self.root)

    @property
    def hashes(self) -> list[bytes]:
        """The forms in which records know the canaries."""
        texts = [
            text
            for user in self.users
            for text in (user, anonymous_of(user), f"anon:{anonymous_of(user)}")
        ]
        return [hash64(text).to_bytes(8, order) for text in texts for order in ("big", "little")]


def make_score(user: str) -> Scored:
    timestamps = {"ts": CLOCK.now(), "scored_at": CLOCK.now()}
    return Scored(
        id=f"1-home-{user}",
        name="home",
        p=1,
        event_id=f"{user}-0",
        type="click",
        person=user,
        user_id=user,
        model="v1",
        **timestamps,
    )


def anonymous_of(user: str) -> str:
    return user.replace("-user-", "-visitor-")


def make_site(folder: Path, *, canaries: int, others: int = 14, settings: str = "") -> Site:
    """A site with a past that was imported and a present that came through the collector, with answers,
    refusals and repeats.
    """
    root = make_project(folder / "shop").root
    (root / "features.py").write_text((root / "features.py").read_text() + FEATURES)
    if settings:
        (root / "tailorbird.toml").write_text((root / "tailorbird.toml").read_text() + settings)
    site = Site(root, [f"canary-user-{number:03d}" for number in range(canaries)])
    people = [*site.users, *(f"other-user-{number:03d}" for number in range(others))]
    project = open_project(root)
    promote(project, project.features, "old")
    history = folder / "history.jsonl"
    history.write_text("\n".join(json.dumps(event) for event in make_imported_events(people)))
    import_files(project.paths.stream, "tailorbird", history, plan=project.plan, clock=CLOCK)
    with (
        EventCollector(project.stream, "serve-1", project.plan, CLOCK) as collector,
        InProcessRoles(project, CLOCK) as roles,
    ):
        collector.submit(json.dumps(make_item_events()).encode())
        collector.submit(
            json.dumps([event for user in site.users for event in make_events_about(user)]).encode()
        )
        roles.drain()
        for chunk_start in range(0, len(people), 10):
            collector.submit(
                json.dumps(
                    [
                        event
                        for user in people[chunk_start : chunk_start + 10]
                        for event in make_collected_events(user)
                    ]
                ).encode()
            )
            roles.step()
            roles.lake.step()
        collector.submit(b"\n".join(make_refused_row(user) for user in people), "ndjson")
        collector.submit(
            json.dumps(
                [event for user in people[:9] for event in make_collected_events(user)]
            ).encode()
        )  # all of it again
        server = InProcessServer(project, CLOCK, collector=collector, seed=1)
        for user in (*people[: min(8, canaries)], *people[-6:]):
            request = RecommendQuery(slot="home", user_id=user, session_id=f"{user}-session")
            answer = server.pipeline.answer(request)
            site.requests += [answer.request_id] if user in site.users else []
            shown_item = {"request_id": answer.request_id, "item_id": answer.items[0].item_id}
            clicks = [
                {"event_id": f"{user}-follows", "type": "click", "user_id": user} | shown_item
            ]
            clicks.append(
                {
                    "event_id": f"friend-of-{len(site.requests)}-{user == people[-1]}",
                    "type": "view",
                    "user_id": people[-2],
                }
                | shown_item
            )
            collector.submit(json.dumps(clicks).encode())
            roles.step()
        server.close()
        collector.close()
        roles.drain()
        while roles.lake.upkeep(include_unsettled=True):
            pass
        for worker in roles.workers.values():
            worker.publish_progress()
    if not project.stream.is_remote:
        with open_writer(project.stream.scores, partition="scores", first_position=1) as scores:
            scores.append(
                [Block(BLOCK_KIND, 1, encode_scores([make_score(user)])) for user in people]
            )
    return site


def make_imported_events(people: Sequence[str]) -> Iterator[dict]:
    """What was imported: in whole minutes, so that much happened at the same time."""
    start = CLOCK.now() // HOUR * HOUR - 72 * HOUR
    for number, user in enumerate(people):
        for step in range(6):
            context = {"device": "phone" if number % 2 else "desktop", "page": f"/of/{user}"}
            yield {
                "event_id": f"{user}-past-{step}",
                "type": EVENT_TYPES[step % 4],
                "user_id": user,
                "session_id": f"{user}-old",
                "item_id": f"i{(number + step) % 12}",
                "ts": start + (number % 3 + step) * 7 * MINUTE,
                "context": context,
                "properties": {"price": 5.0 + step, "note": f"{user} says so"},
            }
        profile = {"properties": {"mail": f"{user}@example.com"}}
        yield {
            "event_id": f"{user}-timeless",
            "type": "user",
            "user_id": user,
            "timeless": True,
            **profile,
        }


def make_events_about(user: str) -> list[dict]:
    """What others say of somebody: items that are theirs to sell, one of them in a second version,
    and a friend's profile.
    """
    flat_id, friend_id = f"flat-{user[-3:]}", f"friend-{user[-3:]}"
    flat_properties = {
        "seller": user,
        "category": "flats",
        "stock": 1,
        "text": f"Call {user}, or {anonymous_of(user)}!",
        f"rated by {user}": 5,
    }
    return [
        {
            "event_id": f"{flat_id}-1",
            "type": "item",
            "item_id": flat_id,
            "timeless": True,
            "properties": flat_properties,
        },
        {
            "event_id": f"{flat_id}-2",
            "type": "item",
            "item_id": flat_id,
            "properties": flat_properties | {"price": 70},
        },
        {
            "event_id": f"{friend_id}-p",
            "type": "user",
            "user_id": friend_id,
            "properties": {"friend": user, "age": 30},
        },
        {
            "event_id": f"{friend_id}-c",
            "type": "click",
            "user_id": friend_id,
            "item_id": flat_id,
            "context": {"page": f"/by/{user}"},
        },
    ]


def make_collected_events(user: str) -> list[dict]:
    """What came through the collector: first without a name, then with one."""
    number, visitor_fields = (
        int(user[-3:]),
        {"anonymous_id": anonymous_of(user), "session_id": f"{user}-session"},
    )
    context_fields = {
        "context": {
            "device": "phone",
            "country": "NO",
            "page": f"https://shop/u/{user}",
            "referrer": f"https://find/{user}",
        }
    }
    identified_fields = {"user_id": user, **visitor_fields, **context_fields}
    visit_ts = CLOCK.now() - number % 7 * SECOND
    purchase_properties = {"price": 12.5, "gift": f"from {user}"}
    return [
        {"event_id": f"{user}-0", "type": "view", "item_id": f"i{number % 9}", "ts": visit_ts}
        | visitor_fields,
        {"event_id": f"{user}-1", "type": "search", "properties": {"query": f"the wish of {user}"}}
        | visitor_fields
        | context_fields,
        {"event_id": f"{user}-2", "type": "identify", "user_id": user} | visitor_fields,
        {
            "event_id": f"{user}-3",
            "type": "user",
            "user_id": user,
            "properties": {"mail": f"{user}@example.com", "age": 40},
        },
        {"event_id": f"{user}-4", "type": "click", "item_id": f"i{number % 5}", "ts": visit_ts + 9}
        | identified_fields,
        {"event_id": f"{user}-5", "type": "click", "item_id": f"i{number % 5}"} | visitor_fields,
        {
            "event_id": f"{user}-6",
            "type": "purchase",
            "item_id": f"i{number % 4}",
            "properties": purchase_properties,
        }
        | identified_fields,
    ]


def make_refused_row(user: str) -> bytes:
    """A row that the contract refuses, each third of them no JSON at all."""
    row_text = json.dumps(
        {"event_id": f"{user}-bad", "type": "clack", "user_id": user, "item_id": "i1"}
    )
    return (row_text if int(user[-3:]) % 3 else row_text[:-9]).encode()


def read_impersonal_states(project: Project) -> dict[tuple[str, int], bytes]:
    """By entity and key, all states that are about no person, but for the hashes of event ids that
    break ties in time.
    """
    states_by_entity_key: dict[tuple[str, int], bytes] = {}
    store = open_state(project.paths.state, project.features)
    try:
        with store.snapshot() as snapshot:
            for layout in project.features.layout.entities:
                if is_personal(layout.entity):
                    continue
                prefix = b"s" + layout.index.to_bytes(2, "big")
                keys = np.array(
                    [int.from_bytes(key[3:], "big") for key, _ in snapshot.scan(prefix)], np.uint64
                )
                lanes = Records(layout).states(snapshot, keys)
                for entry in (*layout.lasts, *layout.first_values):
                    lanes[:, entry.lane + 1] = 0
                for key, row in zip(keys.tolist(), lanes, strict=True):
                    states_by_entity_key[layout.entity.name, key] = row.tobytes()
    finally:
        store.close()
    return states_by_entity_key


def find_ids(project: Project, ids: Sequence[str]) -> SearchReport:
    """Search a project for users, or for visitors as anon:ID."""
    visitors = frozenset(one.removeprefix("anon:") for one in ids if one.startswith("anon:"))
    users = frozenset(one for one in ids if not one.startswith("anon:"))
    return search_project(project, People(users, visitors))


# What the erased contributed to: counts of different people, sessions and texts, values that are
# told apart by texts, and the last or first value of an item, which events of one time decide.
MOVING = re.compile(
    "item_users|item_sessions|everyone_users|item_last_price|item_phone|device_clicks"
    "|(country|age)_.*|expected_ctr"
)


def read_values(
    project: Project, people: Sequence[str], items: Sequence[str], now: int
) -> dict[tuple[str, str, str], float | None]:
    """Return by person, item and name the feature values that an erasure must not move."""
    reader = Reader(project.paths.state, project.features, workers=project.workers)
    try:
        values: dict[tuple[str, str, str], float | None] = {}
        for person in people:
            rows = reader.read(ReadRequest(person=person, now=now), items)
            for item, row in zip(items, rows.numeric, strict=True):
                for name, value in zip(project.features.numeric, row, strict=True):
                    if not MOVING.fullmatch(name):
                        values[person, item, name] = None if np.isnan(value) else float(value)
        return values
    finally:
        reader.close()


def rebuild_impersonal_states(project: Project) -> dict[tuple[str, int], bytes]:
    """Return `read_impersonal_states`, as they are built from the log or the lake anew, by a project that has none."""
    with FeatureWorker(
        project.routed, project.paths.state, project.features, clock=CLOCK
    ) as worker:
        while worker.step().rows:
            pass
    return read_impersonal_states(project)


def read_all_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """All that the files below a folder hold, unpacked as far as there is something packed in
    them.
    """
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(root).as_posix()
        yield name, name.encode() + b"\n" + path.read_bytes()
        if path.suffix == ".parquet":
            yield f"{name} unpacked", _encode_rows(pq.read_table(path, partitioning=None))
        elif path.suffix == ".zst":
            with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
                yield f"{name} unpacked", stream.read()
        elif path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                yield from (
                    (f"{name}/{member}", archive.read(member)) for member in archive.namelist()
                )
        elif path.suffix == ".db":
            yield from _read_blocks(path, name)


def find_in_files(root: Path, *needles: bytes) -> list[str]:
    """The files in which something stands, and what."""
    return sorted(
        {
            f"{name}: {needle!r}"
            for name, data in read_all_files(root)
            for needle in needles
            if needle in data
        }
    )


def _encode_rows(table: pa.Table) -> bytes:
    return json.dumps(
        table.to_pylist(),
        default=lambda value: (
            value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        ),
    ).encode()


def _read_blocks(path: Path, name: str) -> Iterator[tuple[str, bytes]]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    if (
        connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'block'").fetchone() is None
    ):  # a router's tables alone
        return
    for offset, kind, payload in connection.execute("SELECT offset, kind, payload FROM block"):
        is_packed = kind in ("events", "quarantine", "duplicates")
        yield (
            f"{name} at {offset}",
            _encode_rows(pa.ipc.open_stream(io.BytesIO(payload)).read_all())
            if is_packed
            else payload,
        )
    connection.close()


def read_all_topics(project: Project) -> Iterator[tuple[str, bytes]]:
    """All that the topics of a project hold: every message with its headers, and what is packed in
    the blocks of the logs.
    """
    from confluent_kafka import Consumer, TopicPartition

    assert project.stream.is_remote
    cluster = project.stream.cluster
    consumer = Consumer(
        cluster.conf(group_id="search", enable_auto_commit=False, auto_offset_reset="earliest")
    )
    topic_by_name = consumer.list_topics(timeout=10).topics
    for name, topic in sorted(topic_by_name.items()):
        for partition in topic.partitions if name.startswith(f"{cluster.prefix}.") else ():
            low, high = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=10)
            consumer.assign([TopicPartition(name, partition, low)])
            while low < high:
                for message in consumer.consume(100, timeout=1):
                    assert message.error() is None, message.error()
                    low = message.offset() + 1
                    yield (
                        f"{name}@{message.offset()}",
                        repr(message.headers()).encode()
                        + (message.key() or b"")
                        + (message.value() or b""),
                    )
    consumer.close()
    for log_addresses in (
        project.stream.share(0, project.paths.stream).raw_logs().values(),
        project.stream.response_logs().values(),
    ):
        yield from (each for address in log_addresses for each in _read_packed_blocks(address))
    for partition in range(project.stream.partition_count):
        yield from _read_packed_blocks(project.stream.share(partition, project.paths.stream).routed)
        yield from _read_packed_blocks(
            project.stream.share(partition, project.paths.stream).snapshots
        )


def _read_packed_blocks(address: Any) -> Iterator[tuple[str, bytes]]:
    with suppress(NotReadyError), open_reader(address) as reader:
        position = reader.start()
        while stored_blocks := reader.read(position):
            for stored_block in stored_blocks:
                if stored_block.block.kind in ("events", "quarantine", "duplicates"):
                    yield (
                        f"{address} {stored_block.offset}",
                        _encode_rows(
                            pa.ipc.open_stream(io.BytesIO(stored_block.block.payload)).read_all()
                        ),
                    )
                elif stored_block.block.kind in ("index", "piece"):
                    size = int(stored_block.block.receipt)
                    yield (
                        f"{address} {stored_block.offset}",
                        pa.decompress(
                            stored_block.block.payload,
                            decompressed_size=size,
                            codec="zstd",
                            asbytes=True,
                        ),
                    )
            position = stored_blocks[-1].end


_ERASURE_PROGRAM = """
import json, os, shutil, signal, sys, traceback
from pathlib import Path
import tailorbird.privacy, tailorbird.platform.runtime.roles  # once for all
from tailorbird import faults

def erase(root, users):
    from tailorbird.platform.runtime.roles import drain
    from tailorbird.config import open_project
    from tailorbird.events import SystemClock
    from tailorbird.privacy import erase
    project, clock = open_project(root), SystemClock()
    drain(project, clock, progress=lambda stage, done, total: None)
    receipt = erase(project, users, clock)
    result = [receipt.is_clean, [match.path for match in receipt.searched.matches]]
    (root.parent / "clean").write_text(json.dumps(result))

def child(armed, root, users):
    pid = os.fork()
    if not pid:
        os.environ["TAILORBIRD_FAULTS"] = armed
        faults._load_faults.cache_clear()
        try:
            erase(root, users)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

source_root, folder, users, runs = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4])
for number, (armed, again) in enumerate(runs):
    root = folder / str(number) / "shop"
    shutil.copytree(source_root, root)
    ended = [child(armed, root, users)] + ([child("", root, users)] if again else [])
    (root.parent / "ended").write_text(json.dumps(ended))
"""


@dataclass(frozen=True)
class ErasureRun:
    """How an erasure of a copy of a site ended, in a process of its own: exit codes of each try,
    and what the last one said of itself: `found` are paths where it still found the people.
    """

    root: Path
    exit_codes: list[int]
    is_clean: bool | None
    found: list[str]


def erase_copies(site: Site, folder: Path, runs: Sequence[tuple[str, bool]]) -> list[ErasureRun]:
    """Erase the canaries of copies of a site, each with other faults armed, and again without any
    where that is asked for.
    """
    program = [
        sys.executable,
        "-c",
        _ERASURE_PROGRAM,
        str(site.root),
        str(folder),
        json.dumps(site.users),
        json.dumps(runs),
    ]
    completed = subprocess.run(
        program, env=environment(), timeout=600, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    erasure_runs: list[ErasureRun] = []
    for number in range(len(runs)):
        result_file = folder / str(number) / "clean"
        clean, matched_paths = (
            json.loads(result_file.read_text()) if result_file.exists() else (None, [])
        )
        exit_codes = json.loads((folder / str(number) / "ended").read_text())
        assert 3 not in exit_codes, completed.stderr
        erasure_runs.append(
            ErasureRun(folder / str(number) / "shop", exit_codes, clean, matched_paths)
        )
    return erasure_runs
