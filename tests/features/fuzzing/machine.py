"""Hypothesis rules that act on the site of `fuzz_world`: what can happen, each drawn at
any time and in any order.

`test_fuzz.py` runs it shortly; `python -m tests.features.fuzzing.run` for as long as there is time.
"""

import json
import tempfile
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import event as note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.features.fuzzing import words
from tests.features.fuzzing.world import BASE, ROUTER_SITES, UNITS, WORKER_SITES, World
from tests.support.drawn.events import ITEMS, PROFILE
from tests.support.drawn.events import event as routed_event

from tailorbird.events.clock import DAY, HOUR, SECOND, SESSION_GAP
from tailorbird.events.contract.schema import micros
from tailorbird.features import ReadRequest
from tailorbird.features.declare.limits import LOOK_BACK_MAX

EDGES = (SECOND * 60, HOUR, DAY, SESSION_GAP, LOOK_BACK_MAX, LOOK_BACK_MAX)
PEOPLE = (("u1", None), ("u2", None), (None, "a1"), (None, "a2"), (None, None))
_odd = st.sampled_from([0, 0, 0, 1, -1, 1_234_567])
# What a property may be, by the contract: a number of any size, text, a list, nothing; numbers that
# have a column keep to bounds.
_any_number = st.sampled_from(
    [
        0,
        1,
        7.5,
        -3,
        0.1,
        1e9,
        -1e300,
        1.7e308,
        5e-324,
        2**53 + 1,
        10**30,
        True,
        None,
        "7",
        "x",
        [],
        [2, 3],
        ["x"],
    ]
)

requests = st.builds(
    lambda who, **rest: ReadRequest(person=who[0], anonymous_id=who[1], **rest),
    st.sampled_from(PEOPLE),
    session_id=st.sampled_from([None, "s1", "s3"]),
    device=st.sampled_from([None, "phone"]),
    country=st.sampled_from([None, "NO"]),
    local_hour=st.sampled_from([None, 0, 23]),
    query=st.sampled_from([None, "shoes", "big shoes"]),
    position=st.sampled_from([1, 2]),
    now=st.just(0),
)


def moments(unit: int) -> st.SearchStrategy[int]:
    """Times on tile edges of a unit, a microsecond beside them, and at the end of the horizon."""
    near = st.builds(lambda steps, off: BASE + steps * unit + off, st.integers(-13, 13), _odd)
    return st.integers(0, 9).flatmap(
        lambda far: near.map(lambda ts: ts - LOOK_BACK_MAX) if far == 0 else near
    )


@st.composite
def sent_event(draw: st.DrawFn, number: int, now: int, unit: int) -> dict[str, Any]:
    """An event as a client sends it, of any type, late by some units."""
    kind = draw(
        st.sampled_from(
            [
                "click",
                "click",
                "view",
                "impression",
                "purchase",
                "rating",
                "search",
                "item",
                "user",
                "identify",
            ]
        )
    )
    late = draw(st.sampled_from([0, 0, 1, 3, 13])) * unit + draw(_odd)
    one: dict[str, Any] = {"event_id": f"e{number}", "type": kind, "ts": max(1, now - max(0, late))}
    if kind in ("item", "user"):
        one |= {
            "properties": draw(PROFILE)
            | draw(st.sampled_from([{}, {"price": draw(_any_number)}, {"age": draw(_any_number)}]))
        }
        one |= (
            {"item_id": draw(st.sampled_from(ITEMS))}
            if kind == "item"
            else {"user_id": draw(st.sampled_from(["u1", "u2"]))}
        )
        if draw(st.integers(0, 3)) == 0:
            one["timeless"] = True
            del one["ts"]
        return one
    if kind == "identify":
        return one | {
            "user_id": draw(st.sampled_from(["u1", "u2"])),
            "anonymous_id": draw(st.sampled_from(["a1", "a2"])),
        }
    one |= draw(
        st.sampled_from(
            [
                {"user_id": "u1"},
                {"user_id": "u2", "anonymous_id": "a1"},
                {"anonymous_id": "a1"},
                {"anonymous_id": "a2"},
            ]
        )
    )
    one |= draw(st.sampled_from([{}, {"session_id": "s1"}, {"session_id": "s2"}]))
    agent = draw(st.sampled_from([None, "Mozilla/5.0 (X11) Firefox/140", "Googlebot/2.1"]))
    context = {
        "user_agent": agent,
        "device": draw(st.sampled_from([None, "phone"])),
        "country": draw(st.sampled_from([None, "no", "NO"])),
    }
    one |= {"context": {name: value for name, value in context.items() if value is not None}}
    numbers = {
        "price": st.sampled_from([0, 0.005, 19.99, 1e9]),
        "quantity": st.sampled_from([1, 3, 1e6]),
        "rating": st.sampled_from([-1e6, 5]),
    }
    numbers |= {
        "dwell_ms": st.sampled_from([0.15, 86_400_000]),
        "depth": _any_number,
        "tag": _any_number,
    }
    one |= {"properties": draw(st.fixed_dictionaries({}, optional=numbers))}
    if kind == "search":
        one["properties"] |= {"query": draw(st.sampled_from(["shoes", "  Big SHOES", "ﬁt", " "]))}
    if kind == "impression" or (kind == "purchase" and draw(st.booleans())):
        return one | {"items": draw(st.lists(st.sampled_from(ITEMS), max_size=4))}
    return one | (
        {}
        if kind in ("search", "view") and draw(st.booleans())
        else {"item_id": draw(st.sampled_from(ITEMS))}
    )


class Site(RuleBasedStateMachine):
    """Reference = backfill = stream, whatever happens."""

    drawn: Counter[str] = (
        Counter()
    )  # kinds that were declared, and what happened, over all examples of a process

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None
        self.sent: list[dict[str, Any]] = []
        self.last: list[ReadRequest] = []

    aimed: tuple[str, ...] = ()  # declarations instead of those drawn

    @initialize(
        lines=words.declarations(),
        collectors=st.booleans(),
        unit=st.sampled_from(UNITS),
        data=st.data(),
    )
    def open(
        self, lines: tuple[str, ...], collectors: bool, unit: int, data: st.DataObject
    ) -> None:
        folder = tempfile.mkdtemp(prefix="tailorbird-fuzz-")
        lines = self.aimed or lines
        self.unit, self.lines = unit, lines
        self.world = World(Path(folder) / "site", lines, collectors=collectors)
        self._count(lines)
        self._come(data, data.draw(st.integers(6, 20), label="size"))

    @property
    def site(self) -> World:
        assert self.world is not None
        return self.world

    def happened(self, what: str) -> None:
        Site.drawn[what] += 1
        note(what)

    def _count(self, lines: tuple[str, ...]) -> None:
        for line in lines:
            Site.drawn.update(type(one).__name__ for one in words.made(line))

    @rule(data=st.data(), size=st.integers(1, 12), request=requests)
    def come_and_read(self, data: st.DataObject, size: int, request: ReadRequest) -> None:
        self._come(data, size)
        self.site.settle()
        self.site.read(self._timed(data, request))

    @rule(data=st.data(), size=st.integers(1, 12))
    def come(self, data: st.DataObject, size: int) -> None:
        self._come(data, size)

    def _come(self, data: st.DataObject, size: int) -> None:
        (self._bodies if self.site.collectors else self._routed)(data, size)

    def _routed(self, data: st.DataObject, size: int) -> None:
        """A block of routed events, on edges of tiles or as they come."""
        rows = data.draw(
            st.lists(routed_event(13 * self.unit), min_size=size, max_size=size), label="events"
        )
        for row in rows:
            row["ts"] = row["ts"] and data.draw(moments(self.unit), label="ts")
            row["received_at"] = row["ts"]
        if data.draw(st.integers(0, 5), label="crowd") == 0:
            rows += [
                rows[0] | {"event_id": f"crowd-{len(self.site.routed_blocks)}-{number}"}
                for number in range(40)
            ]
            self.happened("a crowd")
        self.site.append(rows)

    def _bodies(self, data: st.DataObject, size: int) -> None:
        """Some events at a collector, whose clock and whose client's clock are off; some were sent
        before.
        """
        site = self.site
        site.now += data.draw(st.sampled_from([0, 0, 1, 1, 3, 13]), label="steps") * self.unit
        site.clock.advance_to(max(site.clock.now(), site.now))
        collector, skew = data.draw(
            st.sampled_from([("north", 0), ("south", -90 * SECOND), ("south", 45 * SECOND)]),
            label="collector",
        )
        offset = data.draw(st.sampled_from([0, 0, HOUR, -40 * DAY]), label="offset")
        source = data.draw(st.sampled_from(["collector", "collector", "import"]), label="source")
        body = []
        for _ in range(size):
            if self.sent and data.draw(st.integers(0, 4), label="again") == 0:
                body.append(data.draw(st.sampled_from(self.sent), label="repeated"))
                continue
            one = data.draw(sent_event(len(self.sent), site.now, self.unit), label="event") | {
                "sent_at": site.now + offset
            }
            if "ts" in one:
                one["ts"] += offset
            self.sent.append(one)
            body.append(one)
        site.post(f"{collector}-{source}", site.now + skew, body, source)

    @rule()
    def route(self) -> None:
        self.site.route()

    @rule(rows_max=st.sampled_from([1, 3, 20_000]))
    def work(self, rows_max: int) -> None:
        self.site.work(rows_max)

    @rule(data=st.data(), request=requests, settle=st.booleans())
    def read(self, data: st.DataObject, request: ReadRequest, settle: bool) -> None:
        if settle:
            self.site.settle()
        self.site.read(self._timed(data, request))

    @rule(data=st.data(), request=requests, back=st.integers(0, 5))
    def ask_of_the_past(self, data: st.DataObject, request: ReadRequest, back: int) -> None:
        """At any time, knowing less than there is by now."""
        p = max(0, self.site.worker.position.log_position - back)
        self.site.past.append((self.site.features, self._timed(data, request), p))

    @rule(data=st.data(), request=requests)
    def read_within_a_commit(self, data: st.DataObject, request: ReadRequest) -> None:
        self.site.route()
        self.site.read_within_a_commit(self._timed(data, request))
        self.happened("read within a commit")

    @rule(site=st.sampled_from(WORKER_SITES + ROUTER_SITES), hit=st.integers(1, 2))
    def crash(self, site: str, hit: int) -> None:
        if self.site.crash(site, hit):
            self.happened(f"crash at {site}")

    @rule()
    def restart(self) -> None:
        self.site.restart()

    @rule(later=st.sampled_from([0, 1, 13, 400]))
    def refresh(self, later: int) -> None:
        """The worker's timer renews what has run out."""
        self.site.clock.advance_to(max(self.site.clock.now(), BASE + later * self.unit))
        self.site.worker.refresh()

    @rule()
    def sweep(self) -> None:
        """Let idle entities go."""
        if self.site.sweep():
            self.happened("entities expired")

    @precondition(lambda self: self.site.worker.position.log_position > 0)
    @rule(
        cut=st.sampled_from([1, 5, 1_000]),
        seed=st.integers(0, 99),
        stop_after=st.sampled_from([None, 1, 2]),
    )
    def rebuild(self, cut: int, seed: int, stop_after: int | None) -> None:
        self.site.rebuild(cut, seed, stop_after=stop_after)
        self.happened("bootstrap" if stop_after is None else "bootstrap cut short")

    @precondition(lambda self: self.site.folder.joinpath("lake").exists() is False)
    @rule(often=st.integers(0, 3), prune=st.booleans())
    def rebuild_from_the_lake(self, often: int, prune: bool) -> None:
        if often == 0:
            self.site.settle()
            self.site.rebuild_from_the_lake(prune=prune)
            self.happened("bootstrap from the lake" + (", pruned" if prune else ""))

    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        """Other declarations: some of the present ones, but not those derived, and new ones; or
        those of before.
        """
        site = self.site
        if len(site.sets) > 1 and data.draw(st.booleans(), label="back"):
            self.site.turn_to(data.draw(st.sampled_from(site.sets), label="set"))
            self.happened("rollback")
            return
        if len(site.sets) > 2:
            return
        not_derived = [line for line in self.lines if not line.startswith("derived")]
        retained_lines = data.draw(
            st.lists(st.sampled_from(not_derived), unique=True, max_size=3), label="kept"
        )
        new = data.draw(words.declarations(3, "ghi"[len(site.sets) - 1]), label="new")
        self.lines = (*retained_lines, *new)
        site.change(self.lines)
        self._count(new)
        self.happened("other declarations")

    def teardown(self) -> None:
        if self.world is None:
            return
        try:
            self.world.settle()
            for one in self.world.events().to_pylist()[
                ::5
            ]:  # at the very time of an event, just when it was known
                at = replace(self._at_the_end()[0], now=micros_of(one))
                self.world.past.append((self.world.features, at, one["p"]))
                self.world.past.append(
                    (
                        self.world.features,
                        replace(at, now=at.now + LOOK_BACK_MAX),
                        self.world.worker.position.log_position,
                    )
                )
            different = self.world.differences([*self.last, *self._at_the_end()])
        finally:
            self.world.close()
        assert different == [], "\n".join(different[:20])

    def _timed(self, data: st.DataObject, request: ReadRequest) -> ReadRequest:
        now = data.draw(st.one_of(moments(self.unit), self._soon(), self._soon()), label="now")
        request = replace(request, now=now)
        self.last = [*self.last[-2:], request]
        return request

    def _soon(self) -> st.SearchStrategy[int]:
        """Draw a time just after an event, or a window, session gap or horizon after it."""
        times = [
            ts
            for routed_block in self.site.routed_blocks
            for ts in micros(routed_block["ts"]).tolist()
        ][-40:] or [BASE]
        later = st.one_of(
            st.sampled_from([0, 0, 1, 2, 12, 13]).map(lambda steps: steps * self.unit),
            st.sampled_from(EDGES),
        )
        return st.builds(
            lambda ts, edge, off: ts + edge + off,
            st.sampled_from(times),
            later,
            st.sampled_from([0, 1, -1]),
        )

    def _newest(self) -> int:
        return max(
            (
                int(micros(routed_block["ts"]).max())
                for routed_block in self.site.routed_blocks
                if routed_block.num_rows
            ),
            default=BASE,
        )

    def _at_the_end(self) -> list[ReadRequest]:
        after = self._newest() + 1
        identified = ReadRequest(
            "u1",
            None,
            session_id="s1",
            device="phone",
            country="NO",
            local_hour=7,
            query="shoes",
            now=after,
        )
        return [
            identified,
            replace(identified, session_id=None, now=after + 3 * self.unit),
            ReadRequest(anonymous_id="a1", now=after),
        ]


def micros_of(row: dict[str, Any]) -> int:
    return (row["ts"] - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def kinds_left_out() -> set[str]:
    """Kinds of features that no example of this process declared."""
    return {kind.__name__ for kind in words.kinds()} - set(Site.drawn)


def as_json() -> str:
    return json.dumps(dict(sorted(Site.drawn.items())))
