"""Erasing people: the steps in their order, each of which can be repeated, and the journal that
says how far it came.

    stop list    nothing old of theirs comes in from now on
    archive      bodies written anew, the manifest's chain made anew
    tables       files of the lake written anew
    past         old files, old versions and the old log of every table deleted
    router       its tables without them, and what they say of them; its log emptied and the file written anew
    logs         raw and answer logs, and that of scores, emptied, the files written anew; topics deleted, and made again where they ended
    states       of every active schema built anew from the lake; copies in Valkey deleted, the worker publishes them again
    candidates   their tables built anew from the lake likewise
    files        reports, comparisons, training sets and unfinished runs that hold something of theirs deleted
    search       every byte of the project looked through; then the journal is destroyed, and a receipt stays

A crash anywhere leaves the journal; `erase` goes on with it first. All of it is done for many
people at once as for one: what costs is the reading of the lake and the building of states.
"""

import json
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tailorbird import faults
from tailorbird.candidates.history import rebuild
from tailorbird.config import Project
from tailorbird.config.candidates import wanted_contract
from tailorbird.config.schemas import active_schemas, plan_for
from tailorbird.errors import NotReadyError, StorageError
from tailorbird.events import Clock
from tailorbird.events.erased import FILE as STOP_FILE
from tailorbird.events.erased import FOLDER, KEY_FILE, MARK, RECEIPTS, StopList
from tailorbird.features import schemas
from tailorbird.features.erase import Needs, needs, remake_state
from tailorbird.features.keypart import parts_of
from tailorbird.lake import Lake, durable
from tailorbird.privacy import copies
from tailorbird.privacy.bodies import Bodies
from tailorbird.privacy.bundles import trained_on, whole_versions
from tailorbird.privacy.files import derived, local_roots, of_persons, scratch
from tailorbird.privacy.fresh import Fresh
from tailorbird.privacy.held import Held, hold, set_aside
from tailorbird.privacy.journal import (
    Journal,
    destroy,
    journal_path,
    read_journal,
    write_journal,
    write_private,
)
from tailorbird.privacy.looking import (
    Progress,
    Sought,
    counted,
    everywhere,
    known_names,
    ours_of,
    sought,
)
from tailorbird.privacy.marks import find_marks
from tailorbird.privacy.mention import Mentions
from tailorbird.privacy.models import mentions_any, unsay
from tailorbird.privacy.person import Kept, find_people, ids_of, once, strangers, unnamed
from tailorbird.privacy.rows import Rows
from tailorbird.privacy.search import Searched, search
from tailorbird.privacy.unlink import Unlinked
from tailorbird.registry import Registry
from tailorbird.router.erase import Forgotten
from tailorbird.router.erase import erase as erase_router
from tailorbird.stream import read_released, sqlite
from tailorbird.stream.importer import forget_paths

if TYPE_CHECKING:
    from tailorbird.stream.kafka.emptied import Emptying


@dataclass(frozen=True)
class Erased:
    """What an erasure did; nothing of it says who it was.

    Attributes:
        people: keyed hashes, as on the stop list.
        counts: by place.
        bundles: the models that learned from their events, and when they are due.
        strangers: which of the ids that were given nothing here was of, counted from 1.
        unnamed: how many users they were by merges, of whom pseudonyms alone are known: see
            `privacy.person.unnamed`.
        left: files with something of theirs that are not the project's own to change, and why.
        receipt: where all this was written to.
    """

    people: list[str]
    begun_at: int
    finished_at: int
    counts: dict[str, Any]
    bundles: list[dict[str, object]]
    searched: Searched
    strangers: list[int] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    receipt: str = ""
    unnamed: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing of them is left."""
        return not self.searched.found


def unfinished(data: Path) -> bool:
    """Whether an erasure was cut short."""
    return journal_path(data).exists()


def erase(
    project: Project,
    kept: Sequence[Kept],
    clock: Clock,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> Erased:
    """Erase people, by the ids under which they are kept; one that was cut short is brought to its
       end, and `kept` is then not looked at:
    see `not_begun`.

    Raises:
        LockedError: a role is running.
        BehindError: rows wait that are not yet in the lake.
        NotReadyError: there is no lake.
        UsageError: files lie there that nobody can search.
    """
    if not (project.paths.lake / "ledger.jsonl").exists():
        raise NotReadyError(
            "there is nothing in the lake yet",
            where=str(project.paths.lake),
            fix="tailorbird import FORMAT PATH",
        )
    cut_short = read_journal(project.paths.data)
    with hold(project, clock, None if cut_short is None else topics_of(cut_short)) as held:
        return _Erasure(project, held, clock, progress).run(kept)


def not_begun(data: Path, kept: Sequence[Kept]) -> list[Kept]:
    """Of these people, those that an erasure that was cut short is not about: bringing it to its
    end does not erase them.
    """
    journal = read_journal(data)
    if journal is None:
        return list(kept)
    return [one for one in kept if not journal.people.persons.issuperset(ids_of([one]))]


def topics_of(journal: Journal) -> "list[Emptying]":
    """How the topics of an erasure are made again."""
    if not journal.topics:
        return []
    from tailorbird.stream.kafka.emptied import Emptying

    return msgspec.convert(journal.topics, list[Emptying])


def _impersonal(erased: Erased) -> dict[str, Any]:
    """What the receipt says: of files that are left, nothing that names anybody, as the name of an
    export may.
    """
    found = [
        {"path": one.told, "count": one.count, "where": one.where} for one in erased.searched.found
    ]
    told = msgspec.to_builtins(erased)
    return {
        **told,
        "searched": {**told["searched"], "found": found},
        "left": [one["path"] for one in found],
    }


class _Erasure:
    def __init__(self, project: Project, held: Held, clock: Clock, progress: Progress) -> None:
        self._project, self._held, self._clock, self._progress = project, held, clock, progress
        self._data = project.paths.data
        self._features = active_schemas(project)
        self._plan = plan_for(project, self._features)
        self._known = known_names(project)

    def run(self, kept: Sequence[Kept]) -> Erased:
        self._journal = read_journal(self._data) or self._begin(kept)
        self._fresh = Fresh(bytes.fromhex(self._journal.key), self._journal.salts)
        self._people, self._marks = self._journal.people, self._journal.marks
        self._needs = self._journal.needs or self._needed()
        self._unlinked = Unlinked(self._people.users, self._marks, self._needs, self._fresh)
        self._mentions = Mentions(self._people.own_ids, self._known, self._unlinked.thing)
        self._step("stop list", self._stop)
        self._step("archive", self._archive)
        self._step("tables", self._tables)
        self._step("past", self._past)
        self._step("router", self._router)
        self._step("logs", self._logs)
        self._step("copies", self._copies)
        for features in self._features:
            self._step(f"state {features.schema_hash}", partial(self._state, features))
        self._step("candidates", self._candidates)
        self._step("models", self._models)
        self._step("files", self._files)
        searched = self._search()
        return self._finish(searched)

    def _begin(self, kept: Sequence[Kept]) -> Journal:
        begun_at = self._clock.now()
        lake = Lake(self._project.paths.lake)
        people = find_people(lake, ids_of(kept))
        fresh = Fresh(secrets.token_bytes(32))
        recent = begun_at - self._plan.dedup_us
        needed = self._needed()
        marks = find_marks(
            lake,
            people,
            needed,
            fresh,
            recent_from=recent,
            until=begun_at,
            known=self._known,
            progress=self._progress,
        )
        journal = Journal(
            begun_at=begun_at,
            people=people,
            key=fresh.key.hex(),
            marks=marks,
            salts=fresh.salts,
            missed=fresh.missed,
            needs=needed,
            strangers=strangers(lake, kept, StopList.load(self._data)),
            unnamed=unnamed(kept, people, self._project.pseudonyms()),
        )
        users, visitors = once(kept, people)
        journal.counts = {"people": users or visitors, "visitors": visitors}
        if self._held.topics is not None:
            journal.topics = [msgspec.to_builtins(each) for each in self._held.topics.describe()]
        write_journal(self._data, journal)
        faults.at("erase.begun")
        return journal

    def _needed(self) -> Needs:
        return needs([*self._features, self._project.features])

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
        subjects = [*(("u", id_) for id_ in people.users), *(("a", id_) for id_ in people.visitors)]
        recent, apart = (
            [((mark, who), id_) for mark, who, id_ in each]
            for each in (self._marks.recent, self._marks.apart)
        )
        stopped = StopList.load(self._data).with_people(
            subjects, recent, at, at - self._plan.dedup_us, apart, self._marks.spans
        )
        listed, key = stopped.encoded()
        write_private(self._data / FOLDER / KEY_FILE, key)
        faults.at("erase.stop_key")
        write_private(self._data / FOLDER / STOP_FILE, listed)
        durable.replace(self._project.paths.lake / MARK, stopped.mark())
        return {"events by type": self._marks.types, "not as it was": self._journal.missed}

    def _archive(self) -> dict[str, Any]:
        bodies = Bodies(self._people, self._marks, self._unlinked, self._plan, self._mentions)
        if faults.cut("erase.archive"):
            return {}
        files, before, after = self._held.lake.rewriting().bodies(
            bodies.change, self._told("archive")
        )
        return {
            "archive": {
                "files": files,
                "rows": bodies.rows,
                "chain before": before,
                "chain after": after,
            }
        }

    def _tables(self) -> dict[str, Any]:
        rows = Rows(self._people, self._marks, self._unlinked, self._mentions, self._needs)
        changes = {
            name: change
            for name, change in rows.changes().items()
            if not faults.cut(f"erase.{name}")
        }
        files = self._held.lake.rewriting().rows(changes, self._told("tables"))
        return {"tables": {"files": sum(files.values()), **dict(rows.counts)}}

    def _past(self) -> dict[str, Any]:
        if not faults.cut("erase.past"):
            self._held.lake.rewriting().forget_past()
            for path in set_aside(self._project.paths.lake):
                path.unlink()
        return {}

    def _router(self) -> dict[str, Any]:
        if faults.cut("erase.router"):
            return {}
        people, marks = self._people, self._marks
        theirs: dict[str, Any] = {
            "users": people.users,
            "visitors": people.visitors,
            "events": marks.events,
            "requests": marks.requests,
            "mentions": self._mentions,
        }
        found = [] if self._held.topics is None else self._held.topics.routed.forget(**theirs)
        if self._held.routed is not None:
            found.append(
                erase_router(
                    self._held.routed, read_released(self._project.paths.lake).of_routed(), **theirs
                )
            )
        return (
            {
                "router": {
                    name: sum(getattr(each, name) for each in found)
                    for name in Forgotten.__struct_fields__
                }
            }
            if found
            else {}
        )

    def _logs(self) -> dict[str, Any]:
        released = read_released(self._project.paths.lake)
        count = 0
        for producer, log in self._held.raw.items():
            if not faults.cut("erase.raw"):
                count += log.prune(released.raw(producer))
                forget_paths(log)
                log.shrink()
                faults.at("erase.raw_log")
        for producer, log in self._held.answers.items():
            if not faults.cut("erase.answer_log"):
                count += log.prune(released.answers(producer))
                log.shrink()
        if self._held.scores is not None and not faults.cut("erase.scores"):
            count += self._held.scores.prune(self._held.scores.end())
            self._held.scores.shrink()
        shutil.rmtree(self._project.paths.stream / "import-runs", ignore_errors=True)
        counts = {"blocks": count}
        if self._held.topics is not None and not faults.cut("erase.topics"):
            counts["topics"] = self._held.topics.empty(topics_of(self._journal), self._clock)
        for path in self._project.paths.stream.rglob("*.db"):
            if sqlite.wal_bytes(path):
                raise StorageError(
                    "a reader kept the WAL from being emptied",
                    where=str(path),
                    fix="stop what reads it, and erase again",
                )
        return {"logs": counts}

    def _copies(self) -> dict[str, Any]:
        """Before the states: what is published under a schema comes from its state alone."""
        at = self._project.copies()
        if at is None or faults.cut("erase.copies"):
            return {}
        ours = {
            part.copies(features.schema_hash)
            for features in self._features
            for part in parts_of(self._project.workers)
        }
        return {
            "copies": {
                "records": copies.wipe(
                    at, ours | {".".join(filter(None, state)) for state in self._held.states}
                )
            }
        }

    def _state(self, features: Any) -> dict[str, Any]:
        schema, paths = features.schema_hash, self._project.paths
        active, parts = (
            [each.schema_hash for each in self._features],
            parts_of(self._project.workers),
        )
        current = {part.name for part in parts}
        for gone in [
            key
            for key in self._held.states
            if key[0] not in active or key[0] == schema or key[1] not in current
        ]:
            self._held.states.pop(gone).release()
        schemas.prune(paths.state, active, workers=self._project.workers)
        if faults.cut("erase.state"):
            return {}
        remake = partial(
            remake_state,
            paths.state,
            features,
            paths.lake,
            self._project.routed,
            clock=self._clock,
            entities_max=self._project.settings.features.entities_max,
            progress=lambda done, total: self._progress("state", done, total),
        )
        rows = sum(remake(part=part) for part in parts)
        return {f"state {schema}": {"rows": rows}}

    def _candidates(self) -> dict[str, Any]:
        root, contract = self._project.paths.candidates, wanted_contract(self._project)
        while self._held.candidates:
            self._held.candidates.pop().release()
        if not root.exists() or faults.cut("erase.candidates"):
            return {}
        return {
            "candidates": {
                "position": rebuild(
                    self._project.routed,
                    root,
                    contract,
                    Lake(self._project.paths.lake),
                    self._clock,
                )
            }
        }

    def _models(self) -> dict[str, Any]:
        if faults.cut("erase.models"):
            return {}
        root = self._project.paths.registry
        if self._journal.models is None:
            self._journal.models = [
                str(at.relative_to(root))
                for at in whole_versions(root, self._clock)
                if mentions_any(at, self._mentions)
            ]
            write_journal(self._data, self._journal)
        for version in map(Path, self._journal.models):
            of = Registry(root / version.parent, clock=self._clock)
            of.amend(
                version.name,
                partial(unsay, mentions=self._mentions),
                by="lake erase",
                why="people were erased",
            )
            faults.at("erase.model")
        return {"models": {"rewritten": len(self._journal.models)}}

    def _files(self) -> dict[str, Any]:
        """Delete what was derived from their data and can be made again. What is not ours stays,
        and is told by the search.
        """
        count = 0
        lake = self._project.paths.lake
        for path in list(scratch(self._data, lake if isinstance(lake, Path) else None)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            count += 1
        found = search(
            local_roots(self._project),
            self._sought.needles,
            skip=self._skipped(),
            ours=ours_of(self._project),
        ).found
        for path in [
            *(Path(one.path) for one in found),
            *of_persons(self._project, self._sought.apart),
        ]:
            if not path.exists() or faults.cut("erase.files"):
                continue
            for each in derived(path, self._project):
                shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
                faults.at("erase.file")
                count += 1
        return {"files": {"deleted": count}}

    def _search(self) -> Searched:
        return everywhere(
            self._project, self._sought, skip=self._skipped(), progress=self._progress
        )

    @cached_property
    def _sought(self) -> Sought:
        """Found once, by a walk over the lake's events: nothing changes these behind the step of
        the tables.
        """
        return sought(self._project, self._people, self._marks.own)

    def _skipped(self) -> list[Path]:
        return [journal_path(self._data)]

    def _finish(self, searched: Searched) -> Erased:
        stopped = StopList.load(self._data)
        people = sorted(
            stopped.hash(*subject)
            for subject in [
                *(("u", id_) for id_ in self._people.users),
                *(("a", id_) for id_ in self._people.visitors),
            ]
        )
        marks, journal = self._marks, self._journal
        bundles = trained_on(self._project, marks.first, marks.last, journal.begun_at, self._clock)
        left = [found.path for found in searched.found]
        folder = self._data / FOLDER / RECEIPTS
        number = 1 + max(
            (int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit()), default=0
        )
        path = folder / f"{number:06d}.json"
        erased = Erased(
            people,
            journal.begun_at,
            self._clock.now(),
            journal.counts,
            bundles,
            searched,
            journal.strangers,
            left,
            str(path),
            journal.unnamed,
        )
        write_private(path, json.dumps(_impersonal(erased), indent=1).encode() + b"\n")
        faults.at("erase.receipt")
        if self._held.topics is not None:
            self._held.topics.tell(self._data, *stopped.encoded())
        destroy(self._data)
        return erased

    def _told(self, stage: str, total: int | None = None) -> Callable[[int], None]:
        return counted(stage, total, self._progress)
