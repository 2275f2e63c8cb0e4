"""`tailorbird features show`: what is known of somebody or an item now, or was at a past time, and
what made a value.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, console, print_json, print_table, this_command
from tailorbird.errors import NotReadyError, UsageError, suggest_name

if TYPE_CHECKING:
    import numpy as np

    from tailorbird.config import Project
    from tailorbird.features.explain import Explanation

_SHOWN = ("ts", "type", "item_id", "request_id", "p")
_EVENTS = "ts, type, item_id, request_id, counts"


def show(
    *about: str,
    item: str = "",
    events: int = 10,
    why: str = "",
    at: str = "",
    known: list[int] | None = None,
    json: Json = False,
) -> None:
    """Show what the state says of a person now, alone or with an item, or of anything else, and the
    newest events in the lake.

    Anything that features are about will do: an item, a session, a query, a category, or several
    together. Then it shows the features about these alone. Of whom or what the lake has no event,
    it says so: what is counted is 0 then, and the rest is missing.

    With `--at` or `--known` it shows each feature as it was at that time, by the lake, beside what
    the state says now. With `--why` it shows one feature instead: its value by the lake, and the
    events that it was made of, now or then.

    Example:  tailorbird -C shop features show user:u000001

    Example:  tailorbird -C shop features show user:u000001 --item i00001

    Example:  tailorbird -C shop features show item:i00001

    Example:  tailorbird -C shop features show item.category:shoes

    Example:  tailorbird -C shop features show user:u000001 item.category:shoes --why user_category_clicks_28d

    Example:  tailorbird -C shop features show user:u000001 --at 2026-11-25T12:00:00Z --known 51203

    Example:  tailorbird -C shop features show user:u000001 --why user_clicks_7d --at 2026-11-25T12:00:00Z

    Parameters
    ----------
    about:
        user:ID, anonymous:ID for somebody who is not known, item:ID, session:ID, query:TEXT,
        item.NAME:VALUE or another field of an entity; several stand for one entity
    item:
        of a person also the features of this item, and of the two together
    events:
        how many events to show
    why:
        a feature, to be taken apart into the events behind it
    at:
        as it was just before this time, now unless told otherwise
    known:
        counting only what was routed up to this position, such as an answer's p; else all that the
        lake has. Where several workers kept the state, given for each part in their order, such as
        an answer's positions
    """
    from tailorbird.config import open_project
    from tailorbird.events import SystemClock
    from tailorbird.platform.moment import clock_of_answers, parse_time

    if not about:
        raise UsageError(
            "expected user:ID, anonymous:ID, item:ID or another FIELD:VALUE",
            fix="tailorbird features show user:u000001",
        )
    kind, _, name = about[0].partition(":")
    alone = len(about) == 1 and kind in ("user", "anonymous", "item") and name != ""
    if not alone and item:
        raise UsageError(
            "expected one person to go with it",
            where="--item",
            fix=f"{' '.join(about)} item:{item}",
        )
    if kind == "item":
        if item:
            raise UsageError(
                "expected a person to go with it", where="--item", fix=f"user:ID --item {item}"
            )
        name, item = "", name
    if known and min(known) < 0:
        raise UsageError(
            f"expected a position, got {min(known)}",
            where="--known",
            fix="an answer's own is its p",
        )
    project = open_project(applied=True)
    about = tuple(_as_kept(project, text) for text in about)
    if alone and kind != "item":
        name = about[0].partition(":")[2]
    clock, told = clock_of_answers("", project, SystemClock())
    t = parse_time(at, "--at") if at else clock.now()
    if told and not at and not json:
        console().print(told)
    if why:
        _check_name(project, why)
    if not alone:
        from tailorbird.cli.features_show_about import Asked, explain_about, show_about

        asked = Asked(about, t, _known(project, known), bool(at) or bool(known), events)
        explain_about(project, asked, why, json) if why else show_about(project, asked, json)
    elif why:
        _explain(project, _Asked(kind, name, item, t, known, clock.now()), why, json)
    elif at or known:
        _show_then(project, _Asked(kind, name, item, t, known, clock.now()), events, json)
    else:
        _show_now(project, _Asked(kind, name, item, t, None, t), events, json)


def _as_kept(project: "Project", text: str) -> str:
    """A person's id under which the project keeps it; anything else as it is."""
    from tailorbird.events.contract import ANONYMOUS_PREFIX
    from tailorbird.privacy.people import pseudonymise_ids

    field, _, value = text.partition(":")
    if not value or field not in ("user", "anonymous"):
        return text
    prefix = ANONYMOUS_PREFIX if field == "anonymous" else ""
    (kept,) = pseudonymise_ids([f"{prefix}{value}"], project.pseudonyms())
    return f"{field}:{kept.removeprefix(prefix)}"


@dataclass(frozen=True)
class _Asked:
    """Whom it is about, with which item, as of when, how much was known then, and what time it is;
    of an item alone, `name` is "".
    """

    kind: str
    name: str
    item: str
    t: int
    known: list[int] | None
    now: int

    @property
    def request(self):
        from tailorbird.features import ReadRequest

        user, anonymous = (
            (self.name or None, None) if self.kind != "anonymous" else (None, self.name)
        )
        return ReadRequest(anonymous_id=anonymous, user_id=user, now=self.t)

    def titled(self, person: str) -> str:
        who = [] if self.kind == "item" else [person or "nobody"]
        return " and ".join([*who, *([self.item] if self.item else [])])


def _show_now(project: "Project", asked: _Asked, events: int, json: bool) -> None:
    from tailorbird.events import to_iso

    rows = _read(project, asked)
    person = rows.person or ""
    values = _about(project, asked, rows.numeric[0])
    known = {key: value for key, value in values.items() if value == value}
    newest = _newest(project, _of(asked, person), events)
    unheard = _unheard(project, asked, person)
    if json:
        print_json(
            {
                "person": person,
                "t": rows.t,
                "commit": rows.commit,
                "p": rows.p,
                "features": known,
                "events": newest,
                "unheard_of": unheard,
            }
        )
        return
    print_table(
        f"{asked.titled(person)} at {to_iso(rows.t)}, known up to {rows.p:,}",
        ["feature", "value"],
        list(known.items()),
        right=["value"],
    )
    missing = [key for key, value in values.items() if value != value]
    if missing:
        console().print(f"missing: {', '.join(missing)}")
    _tell_unheard(unheard)
    print_table("\nNewest events", _EVENTS.split(", "), [list(row.values()) for row in newest])


def _show_then(project: "Project", asked: _Asked, events: int, json: bool) -> None:
    """Each feature as of the past by the lake, beside the state's now."""
    import numpy as np

    from tailorbird.events import to_iso
    from tailorbird.features.attached import JoinedEvents
    from tailorbird.features.backfill import Requests, backfill, event_columns
    from tailorbird.features.positions import stack_positions
    from tailorbird.features.sampled import required_events
    from tailorbird.lake import Lake

    lake, known = Lake(project.paths.lake), _known(project, asked.known)
    p = max(known)
    person = _person(project, asked, p)
    requests = Requests(
        np.array([asked.t]),
        stack_positions([known]),
        [person or None],
        np.zeros(1, np.intp),
        [asked.item],
    )
    features = project.features
    found = backfill(
        features,
        JoinedEvents(lake, features).table(
            event_columns(features), required_events(features, requests)
        ),
        requests,
    )
    then = _about(project, asked, found.numeric[0])
    try:
        now = _about(project, asked, _read(project, asked, now=True).numeric[0])
    except NotReadyError:  # no state yet, or one that is just being built
        now = {}
    newest = _newest(project, _of(asked, person), events, before=asked.t, p=p)
    unheard = _unheard(project, asked, person)
    if json:
        kept = {
            name: {key: value for key, value in some.items() if value == value}
            for name, some in (("features", then), ("now", now))
        }
        print_json(
            {
                "person": person,
                "t": asked.t,
                "p": p,
                **kept,
                "events": newest,
                "unheard_of": unheard,
            }
        )
        return
    title = f"{asked.titled(person)} at {to_iso(asked.t)} by the lake, known up to {p:,}"
    rows = [(name, _told(value), _told(now.get(name))) for name, value in then.items()]
    print_table(title, ["feature", "then", "now"], rows, right=["then", "now"])
    _tell_unheard(unheard)
    print_table("\nNewest events then", _EVENTS.split(", "), [list(row.values()) for row in newest])


def _explain(project: "Project", asked: _Asked, name: str, json: bool) -> None:
    from tailorbird.events import to_iso
    from tailorbird.features import ReadRequest
    from tailorbird.features.attached import JoinedEvents
    from tailorbird.features.explain import explain
    from tailorbird.features.reference import routed_events
    from tailorbird.lake import Lake, span

    lake, known = Lake(project.paths.lake), _known(project, asked.known)
    p = max(known)
    person = _person(project, asked, p)
    before = routed_events(JoinedEvents(lake, project.features).table(where=span(ts_to=asked.t)))
    found = explain(
        project.features,
        name,
        ReadRequest(person=person or None),
        asked.item or None,
        asked.t,
        known,
        before,
    )
    rows = [{key: event.get(key) for key in _SHOWN} for event in found.events]
    if json:
        print_json(
            {
                "person": person,
                "feature": name,
                "t": asked.t,
                "p": p,
                "value": found.value,
                "lacks": found.lacks,
                "events": rows,
            }
        )
        return
    out = console()
    out.print(
        f"{name} of {asked.titled(person)} at {to_iso(asked.t)}, known up to {p:,}: {found.value}"
    )
    for read in found.reads:
        out.print(f"  {read.name}: {read.value}")
    named = {
        "user": f"{asked.kind}:{asked.name}" if asked.name else "",
        "item": f"item:{asked.item}" if asked.item else "",
    }
    tell_lacking(found, [named[field] for field in found.about if named.get(field)])
    print_table(
        "", list(_SHOWN), [(to_iso(row["ts"] or 0), *list(row.values())[1:]) for row in rows]
    )


def tell_lacking(found: "Explanation", about: Sequence[str]) -> None:
    """Why a value is missing that is about more than was said, and how to say it."""
    for one in (found, *found.reads):
        if one.value == one.value or not one.lacks:
            continue
        said = [name for name in one.lacks if "." not in name]
        unknown = [name for name in one.lacks if "." in name]
        if unknown:
            console().print(f"{one.name} is missing: no profile says {', '.join(unknown)}")
        if said:
            more = " ".join(
                shlex.quote(text) for text in (*about, *(f"{name}:VALUE" for name in said))
            )
            command = f"{this_command()} features show {more} --why {one.name}"
            console().print(
                f"{one.name} is missing: it is about {', '.join(said)} too, which was not "
                f"said. Try {command}"
            )


def _check_name(project: "Project", name: str) -> None:
    similar = {one.name: one.of for one in project.features.similarities}
    if name in similar:
        told = f"{name} is made by a model's table, which events do not have"
        raise UsageError(
            told,
            where="--why",
            fix=f"--why {similar[name]} shows what it is made of; recommend --explain, what it did",
        )
    names = [one.name for one in project.features.features]
    if name not in names:
        raise UsageError(
            f"features.py declares no feature {name!r}",
            fix=suggest_name(name, names, "tailorbird features list"),
        )


def _read(project: "Project", asked: _Asked, *, now: bool = False):
    from dataclasses import replace

    from tailorbird.features.read import Reader

    reader = Reader(project.paths.state, project.features, workers=project.workers)
    try:
        return reader.read(
            replace(asked.request, now=asked.now) if now else asked.request, [asked.item]
        )
    finally:
        reader.close()


def _about(project: "Project", asked: _Asked, row: "np.ndarray") -> dict[str, float]:
    """The numbers of what is asked for: those of an item only where there is one, of an item alone
    those that nobody else has a part in.
    """
    about = set()
    for column in project.features.columns:
        of_item = [name.partition(".")[0] == "item" for name in column.entity.split("+")]
        if all(of_item) if asked.kind == "item" else asked.item or not any(of_item):
            about.add(column.name)
    return {
        name: value
        for name, value in zip(project.features.numeric, row.tolist(), strict=True)
        if name in about
    }


def _known(project: "Project", known: list[int] | None) -> tuple[int, ...]:
    """The positions asked for, one of each part or one for all; else all that the lake has."""
    from tailorbird.lake import Lake

    newest = Lake(project.paths.lake).newest_p()
    if known and max(known) > newest:
        raise NotReadyError(
            f"the lake knows events up to {newest:,}, not {max(known):,}",
            fix="wait a second, or tailorbird run lake",
        )
    return tuple(known) if known else (newest,)


def _person(project: "Project", asked: _Asked, p: int) -> str:
    if asked.kind == "anonymous":
        return resolved(project, asked.name, p)
    return _survivor(project, asked.name, p) if asked.name else ""


def resolved(project: "Project", anonymous: str, p: int) -> str:
    """Who an anonymous id was: the user of the newest identify that was known, or whom that user
    was merged into.
    """
    from tailorbird.lake import Lake

    query = (
        "SELECT user_id FROM events WHERE type = 'identify' AND anonymous_id = "
        f"{_quoted(anonymous)} AND p <= {p} "
        "ORDER BY ts DESC, p DESC LIMIT 1"
    )
    found = Lake(project.paths.lake).sql(query)
    return (
        _survivor(project, found.column("user_id")[0].as_py(), p)
        if found.num_rows
        else f"anon:{anonymous}"
    )


def _survivor(project: "Project", user: str, p: int) -> str:
    """Whom a user was by the merges that were known."""
    import pyarrow.dataset as ds

    from tailorbird.events.merges import COLUMNS, merge_rows, merges_of, survivor
    from tailorbird.lake import Lake

    known = Lake(project.paths.lake).table(
        "events", COLUMNS, (ds.field("type") == "merge") & (ds.field("p") <= p)
    )
    return survivor(user, dict(merges_of(merge_rows(known))).get)[0]


def _of(asked: _Asked, person: str) -> str:
    """The condition for the events of the person, or of the item where it is asked for alone."""
    return _of_item(asked.item) if asked.kind == "item" else f"person = {_quoted(person)}"


def _of_item(item: str) -> str:
    return f"(item_id = {_quoted(item)} OR list_contains(items, {_quoted(item)}))"


def _unheard(project: "Project", asked: _Asked, person: str) -> list[str]:
    """Which of the person and the item the lake has no event of."""
    from tailorbird.lake import Lake

    about = [] if asked.kind == "item" else [(person or asked.name, f"person = {_quoted(person)}")]
    about += [(asked.item, _of_item(asked.item))] if asked.item else []
    lake = Lake(project.paths.lake)
    return [
        name
        for name, where in about
        if not lake.sql(f"SELECT 1 FROM events WHERE {where} LIMIT 1").num_rows
    ]


def _tell_unheard(names: list[str]) -> None:
    for name in names:
        console().print(
            f"\nThe lake has no event of {name}: what is counted is 0, and the rest is missing."
        )


def _newest(
    project: "Project", where: str, count: int, *, before: int | None = None, p: int | None = None
) -> list[dict]:
    from tailorbird.events import to_iso
    from tailorbird.lake import Lake

    if count <= 0:
        return []
    if before is not None:
        where += f" AND ts < TIMESTAMP '{to_iso(before)}' AND p <= {p}"
    query = (
        f"SELECT {_EVENTS} FROM events WHERE {where} ORDER BY ts DESC, event_id DESC LIMIT "
        f"{int(count)}"
    )
    return Lake(project.paths.lake).sql(query).to_pylist()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _told(value: float | None) -> float | None:
    return value if value is not None and value == value else None
