"""What a person has left in the lake: which events, requests and texts are theirs, where these
stand in the raw logs, and what must stay.

Everything that later steps need is found before anything is written, and kept in the journal, so
that an erasure that was cut short goes on although the rows that told it are no longer there.
"""

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tailorbird.events.contract import ANONYMOUS_PREFIX
from tailorbird.events.erased import Span, subject_of, whose_of
from tailorbird.events.free import texts_in
from tailorbird.events.keys import combine, hash64s
from tailorbird.events.schema import micros
from tailorbird.features.erase import Needs
from tailorbird.lake import Lake
from tailorbird.lake.refused import PLACE, places
from tailorbird.privacy.fresh import Fresh
from tailorbird.privacy.mention import Mentions
from tailorbird.privacy.person import People, is_any, one_of, persons_then
from tailorbird.privacy.search import Needles
from tailorbird.privacy.shared import spans

COMMON_MIN = 10  # a text that stays is one that at least so many other people's events carry
TEXT_MIN = 8  # shorter texts are not looked for: they stand everywhere
TEXTS = (
    "device",
    "country",
    "page",
    "referrer",
    "query",
    "answer_query",
)  # context and free text of an event
OWN = ("event_id", "session_id", "request_id")
_WHOSE = ("event_id", "type", "user_id", "anonymous_id", "item_id", "person")
_IDS = (*OWN, "item_id", "user_id", "anonymous_id")
_LINKED = ("request_id", "answer_query")  # what an event that names their request loses with it

Place = tuple[str, int, int]


class Marks(msgspec.Struct):
    """See above.

    Attributes:
        events: of each event its subject's mark ("u" or "a"), the subject, and its id; `recent`
            those of the last days alone.
        apart: events of others, told likewise ("i" and the item for nobody's), which are given a
            new id: what these did while they were one with them, and what has one of their ids in
            its own; and of shared devices what is not within `spans`. A repeat of it is known by
            the stop list alone.
        spans: see `privacy.shared`; `then`: see `privacy.person.persons_then`.
        requests: what they asked for, and nobody else. places, refused: where their accepted and
        their refused rows stand in the raw logs.
        repeats: where rows stand that repeat what they did on a device of several people, if it is
            by that device.
        common: by name, the texts that stay; `lost`: those that go, of fields by which states of
            several people are told apart.
        own: ids and texts that were nobody else's: they must be nowhere in the end. keyed_items,
        keyed_users: whose profiles lose an attribute by which features are keyed, or who lose
        events; `read`: or of which features are made.
        types: how many events of each type. first, last: when the first and the last of them was,
        microseconds; 0 without any.
    """

    events: list[tuple[str, str, str]] = []
    recent: list[tuple[str, str, str]] = []
    apart: list[tuple[str, str, str]] = []
    spans: dict[str, list[Span]] = {}
    then: dict[int, str] = {}
    requests: list[str] = []
    places: list[Place] = []
    refused: list[Place] = []
    repeats: list[Place] = []
    common: dict[str, list[str]] = {}
    lost: dict[str, list[str]] = {}
    own: list[str] = []
    keyed_items: list[str] = []
    keyed_users: list[str] = []
    read: bool = False
    types: dict[str, int] = {}
    first: int = 0
    last: int = 0


def find_marks(
    lake: Lake,
    people: People,
    needs: Needs,
    fresh: Fresh,
    *,
    recent_from: int,
    until: int,
    known: Collection[str],
    progress: Callable[[str, int, int | None], None] = lambda stage, done, total: None,
) -> Marks:
    """All marks of these people; looks for salts, too. Reads the lake some times over.

    Args:
        recent_from: events received since then are on the stop list one by one; what happens from
            `until` on is taken again.
        known: names of fields, which are nobody's ids.
    """
    marks = Marks()
    _keyed(lake, people, needs, known, marks)
    mentions = Mentions(people.own_ids, known)
    if not lake.exists("events"):
        marks.refused = _refused(lake, people, mentions, set(), marks)
        return marks
    progress("find events", 0, None)
    mine = lake.table("events", where=whose(people))
    stays = people.kept(mine)
    kept = mine.filter(stays)
    marks.then = persons_then(lake, people, kept)
    mine = mine.filter(pc.invert(stays))
    progress("find events", len(mine), None)
    marks.events = _told(mine)
    late = micros(mine["received_at"]) >= recent_from
    marks.recent = [event for event, one in zip(marks.events, late.tolist(), strict=True) if one]
    marks.apart = [
        event
        for event in marks.events
        if event[1] not in (people.users if event[0] == "u" else people.visitors | people.shared)
    ]
    marks.places, marks.spans = places(mine), spans(lake, people, until)
    marks.apart += _beyond_spans(people, marks, micros(mine["ts"]).tolist())
    others = mine.filter(
        pc.and_(pc.is_valid(mine["person"]), pc.invert(is_any(mine["person"], people.persons)))
    )
    by_merges = {
        *others["person"].to_pylist(),
        *kept["user_id"].to_pylist(),
        *marks.then.values(),
    }  # who they were for a while
    marks.keyed_users = sorted({*marks.keyed_users, *by_merges})
    marks.types = dict(Counter(mine["type"].to_pylist()))
    times = micros(mine["ts"])
    times = times[times > 0]
    marks.first, marks.last = (int(times.min()), int(times.max())) if len(times) else (0, 0)
    marks.requests = _requests(lake, people, mine)
    marks.repeats = _repeats(lake, people, marks)
    marks.refused = _refused(
        lake, people, mentions, set(mine["session_id"].drop_null().to_pylist()), marks
    )
    marks.common = _common(lake, people, needs, mine)
    _lost(lake, needs, mine, marks)
    marks.own = _own(lake, people, mine, marks, progress)
    _salt(lake, people, needs, fresh, mine, marks)
    naming, precisions = (
        Mentions(people.own_ids, known, rename=lambda id_: ""),
        needs.precisions("session"),
    )
    for batch in lake.batches("events", [*_WHOSE, "session_id"]):
        rows = pa.Table.from_batches([batch])
        marks.apart += _told(
            rows.filter(
                pc.and_(
                    pa.array(naming.names_in(rows["event_id"])),
                    pc.or_(pc.invert(people.of(rows)), people.kept(rows)),
                )
            )
        )
        for id_ in naming.renamed_in(rows["session_id"]) if precisions else ():
            fresh.choose_place("thing", (id_,), id_, precisions)
    return marks


def _beyond_spans(people: People, marks: Marks, ts: list[int]) -> list[tuple[str, str, str]]:
    """What came from a shared device before a login that says now whose it was at its time: by that
    time alone it would be another's.
    """
    return [
        event
        for event, moment in zip(marks.events, ts, strict=True)
        if event[0] == "a"
        and event[1] in people.shared
        and not any(begin <= moment < end for begin, end in marks.spans.get(event[1], ()))
    ]


def _told(rows: pa.Table) -> list[tuple[str, str, str]]:
    """Events as (mark, subject, id)."""
    whose_ids = zip(
        *(rows[name].to_pylist() for name in ("user_id", "anonymous_id", "item_id", "event_id")),
        strict=True,
    )
    return [(*subject_of(user, visitor, item), id_) for user, visitor, item, id_ in whose_ids]


def refused_rows(lake: Lake, people: People, known: Collection[str]) -> list[Place]:
    """Where the refused rows stand that an erasure of these people would unlink; `known` as of
    `find_marks`.
    """
    marks, sessions = Marks(), set[str]()
    if lake.exists("events"):
        mine = lake.table("events", ["session_id", "request_id"], whose(people))
        marks.requests = _requests(lake, people, mine)
        sessions = set(mine["session_id"].drop_null().to_pylist())
    return _refused(lake, people, Mentions(people.own_ids, known), sessions, marks)


def _keyed(lake: Lake, people: People, needs: Needs, known: Collection[str], marks: Marks) -> None:
    """Find the profiles of items and of others with a mention in an attribute that features are
    made of.
    """
    mentions = Mentions(people.own_ids, known)
    for table, owner, found in (
        ("items", "item", marks.keyed_items),
        ("users", "user", marks.keyed_users),
    ):
        names = {
            one.partition(".")[2] for one in needs.keyed | needs.read if one.startswith(f"{owner}.")
        }
        for batch in (
            lake.batches(table, ["id", "attributes"]) if names and lake.exists(table) else ()
        ):
            rows = pa.Table.from_batches([batch])
            for row in rows.filter(
                pa.array(mentions.in_json(rows["attributes"]), pa.bool_())
            ).to_pylist():
                if row["id"] in people.users and owner == "user":
                    continue
                attributes: Any = _json(row["attributes"]) or {}
                said = {name: one for name, one in attributes.items() if name in names}
                lost = {name for name, one in said.items() if mentions.without(one, name) != one}
                if any(f"{owner}.{name}" in needs.keyed for name in lost):
                    found.append(row["id"])
                marks.read |= any(f"{owner}.{name}" in needs.read for name in lost)


def whose(people: People) -> ds.Expression:
    """The rows of `events` that are theirs, as a filter."""
    return one_of("person", people.persons) | one_of("user_id", people.users)


def asked(people: People) -> ds.Expression:
    """The rows of `answers` that are theirs, as a filter."""
    return whose(people) | one_of("anonymous_id", people.visitors)


def _requests(lake: Lake, people: People, mine: pa.Table) -> list[str]:
    found = set(mine["request_id"].drop_null().to_pylist())
    answers = lake.table(
        "events",
        ["request_id", "person", "user_id"],
        (ds.field("type") == "answer") & one_of("request_id", found),
    )
    found -= set(answers.filter(pc.invert(people.of(answers)))["request_id"].to_pylist())
    if lake.exists("answers"):
        found |= set(lake.table("answers", ["request_id"], asked(people))["request_id"].to_pylist())
    return sorted(found)


def _repeats(lake: Lake, people: People, marks: Marks) -> list[Place]:
    """Repeats name the device, or the other user, as what they repeat does; and only of that it is
    known whose it was then.
    """
    ids = {
        id_ for mark, subject, id_ in marks.events if mark == "a" and subject in people.shared
    } | {id_ for _, _, id_ in marks.apart}
    if not ids or not lake.exists("duplicates"):
        return []
    rows = lake.table("duplicates", where=one_of("event_id", ids))
    theirs = set(marks.places)
    first = zip(
        *(rows[name].to_pylist() for name in ("first_partition", "first_offset", "first_row")),
        strict=True,
    )
    return [
        place
        for place, of in zip(places(rows), first, strict=True)
        if of[0] is None or of in theirs
    ]


def _refused(
    lake: Lake, people: People, mentions: Mentions, sessions: set[str], marks: Marks
) -> list[Place]:
    """Refused rows that mention them, and those that name nobody else: of their sessions or
    requests, or of a device of several people, where the session is not another's. Who was on the
    device is decided of accepted rows alone, so such a row may be theirs.
    """
    visitors, requests = people.visitors | people.shared, set(marks.requests)
    naming: list[Place] = []
    unnamed: dict[Place, str | None] = {}
    for batch in lake.batches("quarantine", ["body", *PLACE]) if lake.exists("quarantine") else ():
        rows = pa.Table.from_batches([batch])
        for place, body in zip(places(rows), rows["body"].to_pylist(), strict=True):
            if mentions.in_body(body):
                naming.append(place)
                continue
            row = whose_of(body)
            if row is None or not (
                _is_none_or_in(row.user_id, people.users)
                and _is_none_or_in(row.anonymous_id, visitors)
            ):
                continue
            session, request = (
                one if isinstance(one, str) else None for one in (row.session_id, row.request_id)
            )
            if row.anonymous_id in people.shared or session in sessions or request in requests:
                unnamed[place] = session
    wanted = {one for one in unnamed.values() if one}
    others: set[str] = set()
    if wanted and lake.exists("events"):
        rows = lake.table(
            "events", ["session_id", "person", "user_id"], one_of("session_id", wanted)
        )
        others = set(rows.filter(pc.invert(people.of(rows)))["session_id"].to_pylist())
    return naming + [place for place, session in unnamed.items() if session not in others]


def _is_none_or_in(id_: object, known: Collection[str]) -> bool:
    return id_ is None or id_ == "" or (isinstance(id_, str) and id_ in known)


def _common(lake: Lake, people: People, needs: Needs, mine: pa.Table) -> dict[str, list[str]]:
    """Texts that a state without a person is made of, and that enough other people's events carry."""
    found: dict[str, list[str]] = {}
    for name in TEXTS:
        if name not in needs.kept:
            continue
        wanted = set(mine[name].drop_null().to_pylist())
        carriers: dict[str, set[str]] = {text: set() for text in wanted}
        for batch in lake.batches("events", [name, "person", "user_id"], one_of(name, wanted)):
            rows = pa.Table.from_batches([batch])
            rows = rows.filter(pc.and_(pc.invert(people.of(rows)), pc.is_valid(rows["person"])))
            pairs = rows.group_by([name, "person"]).aggregate([])
            for text, person in zip(
                pairs[name].to_pylist(), pairs["person"].to_pylist(), strict=True
            ):
                if len(carriers[text]) < COMMON_MIN:
                    carriers[text].add(person)
        found[name] = sorted(text for text, some in carriers.items() if len(some) >= COMMON_MIN)
    return found


def _lost(lake: Lake, needs: Needs, mine: pa.Table, marks: Marks) -> None:
    """Find what goes that states of several people are made of: answers that read these cannot be
    computed again.

    Whoever ever had an attribute by which one of theirs told states apart is taken for one who read
    that state. Where filters or values are made of what goes, no cheap look tells which states:
    then all answers are.
    """
    for name in TEXTS:
        gone = set(mine[name].drop_null().to_pylist()) - set(marks.common.get(name, ()))
        if not gone or (
            needs.precisions(name) and name not in needs.kept
        ):  # of what is only counted, another takes its place
            continue
        if name in needs.shared or (name == "answer_query" and "query" in needs.shared):
            marks.lost[name] = sorted(gone)
        marks.read |= name in needs.shared_read or (
            name == "answer_query" and "query" in needs.shared_read
        )
    profiles = [_object(one) for one in pc.unique(mine["user_profile"]).to_pylist()]
    said = [_object(one) for one in pc.unique(mine["properties"]).to_pylist()]
    for owner, objects in (("user", profiles), ("properties", said)):
        for name in sorted(
            one for one in needs.shared | needs.shared_read if one.startswith(f"{owner}.")
        ):
            key = name.partition(".")[2]
            values = [one[key] for one in objects if one.get(key) is not None]
            texts = [
                one
                for one in values
                if name not in needs.kept or not isinstance(one, bool | int | float)
            ]
            marks.read |= bool(texts) and (name in needs.shared_read or owner == "properties")
            if texts and owner == "user" and name in needs.shared:
                marks.keyed_users = sorted({*marks.keyed_users, *_having(lake, key, texts)})


def _having(lake: Lake, name: str, values: list) -> set[str]:
    """The users of whom a version of the profile says one of these."""
    found: set[str] = set()
    for batch in lake.batches("users", ["id", "attributes"]) if lake.exists("users") else ():
        for id_, text in zip(
            batch.column("id").to_pylist(), batch.column("attributes").to_pylist(), strict=True
        ):
            if _object(text).get(name) in values:
                found.add(id_)
    return found


def _object(text: str | None) -> dict:
    found = _json(text) if text else None
    return found if isinstance(found, dict) else {}


def _own(
    lake: Lake,
    people: People,
    mine: pa.Table,
    marks: Marks,
    progress: Callable[[str, int, int | None], None],
) -> list[str]:
    """Ids and texts of these events that no row has that stays, be it accepted or refused."""
    profiles = pc.is_in(mine["type"], value_set=pa.array(["item"]))
    rows = mine.filter(pc.invert(profiles))
    found = {text for name in (*OWN, *TEXTS) for text in rows[name].drop_null().to_pylist()}
    found |= {text for name in ("properties", "user_profile") for text in _texts(rows[name])}
    found = {text for text in found if len(text) >= TEXT_MIN} - people.own_ids
    needles = Needles(found)
    columns = (*OWN, *TEXTS, "item_id", "user_id", "anonymous_id", "person")
    done = 0
    for batch in lake.batches(
        "events",
        [
            *dict.fromkeys(
                (
                    *columns,
                    "type",
                    "properties",
                    "user_profile",
                    "item_profile",
                    "items",
                    "model",
                    "experiment",
                )
            )
        ],
    ):
        table = pa.Table.from_batches([batch])
        others = table.filter(pc.or_(pc.invert(people.of(table)), people.kept(table)))
        profiles_of_others = others.filter(pc.invert(people.of(others)))[
            "user_profile"
        ]  # what is kept loses it
        for name in (*columns, "model", "experiment"):
            column = (
                others.filter(pc.invert(is_any(others["request_id"], marks.requests)))
                if name in _LINKED
                else others
            )[name]
            found -= set(column.filter(is_any(column, found)).to_pylist())
        shown = pc.list_flatten(others["items"])
        found -= set(shown.filter(is_any(shown, found)).to_pylist())
        # Within longer texts of others, too, and within their ids, which may be made of what
        # somebody wrote: of a friend's id, say.
        for name in (
            "page",
            "referrer",
            "query",
            "properties",
            "user_profile",
            "item_profile",
            *_IDS,
        ):
            column = profiles_of_others if name == "user_profile" else others[name]
            found -= needles.present(
                "\n".join(pc.unique(column).drop_null().to_pylist()).encode(errors="surrogatepass")
            )
        done += len(table)
        progress("tell what is theirs alone", done, None)
    return sorted(found - _said_in_refused(lake, needles, marks))


def _said_in_refused(lake: Lake, needles: Needles, marks: Marks) -> set[str]:
    """What stands in rows that were refused and stay."""
    found: set[str] = set()
    theirs = set(marks.refused)
    for batch in lake.batches("quarantine", ["body", *PLACE]) if lake.exists("quarantine") else ():
        rows = pa.Table.from_batches([batch])
        bodies = [
            body
            for body, place in zip(rows["body"].to_pylist(), places(rows), strict=True)
            if place not in theirs
        ]
        found |= needles.present(b"\n".join(bodies))
    return found


def _texts(column: pa.ChunkedArray) -> set[str]:
    """All texts in a column of JSON."""
    return {text for one in pc.unique(column).to_pylist() if one for text in texts_in(_json(one))}


def _json(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None


def _salt(
    lake: Lake, people: People, needs: Needs, fresh: Fresh, mine: pa.Table, marks: Marks
) -> None:
    """Find the salts of new ids that have to fall somewhere in particular."""
    requests = frozenset(marks.requests)
    users, sessions = needs.precisions("user"), needs.precisions("session")
    names = [name for name in TEXTS if needs.precisions(name)]
    if users or sessions or names:
        for row, event in zip(mine.to_pylist(), marks.events, strict=True):
            key = who_key(row["request_id"], event, requests)
            if users and row["person"] is not None:
                fresh.choose_place("who", key, row["person"], users, ANONYMOUS_PREFIX)
                if row["type"] in ("user", "identify", "merge"):
                    fresh.choose_place("user", key, row["person"], users)
            for name, value in (
                ("session", row["session_id"]),
                *((each, row[each]) for each in names),
            ):
                if value is not None and needs.precisions(name):
                    fresh.choose_place(name, event, value, needs.precisions(name))
    if needs.ordered:
        _keep_order(lake, people, fresh, mine, marks)


def who_key(
    request_id: str | None, event: tuple[str, str, str], requests: frozenset[str] | set[str]
) -> tuple[str, ...]:
    """By what a stranger takes a person's place: one for each of their requests, with what followed
    from it, else for each event.
    """
    return ("request", request_id) if request_id in requests and request_id is not None else event


def _keep_order(lake: Lake, people: People, fresh: Fresh, mine: pa.Table, marks: Marks) -> None:
    """Choose event ids so that, of events of one time, those that came first still do
    (`columns.Frame.ids`).
    """
    requests = frozenset(marks.requests)
    times = micros(mine["ts"])
    columns = ["ts", "event_id", "user_id", "anonymous_id", "item_id", "person"]
    wanted = pc.unique(mine["ts"].filter(pa.array(times > 0)))
    rows = lake.table("events", columns, ds.field("ts").isin(wanted))
    others = rows.filter(pc.invert(people.of(rows)))
    held: dict[int, list[int]] = {}
    for ts, id_ in zip(micros(others["ts"]).tolist(), _ids(others).tolist(), strict=True):
        held.setdefault(ts, []).append(id_)
    groups: dict[int, list[int]] = {}
    for row, ts in enumerate(times.tolist()):
        if ts > 0:
            groups.setdefault(ts, []).append(row)
    old = _ids(mine).tolist()
    asked_for = mine["request_id"].to_pylist()
    for ts, ours in groups.items():
        if len(ours) == 1 and ts not in held:
            continue
        theirs = sorted(held.get(ts, []))
        below = -1
        ours.sort(key=lambda row: old[row])
        for place, row in enumerate(ours):
            before = max((id_ for id_ in theirs if id_ < old[row]), default=-1)
            above = min((id_ for id_ in theirs if id_ > old[row]), default=1 << 64)
            rivals = sum(old[later] < above for later in ours[place:])
            low = max(before, below) + 1
            high = low + (above - low) // max(1, rivals)
            owner = fresh.text("who", *who_key(asked_for[row], marks.events[row], requests))
            fresh.choose("event", marks.events[row], _between(low, high, owner))
            below = int(_combined([fresh.text("event", *marks.events[row])], owner)[0])


def _ids(rows: pa.Table) -> np.ndarray:
    owner = pc.coalesce(rows["user_id"], rows["anonymous_id"], rows["item_id"], pa.scalar(""))
    return combine(hash64s(rows["event_id"].to_pylist()), hash64s(owner.to_pylist()))


def _combined(texts: list[str], owner: str) -> np.ndarray:
    return combine(hash64s(texts), hash64s([owner]))


def _between(low: int, high: int, owner: str) -> Callable[[list[str]], np.ndarray]:
    bounds = np.uint64(low), np.uint64(max(low, high - 1))

    def fits(texts: list[str]) -> np.ndarray:
        ids = _combined(texts, owner)
        return (ids >= bounds[0]) & (ids <= bounds[1])

    return fits
