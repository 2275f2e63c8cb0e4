"""Looking for people, without changing anything: what an erasure would find, and a search through
every byte of a project.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tailorbird.config import Project
from tailorbird.config.schemas import active_schemas
from tailorbird.events import Clock
from tailorbird.events.contract import ANONYMOUS_PREFIX
from tailorbird.events.erased import StopList
from tailorbird.features.erase import needs
from tailorbird.lake import Lake
from tailorbird.places import Place
from tailorbird.privacy.bundles import trained_on
from tailorbird.privacy.files import local_roots, of_persons
from tailorbird.privacy.marks import refused_rows, whose
from tailorbird.privacy.mention import WITHIN_MIN, Mentions, field_names
from tailorbird.privacy.others import Others, find_others
from tailorbird.privacy.person import (
    Kept,
    People,
    find_people,
    ids_of,
    once,
    one_of,
    strangers,
    unnamed,
)
from tailorbird.privacy.rows import FREE, JSON, THINGS
from tailorbird.privacy.search import Found, Needles, Searched, hashes_of, search, search_topics

_WHERE = (
    "in the columns that say who it was, in what people and sites wrote, in ids of sessions "
    "and requests, and in refused rows"
)
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Preview:
    """What an erasure would find.

    Attributes:
        refused: rows of the quarantine.
        strangers: which of the ids that were asked for nothing here is of, counted from 1.
        into: how many users were one with some of them for a while, by merges, and stay.
        unnamed: how many users they are by merges, of whom pseudonyms alone are known: see
            `privacy.person.unnamed`.
    """

    users: int
    visitors: int
    shared: int
    events: dict[str, int]
    refused: int
    first: int
    last: int
    bundles: list[dict[str, object]]
    strangers: list[int]
    into: int = 0
    unnamed: int = 0


def preview(project: Project, kept: Sequence[Kept], clock: Clock) -> Preview:
    """What stands in the lake of these people; reads only, and may run beside the roles."""
    lake = Lake(project.paths.lake)
    people = find_people(lake, ids_of(kept))
    types: dict[str, int] = {}
    first = last = 0
    if lake.exists("events"):
        rows = lake.table("events", ["type", "ts"], whose(people))
        counted = rows.group_by("type").aggregate([("type", "count")])
        types = dict(
            zip(counted["type"].to_pylist(), counted["type_count"].to_pylist(), strict=True)
        )
        times = [one for one in rows["ts"].cast("int64").to_pylist() if one > 0]
        first, last = (min(times), max(times)) if times else (0, 0)
    bundles = trained_on(project, first, last, clock.now(), clock)
    return Preview(
        *once(kept, people),
        len(people.shared),
        types,
        len(refused_rows(lake, people, known_names(project))),
        first,
        last,
        bundles,
        strangers(lake, kept, StopList.load(project.paths.data)),
        len(people.into),
        unnamed(kept, people, project.pseudonyms()),
    )


def look_for(
    project: Project, kept: Sequence[str], progress: Progress = lambda stage, done, total: None
) -> Searched:
    """Search every byte of a project for people who were erased, by their ids; it may run beside
    the roles.
    """
    users = [one for one in kept if not one.startswith(ANONYMOUS_PREFIX)]
    visitors = frozenset(
        one.removeprefix(ANONYMOUS_PREFIX) for one in kept if one.startswith(ANONYMOUS_PREFIX)
    )
    shared = visitors & find_people(Lake(project.paths.lake), kept).shared
    people = People(frozenset(users), visitors - shared, shared)
    return everywhere(project, sought(project, people), progress=progress)


@dataclass(frozen=True)
class Sought:
    """What a search for some people looks for, and what of others it has to let be."""

    people: People
    needles: Needles
    others: Others

    @property
    def apart(self) -> frozenset[str]:
        """The persons whose ids cannot be looked for in bytes."""
        few = self.needles.apart
        return People(self.people.users & few, self.people.visitors & few).persons


def sought(project: Project, people: People, texts: Collection[str] = ()) -> Sought:
    """What a search for these people looks for; `texts`: what was nobody else's, besides their ids."""
    found = find_others(Lake(project.paths.lake), people, known_names(project))
    users, visitors = people.users - found.words, people.visitors - found.words
    ids, words = people.own_ids, found.words & people.own_ids
    needles = Needles(
        {*ids, *texts},
        hashes_of(users, visitors),
        found.longer | found.named,
        ids,
        found.things,
        words,
        found.alike,
    )
    return Sought(people, needles, found)


def known_names(project: Project) -> frozenset[str]:
    """The names of fields that a project knows, in whatever it declares."""
    return field_names(project.plan, needs([*active_schemas(project), project.features]).kept)


def everywhere(
    project: Project, sought: Sought, *, skip: Collection[Place] = (), progress: Progress
) -> Searched:
    """Search all that a project has: its files, its lake, its topics; for short ids, the columns of
    the lake that say who it was.
    """
    total = sum(
        path.stat().st_size
        for folder in local_roots(project)
        for path in folder.rglob("*")
        if path.is_file()
    )
    told = counted("search", total, progress)
    people, needles = sought.people, sought.needles
    found = search(roots_of(project), needles, skip=skip, ours=ours_of(project), told=told)
    found.found += _in_columns(project, sought)
    found.shared = len(people.shared)
    found.words, found.named, found.alike = (
        len(people.own_ids & sought.others.words),
        len(sought.others.named),
        len(sought.others.alike),
    )
    found.limits = _limits(found)
    if not isinstance(project.stream, Path):
        from tailorbird.privacy.topics import contents

        search_topics(contents(project.stream), needles, found, told)
    return found


def roots_of(project: Project) -> list[Place]:
    """Where a project keeps things: on this machine, and its lake where that is elsewhere."""
    lake, local = project.paths.lake, local_roots(project)
    return [
        *local,
        *(
            []
            if isinstance(lake, Path) and any(folder in lake.parents for folder in local)
            else [lake]
        ),
    ]


def ours_of(project: Project) -> list[Place]:
    """The folders whose files are the project's own, which nobody else may delete."""
    return [project.paths.data, project.paths.lake]


def _in_columns(project: Project, sought: Sought) -> Iterator[Found]:
    """What is left of people whose ids cannot be looked for in bytes: whole values of columns, and
    refused rows.
    """
    at, people = project.paths.lake, sought.people
    lake, ids = Lake(at), people.own_ids & sought.needles.apart
    few = People(people.users & ids, people.visitors & ids, people.shared)
    if not few.persons:
        return
    yield from (
        Found(str(path), 1, "whose it is", "what a command made")
        for path in of_persons(project, sought.apart)
    )
    for table, column, values in (
        ("events", "person", few.persons),
        ("events", "user_id", few.users),
        ("events", "anonymous_id", few.visitors),
        ("users", "id", few.users),
        ("answers", "person", few.persons),
        ("answers", "user_id", few.users),
        ("answers", "anonymous_id", few.visitors),
    ):
        if lake.exists(table) and (
            count := len(lake.table(table, [column], one_of(column, values)))
        ):
            yield Found(str(at / table), count, f"column {column}", table)
    if not ids:
        return
    mentions = Mentions(ids, known_names(project), rename=lambda id_: "")
    looks: tuple[tuple[str, Sequence[str], Callable[[pa.ChunkedArray], np.ndarray]], ...] = (
        ("events", THINGS, mentions.names_in),
        ("answers", ("request_id", "session_id"), mentions.names_in),
        ("duplicates", ("event_id",), mentions.names_in),
        ("events", FREE, mentions.in_column),
        ("events", JSON, mentions.in_json),
        ("answers", ("query",), mentions.in_column),
        ("users", ("attributes",), mentions.in_json),
        ("items", ("attributes",), mentions.in_json),
        (
            "quarantine",
            ("body",),
            lambda column: np.array([mentions.in_body(body) for body in column.to_pylist()], bool),
        ),
    )
    counts: Counter[tuple[str, str]] = Counter()
    for table, columns, held in looks:
        for batch in lake.batches(table, columns) if lake.exists(table) else ():
            rows = pa.Table.from_batches([batch])
            for column in columns:
                counts[table, column] += int(held(rows[column]).sum())
    yield from (
        Found(str(at / table), count, f"column {column}", table)
        for (table, column), count in counts.items()
        if count
    )


def _limits(found: Searched) -> list[str]:
    """What the search did not look for, or lets be, in sentences."""
    told = []
    if short := found.short - found.words:
        told.append(
            f"{short:,} ids are shorter than {WITHIN_MIN} characters: they were compared as "
            f"whole values only, {_WHERE}."
        )
    if found.words:
        told.append(
            f"{found.words:,} ids are also that of an item, a type, another user or visitor, "
            "or another value that stays: there the id"
            f" remains, in the tables, the archive and the state."
            f" They were compared {_WHERE}; other bytes, and files of yours, were not "
            "searched for them."
        )
    if found.named:
        told.append(
            f"{found.named:,} ids of items, types or other values of others hold an id of "
            "theirs, and stay."
        )
    if found.alike:
        told.append(
            f"{found.alike:,} ids of other users or visitors are one of theirs in another "
            "form (its case, say), and stay: whoever is the"
            " same person has to be erased by that id too."
        )
    if found.shared:
        told.append(
            f"{found.shared:,} devices of theirs are those of others too: the ids of these "
            "stay where the others used them."
        )
    return told


def counted(stage: str, total: int | None, progress: Progress) -> Callable[[int], None]:
    done = 0

    def told(one: int) -> None:
        nonlocal done
        done += one
        progress(stage, done, total)

    return told
