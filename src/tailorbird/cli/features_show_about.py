"""`tailorbird features show` of what is neither somebody nor an item alone: a session, a query, a
category, or several things together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailorbird.cli.output import console, print_json, print_table
from tailorbird.errors import NotReadyError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.config import Project
    from tailorbird.features.subject import Subject

_SHOWN = ("ts", "type", "person", "item_id", "request_id", "p")


@dataclass(frozen=True)
class Asked:
    """What `features show` was asked for.

    Attributes:
        t: as of when.
        known: counting what was routed up to here; of each part, where several workers kept the
            state.
        past: whether it is about the past, so by the lake, rather than now by the state.
        events: how many of the newest events to show.
    """

    texts: Sequence[str]
    t: int
    known: tuple[int, ...]
    past: bool
    events: int

    @property
    def p(self) -> int:
        return max(self.known)


def show_about(project: "Project", asked: Asked, json: bool) -> None:
    """Each numeric column about nothing but what is asked for, and the newest events of it."""
    from tailorbird.events import to_iso
    from tailorbird.features.subject import Subject

    subject = Subject.parse(asked.texts, project.features)
    person = _person(project, subject, asked.p)
    found: dict[str, Any] = {
        "about": dict(subject.parts),
        "person": person,
        "t": asked.t,
        "p": asked.p,
    }
    if asked.past:
        found["features"] = subject.values(
            project.features, person, asked.t, asked.known, _events(project, subject, asked.t)
        )
        try:
            found["now"] = _read(project, subject, found)
        except NotReadyError:  # no state yet, or one that is just being built
            found["now"] = {}
        found |= {"t": asked.t, "p": asked.p}
    else:
        found["features"] = _read(project, subject, found)
    newest = [
        _plain(event)
        for event in subject.newest_events(
            _of_subject(project, subject, person, found), person, max(1, asked.events)
        )
    ]
    found |= {
        "unheard_of": [] if newest else [subject.title],
        "events": newest[: max(0, asked.events)],
    }
    if json:
        print_json(
            found | {name: _there(found[name]) for name in ("features", "now") if name in found}
        )
        return
    title = f"{subject.title} at {to_iso(found['t'])}, known up to {found['p']:,}"
    if asked.past:
        rows = [
            (name, _told(value), _told(found["now"].get(name)))
            for name, value in found["features"].items()
        ]
        print_table(title, ["feature", "then", "now"], rows, right=["then", "now"])
    else:
        print_table(
            title, ["feature", "value"], list(_there(found["features"]).items()), right=["value"]
        )
        missing = [name for name, value in found["features"].items() if value != value]
        if missing:
            console().print(f"missing: {', '.join(missing)}")
    if not newest:
        console().print(
            f"\nThe lake has no event of {subject.title}: what is counted is 0, and the rest "
            "is missing."
        )
    print_table(
        "\nNewest events" + (" then" if asked.past else ""),
        list(_SHOWN),
        [list(event.values()) for event in found["events"]],
    )


def explain_about(project: "Project", asked: Asked, name: str, json: bool) -> None:
    """One column, taken apart into its events."""
    from tailorbird.cli.features_show import tell_lacking
    from tailorbird.events import to_iso
    from tailorbird.features.explain import explain
    from tailorbird.features.reference import routed_events
    from tailorbird.features.subject import Subject

    subject = Subject.parse(asked.texts, project.features)
    if name not in subject.columns(project.features):
        told = ", ".join(subject.columns(project.features))
        raise UsageError(
            f"{name} is not about {subject.title} alone",
            where="--why",
            fix=f"one of {told}; or say about what else it is",
        )
    person = _person(project, subject, asked.p)
    events = routed_events(_events(project, subject, asked.t))
    found = explain(
        project.features,
        name,
        subject.request(asked.t, person),
        subject.item or None,
        asked.t,
        asked.known,
        events,
    )
    rows = [_plain(event) for event in found.events]
    if json:
        told = {
            "feature": name,
            "t": asked.t,
            "p": asked.p,
            "value": found.value,
            "lacks": found.lacks,
            "events": rows,
        }
        print_json({"about": dict(subject.parts), **told})
        return
    out = console()
    out.print(
        f"{name} of {subject.title} at {to_iso(asked.t)}, known up to {asked.p:,}: {found.value}"
    )
    for read in found.reads:
        out.print(f"  {read.name}: {read.value}")
    tell_lacking(found, asked.texts)
    print_table("", list(_SHOWN), [list(row.values()) for row in rows])


def _read(project: "Project", subject: "Subject", found: dict[str, Any]) -> dict[str, float]:
    """Each column by the state now; notes in `found` of when and of what it is."""
    from tailorbird.events import SystemClock
    from tailorbird.features.read import Reader

    reader = Reader(project.paths.state, project.features, workers=project.workers)
    try:
        rows = reader.read(subject.request(SystemClock().now()), [subject.item])
    finally:
        reader.close()
    found |= {
        "person": rows.person or found["person"],
        "t": rows.t,
        "p": rows.p,
        "commit": rows.commit,
    }
    shown = subject.columns(project.features)
    return {
        name: value
        for name, value in zip(project.features.numeric, rows.numeric[0].tolist(), strict=True)
        if name in shown
    }


def _person(project: "Project", subject: "Subject", p: int) -> str:
    """Whom it names, "" for nobody."""
    from tailorbird.cli.features_show import resolved
    from tailorbird.features.subject import ANONYMOUS

    anonymous = subject.parts.get(ANONYMOUS)
    return subject.parts.get("user", "") if anonymous is None else resolved(project, anonymous, p)


def _events(project: "Project", subject: "Subject", t: int) -> "pa.Table":
    """All events that its columns may count."""
    import pyarrow.dataset as ds

    from tailorbird.features.attached import JoinedEvents
    from tailorbird.lake import Lake, span

    counted = ds.field("type").isin(list(subject.types(project.features)))
    return JoinedEvents(Lake(project.paths.lake), project.features).table(
        where=span(ts_to=t) & counted
    )


def _of_subject(
    project: "Project", subject: "Subject", person: str, found: dict[str, Any]
) -> "list[pa.Table]":
    """The events among which the newest are, in order of time."""
    import pyarrow.dataset as ds

    from tailorbird.features.attached import JoinedEvents
    from tailorbird.lake import Lake, span

    where = span(ts_to=found["t"]) & (ds.field("p") <= found["p"])
    for field, column in (
        ("user", "person"),
        ("anonymous", "person"),
        ("session", "session_id"),
        ("device", "device"),
        ("country", "country"),
    ):
        if field in subject.parts:
            where &= ds.field(column) == (person if column == "person" else subject.parts[field])
    events = JoinedEvents(Lake(project.paths.lake), project.features).table(where=where)
    return [events.sort_by([("ts", "ascending"), ("event_id", "ascending")]).combine_chunks()]


def _plain(event: Any) -> dict[str, Any]:
    from tailorbird.events import to_iso

    return {name: to_iso(event["ts"]) if name == "ts" else event.get(name) for name in _SHOWN}


def _there(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value == value}


def _told(value: Any) -> Any:
    return value if value is not None and value == value else None
