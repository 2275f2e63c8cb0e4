"""Erasing people: the steps in their order, each of which can be repeated, and the journal that says how far it came.

    stop list    nothing old of theirs comes in from now on
    archive      bodies written anew, the manifest's chain made anew
    tables       files of the lake written anew
    past         old files, old versions and the old log of every table deleted
    router       its log emptied, its tables without them, the file written anew
    logs         raw and answer logs emptied, the files written anew
    states       of every active schema built anew from the lake; copies in Valkey deleted, the worker publishes them again
    files        reports, comparisons, training sets and unfinished runs that hold something of theirs deleted
    search       every byte of the project looked through; then the journal is destroyed, and a receipt stays

A crash anywhere leaves the journal; `erase` goes on with it first. All of it is done for many people at once as for one: what costs
is the reading of the lake and the building of states.
"""

import json
import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.compute as pc

from tailorbird import faults
from tailorbird.config import Project
from tailorbird.config.schemas import active_schemas, plan_for
from tailorbird.errors import NotReadyError, StorageError, TailorbirdError, UsageError
from tailorbird.events import Clock
from tailorbird.events.contract import ANONYMOUS_PREFIX
from tailorbird.events.erased import FILE as STOP_FILE
from tailorbird.events.erased import FOLDER, KEY_FILE, StopList
from tailorbird.features import parts, schemas
from tailorbird.features.erase import Needs, needs, remake_state
from tailorbird.lake import Lake
from tailorbird.places import Place
from tailorbird.privacy.bodies import Bodies
from tailorbird.privacy.bundles import trained_on
from tailorbird.privacy.fresh import Fresh
from tailorbird.privacy.held import Held, hold, set_aside
from tailorbird.privacy.journal import Journal, destroy, journal_path, read_journal, write_journal, write_private
from tailorbird.privacy.marks import find_marks, whose
from tailorbird.privacy.person import find_people
from tailorbird.privacy.rows import Rows
from tailorbird.privacy.search import Needles, Searched, hashes_of, search
from tailorbird.privacy.unlink import Unlinked
from tailorbird.router.erase import erase as erase_router
from tailorbird.store.valkey import WRITE_TIMEOUT_S, open_copies
from tailorbird.stream import read_released, sqlite
from tailorbird.training.resuming import UNFINISHED

Progress = Callable[[str, int, int | None], None]
RECEIPTS = "receipts"
_TRAINING_SET = ("rows-*.parquet", "requests-*.parquet", "categories.parquet")  # what a backfill writes for its users


@dataclass(frozen=True)
class Preview:
    """What an erasure would find."""

    users: int
    visitors: int
    shared: int
    events: dict[str, int]
    first: int
    last: int
    bundles: list[dict[str, object]]


@dataclass(frozen=True)
class Erased:
    """What an erasure did; nothing of it says who it was.

    Attributes:
        people: keyed hashes, as on the stop list.
        counts: by place.
        bundles: the models that learned from their events, and when they are due.
        left: files with something of theirs that are not the project's own to change, and why.
        receipt: where all this was written to.
    """

    people: list[str]
    begun_at: int
    finished_at: int
    counts: dict[str, Any]
    bundles: list[dict[str, object]]
    searched: Searched
    left: list[str] = field(default_factory=list)
    receipt: str = ""

    @property
    def clean(self) -> bool:
        """Whether nothing of them is left."""
        return not self.searched.found


def preview(project: Project, kept: Sequence[str], clock: Clock) -> Preview:
    """What stands in the lake of these people; reads only, and may run beside the roles."""
    lake = Lake(project.paths.lake)
    people = find_people(lake, kept)
    types: dict[str, int] = {}
    first = last = 0
    if lake.exists("events"):
        rows = lake.table("events", ["type", "ts"], whose(people))
        counted = rows.group_by("type").aggregate([("type", "count")])
        types = dict(zip(counted["type"].to_pylist(), counted["type_count"].to_pylist(), strict=True))
        times = [one for one in rows["ts"].cast("int64").to_pylist() if one > 0]
        first, last = (min(times), max(times)) if times else (0, 0)
    bundles = trained_on(project, first, last, clock.now(), clock)
    return Preview(len(people.users), len(people.visitors), len(people.shared), types, first, last, bundles)


def unfinished(data: Path) -> bool:
    """Whether an erasure was cut short."""
    return journal_path(data).exists()


def erase(project: Project, kept: Sequence[str], clock: Clock, *, progress: Progress = lambda stage, done, total: None) -> Erased:
    """Erase people, by the ids under which they are kept; one that was cut short is brought to its end, and `kept` is then not looked at.

    Raises:
        LockedError: a role is running.
        NotReadyError: there is no lake, or rows wait that are not yet in it.
        UsageError: files lie there that nobody can search; or the logs are topics, which cannot be written anew.
    """
    if not isinstance(project.stream, Path):
        raise UsageError(
            "the logs are topics, of which no record can be taken out",
            where="stream.url",
            fix="docs/how-to/privacy.md says what can be done; with pseudonyms and a short retention of the topics it is little",
        )
    if not (project.paths.lake / "ledger.jsonl").exists():
        raise NotReadyError("there is nothing in the lake yet", where=str(project.paths.lake), fix="tailorbird import FORMAT PATH")
    with hold(project, clock) as held:
        return _Erasure(project, held, clock, progress).run(kept)


class _Erasure:
    def __init__(self, project: Project, held: Held, clock: Clock, progress: Progress) -> None:
        self._project, self._held, self._clock, self._progress = project, held, clock, progress
        self._data = project.paths.data
        self._features = active_schemas(project)
        self._plan = plan_for(project, self._features)
        self._needs: Needs = needs([*self._features, project.features])

    def run(self, kept: Sequence[str]) -> Erased:
        self._journal = read_journal(self._data) or self._begin(kept)
        self._fresh = Fresh(bytes.fromhex(self._journal.key), self._journal.salts)
        self._people, self._marks = self._journal.people, self._journal.marks
        self._unlinked = Unlinked(self._marks, self._needs, self._fresh)
        self._step("stop list", self._stop)
        self._step("archive", self._archive)
        self._step("tables", self._tables)
        self._step("past", self._past)
        self._step("router", self._router)
        self._step("logs", self._logs)
        self._step("copies", self._copies)
        for features in self._features:
            self._step(f"state {features.schema_hash}", partial(self._state, features))
        self._step("files", self._files)
        searched = self._search()
        return self._finish(searched)

    def _begin(self, kept: Sequence[str]) -> Journal:
        begun_at = self._clock.now()
        lake = Lake(self._project.paths.lake)
        people = find_people(lake, kept)
        fresh = Fresh(secrets.token_bytes(32))
        recent = begun_at - self._plan.dedup_us
        marks = find_marks(lake, people, self._needs, fresh, recent_from=recent, progress=self._progress)
        journal = Journal(begun_at=begun_at, people=people, key=fresh.key.hex(), marks=marks, salts=fresh.salts, missed=fresh.missed)
        write_journal(self._data, journal)
        faults.at("erase.begun")
        return journal

    def _step(self, name: str, do: Callable[[], dict[str, Any]]) -> None:
        if name in self._journal.done:
            return
        counts = do()
        faults.at(f"erase.before_done.{name.partition(' ')[0]}")
        self._journal.done.append(name)
        self._journal.counts |= counts
        write_journal(self._data, self._journal)
        faults.at(f"erase.after_done.{name.partition(' ')[0]}")

    def _stop(self) -> dict[str, Any]:
        people, at = self._people, self._journal.begun_at
        subjects = [*(("u", id_) for id_ in people.users), *(("a", id_) for id_ in (*people.visitors, *people.shared))]
        recent = [((mark, who), id_) for mark, who, id_ in self._marks.recent]
        stopped = StopList.load(self._data).with_people(subjects, recent, at, at - self._plan.dedup_us)
        listed, key = stopped.encoded()
        write_private(self._data / FOLDER / KEY_FILE, key)
        faults.at("erase.stop_key")
        write_private(self._data / FOLDER / STOP_FILE, listed)
        return {
            "people": len(people.users) or len(people.visitors),
            "visitors": len(people.visitors),
            "events by type": self._marks.types,
            "not as it was": self._journal.missed,
        }

    def _archive(self) -> dict[str, Any]:
        bodies = Bodies(self._people, self._marks, self._unlinked, self._plan)
        if faults.cut("erase.archive"):
            return {}
        files, before, after = self._held.lake.rewrite_archive(bodies.change, self._told("archive"))
        return {"archive": {"files": files, "rows": bodies.rows, "chain before": before, "chain after": after}}

    def _tables(self) -> dict[str, Any]:
        rows = Rows(self._people, self._marks, self._unlinked)
        changes = {name: change for name, change in rows.changes().items() if not faults.cut(f"erase.{name}")}
        files = self._held.lake.rewrite(changes, self._told("tables"))
        return {"tables": {"files": sum(files.values()), **dict(rows.counts)}}

    def _past(self) -> dict[str, Any]:
        if not faults.cut("erase.past"):
            self._held.lake.forget_past()
            for path in set_aside(self._project.paths.lake):
                path.unlink()
        return {}

    def _router(self) -> dict[str, Any]:
        if self._held.routed is None or faults.cut("erase.router"):
            return {}
        before = read_released(self._project.paths.lake).of_routed()
        found = erase_router(
            self._held.routed,
            before,
            users=self._people.users,
            visitors=self._people.visitors,
            events=self._marks.events,
            requests=self._marks.requests,
        )
        return {"router": msgspec.to_builtins(found)}

    def _logs(self) -> dict[str, Any]:
        released = read_released(self._project.paths.lake)
        count = 0
        for producer, log in self._held.raw.items():
            if not faults.cut("erase.raw"):
                count += log.prune(released.raw(producer))
                log.shrink()
                faults.at("erase.raw_log")
        for producer, log in self._held.answers.items():
            if not faults.cut("erase.answer_log"):
                count += log.prune(released.answers(producer))
                log.shrink()
        shutil.rmtree(self._project.paths.stream / "import-runs", ignore_errors=True)
        for path in self._project.paths.stream.glob("*.db"):
            if sqlite.wal_bytes(path):
                raise StorageError("a reader kept the WAL from being emptied", where=str(path), fix="stop what reads it, and erase again")
        return {"logs": {"blocks": count}}

    def _copies(self) -> dict[str, Any]:
        """Before the states: what is published under a schema comes from its state alone."""
        url = self._project.settings.store.url
        if not url or faults.cut("erase.copies"):
            return {}
        count = 0
        for schema in {features.schema_hash for features in self._features} | set(self._held.states):
            copies = open_copies(url, schema, timeout_s=WRITE_TIMEOUT_S)
            try:
                count += copies.wipe()
            finally:
                copies.close()
        return {"copies": {"records": count}}

    def _state(self, features: Any) -> dict[str, Any]:
        schema, paths = features.schema_hash, self._project.paths
        for gone in self._held.states.keys() - {each.schema_hash for each in self._features}:
            self._held.states.pop(gone).release()
        schemas.prune(paths.state, [each.schema_hash for each in self._features])
        if (lock := self._held.states.pop(schema, None)) is not None:
            lock.release()
        if faults.cut("erase.state"):
            return {}
        rows = remake_state(
            paths.state, features, paths.lake, self._project.routed, clock=self._clock,
            entities_max=self._project.settings.features.entities_max, progress=lambda done, total: self._progress("state", done, total),
        )  # fmt: skip
        return {f"state {schema}": {"rows": rows}}

    def _files(self) -> dict[str, Any]:
        """Delete what was derived from their data and can be made again. What is not ours stays, and is told by the search."""
        count = 0
        for folder in [path for path in self._data.rglob(UNFINISHED) if path.is_dir()]:
            shutil.rmtree(folder)
            count += 1
        for found in search([self._project.root], self._needles(), skip=self._skipped()).found:
            path = Path(found.path)
            if not path.exists() or faults.cut("erase.files"):
                continue
            for derived in _derived(path, self._project):
                shutil.rmtree(derived) if derived.is_dir() else derived.unlink(missing_ok=True)
                faults.at("erase.file")
                count += 1
        return {"files": {"deleted": count}}

    def _search(self) -> Searched:
        total = sum(path.stat().st_size for path in self._project.root.rglob("*") if path.is_file())
        return search(_roots(self._project), self._needles(), skip=self._skipped(), told=self._told("search", total))

    def _needles(self) -> Needles:
        own = self._people.own_ids
        return Needles(
            {*own, *self._marks.own},
            hashes_of(self._people.users, self._people.visitors),
            other_ids(Lake(self._project.paths.lake), own),
        )

    def _skipped(self) -> list[Path]:
        return [journal_path(self._data)]

    def _finish(self, searched: Searched) -> Erased:
        stopped = StopList.load(self._data)
        people = sorted(
            stopped.hash(*subject)
            for subject in [*(("u", id_) for id_ in self._people.users), *(("a", id_) for id_ in self._people.visitors)]
        )
        marks, journal = self._marks, self._journal
        bundles = trained_on(self._project, marks.first, marks.last, journal.begun_at, self._clock)
        left = [found.path for found in searched.found]
        folder = self._data / FOLDER / RECEIPTS
        number = 1 + max((int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit()), default=0)
        path = folder / f"{number:06d}.json"
        erased = Erased(people, journal.begun_at, self._clock.now(), journal.counts, bundles, searched, left, str(path))
        write_private(path, json.dumps(msgspec.to_builtins(erased), indent=1).encode() + b"\n")
        faults.at("erase.receipt")
        destroy(journal_path(self._data))
        return erased

    def _told(self, stage: str, total: int | None = None) -> Callable[[int], None]:
        return _counted(stage, total, self._progress)


def look_for(project: Project, kept: Sequence[str], progress: Progress = lambda stage, done, total: None) -> Searched:
    """Search every byte of a project for people who were erased, by their ids; it may run beside the roles."""
    ids = frozenset(one.removeprefix(ANONYMOUS_PREFIX) for one in kept)
    users = [one for one in kept if not one.startswith(ANONYMOUS_PREFIX)]
    visitors = [one.removeprefix(ANONYMOUS_PREFIX) for one in kept if one.startswith(ANONYMOUS_PREFIX)]
    needles = Needles(ids, hashes_of(users, visitors), other_ids(Lake(project.paths.lake), ids))
    total = sum(path.stat().st_size for path in project.root.rglob("*") if path.is_file())
    return search(_roots(project), needles, told=_counted("search", total, progress))


def _roots(project: Project) -> list[Place]:
    """Where a project keeps things: its folder, and its lake where that is elsewhere."""
    lake = project.paths.lake
    return [project.root, *([] if isinstance(lake, Path) and project.root in lake.parents else [lake])]


def _counted(stage: str, total: int | None, progress: Progress) -> Callable[[int], None]:
    done = 0

    def told(one: int) -> None:
        nonlocal done
        done += one
        progress(stage, done, total)

    return told


def _derived(path: Path, project: Project) -> list[Path]:
    """What is deleted with a file that holds something: the file, or all of the training set that it is part of; nothing if not ours."""
    for folder in path.parents:
        if folder == project.root.parent:
            break
        works = [each.parent for each in (*folder.glob("manifest.json"), *folder.glob("*/manifest.json")) if _is_backfill(each.parent)]
        if works:
            return [*works, *(each for pattern in _TRAINING_SET for each in folder.glob(pattern))]
    paths = project.paths
    ours = (paths.run, paths.checks, paths.reports)
    return [path] if any(folder in path.parents for folder in ours) else []


def _is_backfill(folder: Path) -> bool:
    try:
        return bool(parts.read_manifest(folder).format)
    except TailorbirdError:  # it is the manifest of something else
        return False


def other_ids(lake: Lake, ids: frozenset[str]) -> set[str]:
    """Ids of others that hold one of these within."""
    found: set[str] = set()
    if not lake.exists("events") or not ids:
        return found
    pattern = "|".join(re.escape(one) for one in sorted(ids))
    for batch in lake.batches("events", ["user_id", "anonymous_id", "person"]):
        for column in batch.columns:
            values = column.unique().drop_null()
            found |= set(values.filter(pc.match_substring_regex(values, pattern)).to_pylist())
    return found - ids - {f"{ANONYMOUS_PREFIX}{id_}" for id_ in ids}
