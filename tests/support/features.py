"""Shared helpers of the feature tests: a set of every kind, events that collide on every edge, a
log, and the comparison.

`conftest.py` hands it out as the fixture `kit`. Run as a program it is a worker that a test can
kill:
    python tests/support/features.py FOLDER
"""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from tailorbird.events import DAY, ROUTED, SECOND, SimulatedClock
from tailorbird.events.keys import hash64
from tailorbird.events.merges import Merge, resolve_merged_user
from tailorbird.features import (
    FeatureSet,
    ReadRequest,
    Rows,
    age,
    attribute,
    attributes,
    context,
    count,
    decayed,
    derived,
    distinct,
    entity,
    favourite,
    first,
    gap_deviation,
    gap_last,
    gap_max,
    gap_mean,
    gap_min,
    last,
    match,
    maximum,
    mean,
    minimum,
    quantile,
    ratio,
    refinements,
    seen,
    sequence,
    session,
    session_depth,
    session_duration,
    session_length,
    share,
    time_since,
    time_since_first,
    total,
    trend,
    variance,
)
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.reference import reference
from tailorbird.stream import Block, EmbeddedWriter, open_writer

if TYPE_CHECKING:
    from tailorbird.features.offline.backfill import Requests

T0 = 1_700_000_000 * SECOND // (60 * SECOND) * (60 * SECOND)  # on the edge of every hop used here
NONE = dict.fromkeys(ROUTED.names)  # a routed event without any value


def every_kind() -> FeatureSet:
    """Short windows, so that a few minutes of events cross many edges."""
    user, item, category = entity("user"), entity("item"), entity("item.category")
    user_and_category, everyone = entity("user", "item.category"), entity()
    visit, device_and_plan = entity("session"), entity("device", "user.plan")
    return FeatureSet.from_declarations(
        [
            count("clicks_1m", item, "click", window="1m", where="agent != 'bot'"),
            count("clicks_2m", item, ["click", "view"], window="2m", hop="30s"),
            count("clicks_1m_30s", item, ["click", "view"], window="1m", hop="30s"),
            count("clicks_ever", everyone, "click"),
            count(
                "bought_of_category",
                user_and_category,
                "purchase",
                window="2m",
                where="item.category in ('c1', 'c2') and not price > 100",
            ),
            count("visit_events", visit, ["click", "view", "purchase"], window="1m"),
            count("plan_device", device_and_plan, ["click", "view"], window="2m"),
            count("basket", user, "purchase", window="2m"),
            total(
                "spend",
                user,
                "purchase",
                of="price * quantity",
                unit=0.01,
                max=1000,
                window="2m",
                hop="30s",
            ),
            total("balance", user, "purchase", of="price - 50", unit=0.25, max=1000, window="1m"),
            mean("price_mean", item, "purchase", of="price", unit=0.01, max=100, window="2m"),
            ratio("ctr", item, "click", "impression", window="1m", prior=category, weight=3),
            ratio(
                "ctr_all",
                item,
                "click",
                "impression",
                window="2m",
                hop="30s",
                prior=everyone,
                weight=0.5,
            ),
            ratio(
                "ctr_fixed",
                category,
                "click",
                ["impression", "view"],
                window="1m",
                prior=0.1,
                weight=2,
            ),
            ratio("ctr_bare", user, "purchase", "click", window="2m"),
            variance(
                "price_variance",
                item,
                "purchase",
                of="price",
                unit=0.01,
                max=1e6,
                window="2m",
                hop="30s",
            ),
            maximum(
                "dearest",
                user,
                "purchase",
                of="price - 50",
                unit=0.01,
                max=1000,
                window="1m",
                hop="30s",
            ),
            minimum(
                "cheapest", item, "purchase", of="price - 50", unit=0.25, max=1000, window="2m"
            ),
            distinct("reach", item, ["click", "view"], of="user", window="1m", hop="30s"),
            distinct("reach_longer", item, ["click", "view"], of="user", window="2m", hop="30s"),
            distinct(
                "items_seen", user, ["click", "impression"], of="item", precision=4, window="2m"
            ),
            distinct(
                "categories",
                everyone,
                ["click", "purchase"],
                of="item.category",
                precision=8,
                where="agent != 'bot'",
            ),
            count("query_searches", entity("query"), "search", window="2m"),
            ratio(
                "query_item_ctr",
                entity("query", "item"),
                "click",
                "impression",
                window="2m",
                prior=item,
                weight=2,
            ),
            time_since("since_query", entity("user", "query"), "search"),
            last("last_item", user, "click", of="item"),
            trend("click_trend", item, ["click", "view"], short="1m", long="3m"),
            trend(
                "user_trend",
                user,
                ["click", "view"],
                short="1m",
                long="2m",
                hop="30s",
                where="agent != 'bot'",
            ),
            share("of_category", item, ["click", "view"], within=category, window="2m", hop="30s"),
            share(
                "of_mine",
                user_and_category,
                "purchase",
                within=user,
                of="price",
                unit=0.01,
                max=100,
                window="2m",
            ),
            decayed("clicks_fading", item, ["click", "view"], half_life="1m"),
            decayed(
                "spend_fading", user, "purchase", half_life="15s", of="price * quantity", max=1000
            ),
            last("last_category", user, "click", of="item.category", kind="categorical"),
            last("last_price", item, "purchase", of="price"),
            last(
                "last_stock", item, "view", of="item.stock", kind="numeric", where="item.stock >= 0"
            ),
            time_since("since_click", user, "click"),
            time_since("since_any", everyone, ["click", "view", "purchase"]),
            time_since_first("since_first", item, ["click", "view"]),
            time_since_first("known_for", user, ["click", "purchase"], where="device == 'phone'"),
            gap_mean("gap", user, ["click", "view", "search"], length=4),
            gap_mean("gap_shown", visit, ["impression", "click"]),
            gap_min("gap_least", user, ["click", "view", "search"], length=4),
            gap_max("gap_most", user, ["click", "view", "search"], length=4),
            gap_deviation("gap_spread", user, ["click", "view", "search"], length=7),
            gap_last("gap_newest", user, "click"),
            session_length("session_any"),
            session_depth("session_depth", ["click", "impression"]),
            session_duration("session_duration"),
            sequence("recent", user, ["click", "purchase"], length=4),
            sequence(
                "seen",
                user,
                "impression",
                length=7,
                of=["position", "item.category", "number(item.stock) * 2"],
            ),
            first("first_category", user, "click", of="item.category", kind="categorical"),
            first("first_price", item, "purchase", of="price"),
            session("session_clicks", "click"),
            refinements("still_looking"),
            favourite(
                "favourite_category", user, ["click", "purchase"], of="item.category", length=5
            ),
            seen("clicked_before", user, "click", length=6),
            seen("category_before", user, ["click", "impression"], of="item.category", length=6),
            quantile("usual_price", user, "purchase", of="price", edges=[1, 20, 100], window="2m"),
            quantile(
                "high_price", user, "purchase", of="price", edges=[1, 20, 100], q=0.9, window="2m"
            ),
            *attributes("category_list", item, "category", kind="categorical", length=2),
            match("category_match", item, "category"),
            age("item_age", item),
            age("stock_age", item, of="stock"),
            session("session_seen", "impression"),
            attribute("category", item, "category", kind="categorical"),
            attribute("stock", item, "stock", kind="numeric"),
            attribute("plan", user, "plan", kind="categorical"),
            attribute("age", user, "age", kind="numeric"),
            context("device"),
            context("local_hour"),
            derived("late_derived", "habit + 1 if local_hour > 12 else missing(age)"),
            derived("price_log", "log1p(price_mean) - log(spend + 0.5) + exp(0 - ctr)"),
            derived("habit", "price_mean / (spend + clicks_2m) - min(stock, age)"),
        ]
    )


def event(type: str, ts: int, **columns: object) -> dict:
    return {
        **NONE,
        "type": type,
        "ts": ts,
        "event_id": f"{type}-{ts}",
        "counts": True,
        "timeless": False,
        **columns,
    }


def routed(events: Sequence[dict], start: int = 1) -> list[dict]:
    """Drop repeats, number the events and say whose they are, as the router does."""
    identifies: dict[str, list[tuple[int, int, str]]] = {}
    merges: dict[str, list[Merge]] = {}
    seen: set[tuple[str, str]] = set()
    numbered_events: list[dict] = []
    for event_row in events:
        owner = event_row["user_id"] or event_row["anonymous_id"] or event_row["item_id"]
        if (owner, event_row["event_id"]) in seen:
            continue
        seen.add((owner, event_row["event_id"]))
        log_position, person = start + len(numbered_events), event_row["user_id"]
        if person is None and event_row["anonymous_id"] is not None:
            identifies_before = [
                identify
                for identify in identifies.get(event_row["anonymous_id"], [])
                if identify[0] <= event_row["ts"]
            ]
            person = (
                max(identifies_before)[2]
                if identifies_before
                else "anon:" + event_row["anonymous_id"]
            )
        if merges and person is not None and event_row["type"] not in ("user", "item"):
            merges_then = {
                user: max(
                    (merge for merge in user_merges if merge.ts <= event_row["ts"]), default=None
                )
                for user, user_merges in merges.items()
            }
            person = resolve_merged_user(person, merges_then.get)[0]
        if event_row["type"] == "merge":
            person = json.loads(event_row["properties"])["merged_into"]
            merges.setdefault(event_row["user_id"], []).append(
                Merge(event_row["ts"], log_position, person)
            )
        if event_row["type"] == "identify":
            identifies.setdefault(event_row["anonymous_id"], []).append(
                (event_row["ts"], log_position, event_row["user_id"])
            )
        numbered_events.append({**event_row, "p": log_position, "person": person})
    return numbered_events


def table(events: Sequence[dict]) -> pa.Table:
    return pa.Table.from_pylist(list(events), schema=ROUTED)


def ipc(events: Sequence[dict]) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, ROUTED) as writer:
        writer.write_table(table(events))
    return buffer.getvalue()


class Log:
    """The routed log of a test, in `folder/routed.db`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "routed.db"
        self._writer: EmbeddedWriter = open_writer(self.path, partition="routed")
        self.p = 1

    def append(self, blocks: Sequence[Sequence[dict]]) -> list[dict]:
        """Each list of events as a block; an empty one stands for rows that are no events. The
        events with their p.
        """
        appended_events = []
        with self._writer.transaction():
            self._writer.skip_to(self.p)
            for events in blocks:
                events = [{**one, "p": self.p + row} for row, one in enumerate(events)]
                block = (
                    Block("events", len(events), ipc(events))
                    if events
                    else Block("quarantine", 1, b"")
                )
                self.p = self._writer.append([block]) + block.rows
                appended_events += events
        return appended_events

    def close(self) -> None:
        self._writer.close()


# Times: an exact edge, a microsecond beside it, a little off; long ago; on the edge of the horizon.
_near_times = st.builds(
    lambda tile, off: T0 + tile * 5 * SECOND + off,
    st.integers(-40, 20),
    st.sampled_from([-1, 0, 0, 1, 1_234_567]),
)
_old_times = st.builds(
    lambda off, near: near - 400 * DAY + off, st.sampled_from([-1, 0, 1]), _near_times
)
times = st.one_of(
    _near_times,
    _near_times,
    _near_times,
    _near_times,
    st.sampled_from([T0, T0 + 1]),
    _old_times,
    _near_times.map(lambda ts: ts - 40 * 60 * SECOND),
)
_profile = st.sampled_from(
    [
        None,
        '{"category":"c1"}',
        '{"category":"c2","stock":3}',
        '{"category":["c3","c1"],"stock":-2.5}',
        '{"stock":true}',
    ]
)
_properties = st.fixed_dictionaries(
    {},
    optional={
        "category": st.sampled_from(["c1", "c2", 7, None]),
        "stock": st.sampled_from([0, 1, 2.5, "x", 1e300]),
    },
)
_user_properties = st.fixed_dictionaries(
    {},
    optional={"plan": st.sampled_from(["free", "paid", ["paid"], True]), "age": st.integers(0, 90)},
)


@st.composite
def events(draw: st.DrawFn) -> dict:
    type = draw(
        st.sampled_from(
            [
                "click",
                "click",
                "view",
                "purchase",
                "impression",
                "answer",
                "search",
                "item",
                "user",
                "identify",
            ]
        )
    )
    columns: dict = {
        "event_id": f"e{draw(st.integers(0, 999))}",
        "counts": draw(st.integers(0, 9)) > 0,
    }
    if type == "item":
        timeless = draw(st.booleans())
        columns |= {
            "item_id": draw(_items),
            "properties": json.dumps(draw(_properties)),
            "counts": True,
            "timeless": timeless,
        }
        return event(type, 0 if timeless else draw(times), **columns)
    ids = draw(
        st.sampled_from([("u1", None), ("u2", None), ("u1", "a1"), (None, "a1"), (None, "a2")])
    )
    columns |= {
        "user_id": ids[0],
        "anonymous_id": ids[1],
        "session_id": draw(st.sampled_from([None, "s1", "s2"])),
    }
    if type == "user":
        columns |= {
            "user_id": ids[0] or "u1",
            "properties": json.dumps(draw(_user_properties)),
            "counts": True,
        }
    elif type == "identify":
        columns |= {"user_id": ids[0] or "u2", "anonymous_id": ids[1] or "a2"}
    else:
        columns |= draw(_details(type))
    return event(type, draw(times), **columns)


_items = st.sampled_from(["i1", "i2", "i3"])


@st.composite
def _details(draw: st.DrawFn, type: str) -> dict:
    columns: dict = {
        "agent": draw(st.sampled_from([None, "person", "bot"])),
        "device": draw(st.sampled_from([None, "phone", "desktop"])),
        "user_profile": draw(st.sampled_from([None, '{"plan":"free"}', '{"plan":"paid","age":4}'])),
    }
    if type == "purchase":
        columns |= {
            "price": draw(st.sampled_from([None, 0.005, 19.99, 33.333, 120.0, 1e9])),
            "quantity": draw(st.sampled_from([None, 1, 3])),
        }
    if type in ("impression", "answer") or (type == "purchase" and draw(st.booleans())):
        shown_items = draw(st.lists(_items, max_size=4))
        profiles = draw(st.lists(_profile, max_size=4))
        attached_profiles = "[" + ",".join(profile or "null" for profile in profiles) + "]"
        return columns | {
            "items": shown_items,
            "item_profile": draw(st.sampled_from([None, attached_profiles])),
        }
    columns["query" if type == "search" else "answer_query"] = draw(
        st.sampled_from([None, "Red  Shoes", "red shoes", " ", "ﬁt"])
    )
    if type == "search":
        return columns
    return columns | {"item_id": draw(_items), "item_profile": draw(_profile)}


requests = st.builds(
    ReadRequest,
    person=st.sampled_from([None, "u1", "u2"]),
    anonymous_id=st.sampled_from([None, "a1", "a2"]),
    session_id=st.sampled_from([None, "s1", "s2", "s9"]),
    device=st.sampled_from([None, "phone"]),
    local_hour=st.sampled_from([None, 3, 15]),
    now=times,
    query=st.sampled_from([None, "red shoes ", "Fit", "?"]),
)


def make_requests(t: np.ndarray, p: np.ndarray, item_counts: np.ndarray) -> "Requests":
    """Requests of a few people, some unknown, each for `item_counts` items: of every kind that an offline
    computation takes.
    """
    from tailorbird.features.offline.backfill import Requests

    request_count = len(t)
    return Requests(
        t,
        p,
        [None if row % 9 == 0 else f"u{row % 5}" for row in range(request_count)],
        np.repeat(np.arange(request_count), item_counts),
        [f"i{1 + row % 3}" for row in range(item_counts.sum())],
        session_id=[None, "s1"] * (request_count // 2),
        device=["phone", None] * (request_count // 2),
        query=["red shoes", None] * (request_count // 2),
    )


def differences(
    features: FeatureSet,
    rows: Rows,
    request: ReadRequest,
    items: Sequence[str],
    events: Sequence[dict],
) -> list[str]:
    """Each value of the rows whose bits are not those of the reference at the rows' (t, p)."""
    own_request = ReadRequest(
        person=rows.person,
        anonymous_id=None,
        session_id=request.session_id,
        device=request.device,
        country=request.country,
        local_hour=request.local_hour,
        query=request.query,
    )
    difference_texts = []
    for row, item in enumerate(items):
        for names, values in (
            (features.numeric, rows.numeric),
            (features.categorical, rows.categorical),
        ):
            for column, name in enumerate(names):
                expected = reference.compute_value(
                    features, name, own_request, item, rows.t, rows.log_position, events
                )
                if not same(values[row, column], expected):
                    difference_texts.append(
                        f"{name} of {item} at t={rows.t - T0} p={rows.log_position}: "
                        f"{values[row, column]!r}, expected {expected!r}"
                    )
    for name in features.sequences:
        expected = reference.compute_value(
            features, name, own_request, None, rows.t, rows.log_position, events
        )
        sequence_rows = rows.sequences[name]
        expected_bits = [
            [int(np.float64(one).view(np.uint64)) if isinstance(one, float) else one for one in row]
            for row in expected
        ]
        if [list(row) for row in zip(*sequence_rows.to_lists(), strict=True)] != expected_bits:
            difference_texts.append(f"{name} at t={rows.t - T0} p={rows.log_position}")
    return difference_texts


def same(value: np.generic, expected: object) -> bool:
    """Return whether a value has the bits of the expected one; any NaN equals any other."""
    if isinstance(value, np.float32):
        other = np.float32(expected)
        return value.tobytes() == other.tobytes() or bool(np.isnan(value) and np.isnan(other))
    return int(value) == expected


def key(text: str) -> int:
    """Return the key of an id."""
    return hash64(text)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with FeatureWorker(
        folder / "routed.db", folder / "state", every_kind(), clock=SimulatedClock(T0)
    ) as worker:
        while worker.step(rows_max=1).rows:
            sys.stdout.write(f"{worker.position.commit}\n")
