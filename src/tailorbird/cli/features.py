"""`tailorbird features list|show|verify`; `plan`, `apply`, `prune` and `backfill` are in modules of their own, and only named here."""

import difflib
from typing import TYPE_CHECKING

from tailorbird.cli.features_apply import apply, plan, prune
from tailorbird.cli.features_backfill import backfill
from tailorbird.cli.output import Json, console, print_json, print_table
from tailorbird.errors import NotReadyError, TailorbirdError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.config import Project
    from tailorbird.features.recompute import ParityReport
    from tailorbird.lake import Lake

__all__ = ["apply", "backfill", "list_", "plan", "prune", "show", "verify"]

_SHOWN = ("ts", "type", "item_id", "request_id", "p")


def list_(*, bytes: bool = False, json: Json = False) -> None:
    """List the features that the project declares: what each is, of what entity, and what its entity's records take.

    With `--bytes` it lists what the state holds instead: how many entities of each kind, what their records take, and how many
    were let go because they were idle, or because there were too many.

    Example:  tailorbird -C shop features list

    Example:  tailorbird -C shop features list --bytes

    Parameters
    ----------
    bytes:
        list entities and bytes by kind
    """
    from tailorbird.config import open_project

    project = open_project()
    features = project.features
    if bytes:
        _list_bytes(project, json)
        return
    columns = [(column.name, column.kind, column.entity, column.description) for column in features.columns]
    if json:
        keys = ("name", "kind", "entity", "description")
        print_json({"schema_hash": features.schema_hash, "features": [dict(zip(keys, row, strict=True)) for row in columns]})
        return
    print_table(f"Schema {features.schema_hash}", ["feature", "kind", "of", "what it is"], columns)


def _list_bytes(project: "Project", json: bool) -> None:
    from tailorbird.features.idle import tallies
    from tailorbird.features.state import open_state

    store = open_state(project.paths.state, project.features)
    try:
        with store.snapshot() as snapshot:
            found = tallies(snapshot, project.features.layout)
        disk = store.size_bytes()
    finally:
        store.close()
    widths = {one.entity.name: one.reading_bytes for one in project.features.layout.entities}
    kinds = [
        {
            "entity": name,
            "entities": tally.entities,
            "state_bytes_each": round(tally.state_bytes / max(1, tally.entities)),
            "reading_bytes_each": widths[name],
            "bytes": tally.state_bytes + widths[name] * tally.entities,
            "expired": tally.expired,
            "dropped": tally.dropped,
        }
        for name, tally in found.items()
    ]
    if json:
        print_json(
            {
                "schema_hash": project.features.schema_hash,
                "disk_bytes": disk,
                "entities_max": project.settings.features.entities_max,
                "kinds": kinds,
            }
        )
        return
    headings = ["kind", "entities", "state bytes each", "reading bytes each", "bytes", "expired", "dropped"]
    rows = [tuple(one if isinstance(one, str) else f"{one:,}" for one in kind.values()) for kind in kinds]
    print_table(f"Schema {project.features.schema_hash}: {disk:,} bytes on disk, free pages included", headings, rows)


def show(entity: str, *, item: str = "", events: int = 10, why: str = "", at: str = "", json: Json = False) -> None:
    """Show what the state says of a person now, alone or with an item, and the person's newest events in the lake.

    With `--why` it shows one feature instead: its value by the lake, and the events that it was made of, now or at another time.

    Example:  tailorbird -C shop features show user:u000001

    Example:  tailorbird -C shop features show user:u000001 --item i00001

    Example:  tailorbird -C shop features show user:u000001 --why user_clicks_7d --at 2026-11-25T12:00:00Z

    Parameters
    ----------
    entity:
        user:ID, or anonymous:ID for somebody who is not known
    item:
        also the features of this item, and of the two together
    events:
        how many events to show
    why:
        a feature, to be taken apart into the events behind it
    at:
        with --why: as it was at this time, now unless told otherwise
    """
    from tailorbird.config import open_project
    from tailorbird.events import SystemClock, to_iso
    from tailorbird.features import ReadRequest
    from tailorbird.features.read import Reader
    from tailorbird.lake import Lake

    kind, _, name = entity.partition(":")
    if kind not in ("user", "anonymous") or not name:
        raise UsageError(f"expected user:ID or anonymous:ID, got {entity!r}")
    project = open_project(applied=True)
    if why:
        _explain(project, name if kind == "user" else f"anon:{name}", item, why, at, json)
        return
    user, anonymous = (name, None) if kind == "user" else (None, name)
    reader = Reader(project.paths.state, project.features)
    rows = reader.read(ReadRequest(user, anonymous, None, None, None, None, SystemClock().now()), [item])
    reader.close()
    person = rows.person or ""
    about = {column.name for column in project.features.columns if item or "item" not in column.entity}
    values = {name: value for name, value in zip(project.features.numeric, rows.numeric[0].tolist(), strict=True) if name in about}
    known = {key: value for key, value in values.items() if value == value}
    columns = "ts, type, item_id, request_id, counts"
    escaped = person.replace("'", "''")
    query = f"SELECT {columns} FROM events WHERE person = '{escaped}' ORDER BY ts DESC, event_id DESC LIMIT {max(0, int(events))}"
    newest = Lake(project.paths.lake).sql(query).to_pylist() if events > 0 else []
    if json:
        print_json({"person": person, "t": rows.t, "commit": rows.commit, "p": rows.p, "features": known, "events": newest})
        return
    title = f"{person or 'nobody'}{' and ' + item if item else ''} at {to_iso(rows.t)}, known up to {rows.p:,}"
    print_table(title, ["feature", "value"], list(known.items()), right=["value"])
    missing = [key for key, value in values.items() if value != value]
    if missing:
        console().print(f"missing: {', '.join(missing)}")
    print_table("\nNewest events", columns.split(", "), [list(row.values()) for row in newest])


def _explain(project: "Project", person: str, item: str, name: str, at: str, json: bool) -> None:
    import pyarrow.compute as pc

    from tailorbird.cli.moment import time_of
    from tailorbird.events import SystemClock, to_iso
    from tailorbird.features import ReadRequest
    from tailorbird.features.explain import explain
    from tailorbird.features.reference import routed_events
    from tailorbird.lake import Lake

    names = [column.name for column in project.features.columns]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        fix = f"did you mean {near[0]}?" if near else "tailorbird features list"
        raise UsageError(f"features.py declares no feature {name!r}", fix=fix)
    t = time_of(at, "--at") if at else SystemClock().now()
    known = Lake(project.paths.lake).events(ts_to=t)
    p = int(pc.max(known["p"]).as_py() or 0) + 1 if known.num_rows else 1
    found = explain(project.features, name, ReadRequest(person=person), item or None, t, p, routed_events(known))
    rows = [{key: event.get(key) for key in _SHOWN} for event in found.events]
    if json:
        print_json({"person": person, "feature": name, "t": t, "p": p, "value": found.value, "events": rows})
        return
    console().print(f"{name} of {person}{' and ' + item if item else ''} at {to_iso(t)}: {found.value}", markup=False)
    for read in found.reads:
        console().print(f"  {read.name}: {read.value}", markup=False)
    print_table("", list(_SHOWN), [(to_iso(row["ts"] or 0), *list(row.values())[1:]) for row in rows])


def verify(*, answers: int = 2_000, json: Json = False) -> None:
    """Recompute the features of logged answers from the lake, at their own (t, p), and compare to the bit.

    Ends with status 1 if any value differs.

    Example:  tailorbird -C shop features verify

    Parameters
    ----------
    answers:
        how many logged answers, spread evenly over all
    """
    from tailorbird.config import open_project
    from tailorbird.lake import Lake

    project = open_project(applied=True)
    lake = Lake(project.paths.lake)
    logged = lake.table("answers")
    if not logged.num_rows:
        raise NotReadyError("no answer has been logged yet", where=str(lake.path), fix="tailorbird up, then ask it for some")
    logged = logged.take(list(range(0, logged.num_rows, max(1, logged.num_rows // max(1, answers)))))
    found = _verified(project, lake, logged)
    compared, unequal = sum(report.compared for report in found.values()), sum(report.unequal for report in found.values())
    answered = sum(report.answers for report in found.values())
    by_feature = [(schema, name, count) for schema, report in found.items() for name, count in report.by_feature.items() if count]
    if json:
        schemas = {
            schema: {"answers": report.answers, "compared": report.compared, "unequal": report.unequal} for schema, report in found.items()
        }
        told = {name: count for _, name, count in by_feature}
        print_json({"answers": answered, "compared": compared, "unequal": unequal, "by_feature": told, "schemas": schemas})
    else:
        console().print(f"{answered:,} answers, {compared:,} values compared, {unequal:,} unequal.")
        if len(found) > 1:
            rows = [(schema, report.answers, report.compared, report.unequal) for schema, report in found.items()]
            numbers = ["answers", "compared", "unequal"]
            print_table("By schema", ["schema", *numbers], rows, right=numbers)
        if by_feature:
            print_table("Unequal, by feature", ["schema", "feature", "values"], by_feature, right=["values"])
    raise SystemExit(1 if unequal else 0)


def _verified(project: "Project", lake: "Lake", logged: "pa.Table") -> "dict[str, ParityReport]":
    """Each schema that answers were given with, and whose declarations are kept, against the lake."""
    import pyarrow.compute as pc

    from tailorbird.config.schemas import find_schema
    from tailorbird.features.recompute import parity

    events, found = lake.events(), {}
    for schema in sorted(pc.unique(logged["schema_hash"]).to_pylist()):
        try:
            features = find_schema(project, schema)
        except TailorbirdError as error:
            console(stderr=True).print(f"answers of schema {schema} are not compared: {error.message}", markup=False)
            continue
        found[schema] = parity(features, events, logged.filter(pc.equal(logged["schema_hash"], schema)))
    return found
