"""Erasing people: steps in order, each of which can be repeated, and the journal of how far it
came.

    suppression   later events of theirs are dropped from now on
    archive       bodies written again, and the manifest's chain
    tables        files of the lake written again
    history       old files, old versions and the old log of every table deleted
    router        its tables without them; its log emptied and the file written again
    logs          raw logs, answers, scores emptied; topics deleted and made again
    copies        records in Valkey deleted; workers publish them again
    state         of every active schema built again from the lake
    candidates    their tables built again from the lake
    models        mentions in their indexes removed
    files         what commands made of their data deleted
    search        every byte searched; a receipt is written, and the journal destroyed

A crash anywhere leaves the journal; `erase` goes on with it first. Many people cost hardly more
than one: reading the lake and building states is what takes time.
"""

import secrets
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tailorbird import faults
from tailorbird.candidates.history import rebuild_tables
from tailorbird.config import Project
from tailorbird.config.candidates import required_contract
from tailorbird.config.schemas import active_schemas, route_plan_for
from tailorbird.errors import NotReadyError, StorageError
from tailorbird.events import Clock
from tailorbird.events.suppression import (
    ERASED_COUNT_FILE,
    ERASURE_FOLDER,
    SUPPRESSION_FILE,
    SUPPRESSION_KEY_FILE,
    SuppressionList,
)
from tailorbird.features import FeatureSet, schemas
from tailorbird.features.migration.erase import compute_sensitivity, rebuild_state
from tailorbird.features.state.key_partition import all_parts
from tailorbird.lake import Lake
from tailorbird.lake.files import durable
from tailorbird.privacy.files import find_derived_files, find_scratch_files, local_roots
from tailorbird.privacy.footprint import find_footprint
from tailorbird.privacy.journal import (
    Journal,
    destroy_journal,
    journal_path,
    read_journal,
    read_topic_specs,
    write_journal,
    write_private,
)
from tailorbird.privacy.mentions import Mentions, attribute_names
from tailorbird.privacy.models import find_trained_models, intact_versions
from tailorbird.privacy.people import StoredId, count_people, find_people, find_unknown, flatten_ids
from tailorbird.privacy.receipt import Receipt, next_receipt_path, write_receipt
from tailorbird.privacy.rewrite_archive import ArchiveRewriter
from tailorbird.privacy.rewrite_copies import delete_copies
from tailorbird.privacy.rewrite_events import EventRewriter
from tailorbird.privacy.rewrite_models import has_mentions, remove_mentions
from tailorbird.privacy.rewrite_tables import TableRewriter
from tailorbird.privacy.search import Progress, SearchReport, is_below, search_project
from tailorbird.privacy.writers import ProjectWriters, find_set_aside, open_writers
from tailorbird.registry import Registry
from tailorbird.router.erasure.erase import ErasedCounts
from tailorbird.router.erasure.erase import erase_from_file as erase_router
from tailorbird.storage import storage_at
from tailorbird.stream import read_released_positions, sqlite
from tailorbird.stream.importer import erase_paths


def erase(
    project: Project,
    stored_ids: Sequence[StoredId],
    clock: Clock,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> Receipt:
    """Erase people, by the ids under which they are stored.

    An erasure that was cut off is finished instead of `stored_ids`: see `find_not_begun`.

    Raises:
        LockedError: a role is running.
        LagError: rows wait that are not yet in the lake.
        NotReadyError: there is no lake.
        UsageError: there are files that cannot be searched.
    """
    if not (project.paths.lake / "ledger.jsonl").exists():
        raise NotReadyError(
            "there is nothing in the lake yet",
            where=str(project.paths.lake),
            fix="tailorbird import FORMAT PATH",
        )
    journal = read_journal(project.paths.data)
    topics = None if journal is None else read_topic_specs(journal)
    with open_writers(project, clock, topics) as writers:
        return _Erasure(project, writers, clock, progress, journal, stored_ids).run()


def find_not_begun(data: Path, stored_ids: Sequence[StoredId]) -> list[StoredId]:
    """Return those of these people whom an erasure that was cut off is not about."""
    journal = read_journal(data)
    if journal is None:
        return list(stored_ids)
    persons = journal.people.persons
    return [entry for entry in stored_ids if not persons.issuperset(flatten_ids([entry]))]


class _Erasure:
    """An erasure in progress."""

    def __init__(
        self,
        project: Project,
        writers: ProjectWriters,
        clock: Clock,
        progress: Progress,
        journal: Journal | None,
        stored_ids: Sequence[StoredId],
    ) -> None:
        self._project = project
        self._writers = writers
        self._clock = clock
        self._progress = progress
        self._data = project.paths.data
        self._features = active_schemas(project)
        self._plan = route_plan_for(project, self._features)
        self._journal = journal or self._begin_journal(stored_ids)
        self._people = self._journal.people
        self._footprint = self._journal.footprint
        key = bytes.fromhex(self._journal.key)
        self._rewriter = EventRewriter(key, self._footprint.requests)
        declared_names = attribute_names(project.plan)
        self._mentions = Mentions(self._people.ids, declared_names, self._rewriter.hash_reference)

    def run(self) -> Receipt:
        """Run the steps that are not done yet."""
        self._run_step("suppression", self._suppress)
        self._run_step("archive", self._erase_archive)
        self._run_step("tables", self._erase_tables)
        self._run_step("history", self._delete_history)
        self._run_step("router", self._erase_router)
        self._run_step("logs", self._erase_logs)
        self._run_step("copies", self._erase_copies)
        for features in self._features:
            self._run_step(f"state {features.schema_hash}", partial(self._rebuild_state, features))
        self._run_step("candidates", self._erase_candidates)
        self._run_step("models", self._erase_models)
        self._run_step("files", self._erase_files)
        return self._finish(self._search())

    def _begin_journal(self, stored_ids: Sequence[StoredId]) -> Journal:
        lake = Lake(self._project.paths.lake)
        people = find_people(lake, flatten_ids(stored_ids))
        self._progress("find events", 0, None)
        users, devices = count_people(stored_ids, people)
        journal = Journal(
            begun_at=self._clock.now(),
            people=people,
            key=secrets.token_bytes(32).hex(),
            footprint=find_footprint(lake, people, attribute_names(self._project.plan)),
            unknown=find_unknown(lake, stored_ids, SuppressionList.load(self._data)),
            counts={"people": {"users": users, "devices": devices, "shared": len(people.shared)}},
        )
        if self._writers.topics is not None:
            journal.topics = [
                msgspec.to_builtins(topic) for topic in self._writers.topics.describe_topics()
            ]
        write_journal(self._data, journal)
        faults.fire_if_armed("erase.begun")
        return journal

    def _run_step(self, name: str, change: Callable[[], dict[str, Any]]) -> None:
        if name in self._journal.done:
            return
        counts = change()
        faults.fire_if_armed(f"erase.before_done.{name.partition(' ')[0]}")
        self._journal.done.append(name)
        self._journal.counts |= counts
        write_journal(self._data, self._journal)
        faults.fire_if_armed(f"erase.after_done.{name.partition(' ')[0]}")

    def _suppress(self) -> dict[str, Any]:
        shared = [("a", id_) for id_ in self._people.shared]
        own_subjects = [subject for subject in self._people.subjects if subject not in shared]
        older_list = SuppressionList.load(self._data)
        suppression_list = older_list.with_erased_subjects(
            own_subjects, self._journal.begun_at, shared
        )
        suppression_bytes, key = suppression_list.encode()
        write_private(self._data / ERASURE_FOLDER / SUPPRESSION_KEY_FILE, key)
        faults.fire_if_armed("erase.suppression_key")
        write_private(self._data / ERASURE_FOLDER / SUPPRESSION_FILE, suppression_bytes)
        durable.replace(
            self._project.paths.lake / ERASED_COUNT_FILE, suppression_list.encode_count()
        )
        return {"events by type": self._footprint.types}

    def _erase_archive(self) -> dict[str, Any]:
        rewriter = ArchiveRewriter(
            self._people, self._footprint, self._rewriter, self._plan, self._mentions
        )
        files, chain_before, chain_after = self._writers.lake.rewriter().rewrite_bodies(
            rewriter.rewrite_block, self._make_counter("archive")
        )
        chain = {"chain before": chain_before, "chain after": chain_after}
        return {"archive": {"files": files, "rows": rewriter.rows, **chain}}

    def _erase_tables(self) -> dict[str, Any]:
        rewriter = TableRewriter(
            self._people,
            self._footprint,
            self._rewriter,
            self._mentions,
            compute_sensitivity([*self._features, self._project.features]),
        )
        files = self._writers.lake.rewriter().rewrite_rows(
            rewriter.changes(), self._make_counter("tables")
        )
        return {"tables": {"files": sum(files.values()), **dict(rewriter.counts)}}

    def _delete_history(self) -> dict[str, Any]:
        self._writers.lake.rewriter().delete_history()
        for path in find_set_aside(self._project.paths.lake):
            path.unlink()
        return {}

    def _erase_router(self) -> dict[str, Any]:
        people = self._people
        footprint = self._footprint
        erasure_arguments: dict[str, Any] = {
            "user_ids": people.users,
            "anonymous_ids": people.devices,
            "event_keys": [event for event in footprint.events if event[1] in people.ids],
            "request_ids": footprint.requests,
            "mentions": self._mentions,
        }
        topics = self._writers.topics
        routed_log = self._writers.routed_log
        erased_counts = [] if topics is None else topics.routed.erase(**erasure_arguments)
        if routed_log is not None:
            released_positions = read_released_positions(self._project.paths.lake).routed_position()
            erased_counts.append(erase_router(routed_log, released_positions, **erasure_arguments))
        totals = {
            name: sum(getattr(counts, name) for counts in erased_counts)
            for name in ErasedCounts.__struct_fields__
        }
        return {"router": totals}

    def _erase_logs(self) -> dict[str, Any]:
        released_positions = read_released_positions(self._project.paths.lake)
        block_count = 0
        for producer, log in self._writers.raw_logs.items():
            block_count += log.prune(released_positions.raw_position(producer))
            erase_paths(log)
            log.shrink()
            faults.fire_if_armed("erase.raw_log")
        for producer, log in self._writers.response_logs.items():
            block_count += log.prune(released_positions.responses_position(producer))
            log.shrink()
        if (scores := self._writers.score_log) is not None:
            block_count += scores.prune(scores.end())
            scores.shrink()
        stream = self._project.paths.stream
        shutil.rmtree(stream / "import-runs", ignore_errors=True)
        shutil.rmtree(self._project.paths.import_tables, ignore_errors=True)
        counts = {"blocks": block_count}
        if self._writers.topics is not None:
            specs = read_topic_specs(self._journal)
            counts["topics"] = self._writers.topics.empty_topics(specs, self._clock)
        for path in stream.rglob("*.db"):
            if sqlite.wal_bytes(path):
                raise StorageError(
                    "a reader kept the WAL from being emptied",
                    where=str(path),
                    fix="stop what reads it, and erase again",
                )
        return {"logs": counts}

    def _erase_copies(self) -> dict[str, Any]:
        """Delete the records in Valkey, before the states: a schema is published from its state."""
        target = self._project.copy_target()
        if target is None:
            return {}
        parts = all_parts(self._project.workers)
        names = {
            part.copies_name(feature.schema_hash) for feature in self._features for part in parts
        }
        names |= {".".join(filter(None, state)) for state in self._writers.state_locks}
        return {"copies": {"records": delete_copies(target, names)}}

    def _rebuild_state(self, features: FeatureSet) -> dict[str, Any]:
        schema = features.schema_hash
        paths = self._project.paths
        workers = self._project.workers
        active_hashes = [feature.schema_hash for feature in self._features]
        parts = all_parts(workers)
        names = {part.name for part in parts}
        for locked_schema, locked_part in list(self._writers.state_locks):
            if locked_schema not in (set(active_hashes) - {schema}) or locked_part not in names:
                self._writers.state_locks.pop((locked_schema, locked_part)).release()
        schemas.prune_states(paths.state, active_hashes, workers=workers)
        rebuild_part = partial(
            rebuild_state,
            paths.state,
            features,
            paths.lake,
            self._project.routed,
            clock=self._clock,
            entities_max=self._project.settings.features.entities_max,
            progress=partial(self._progress, "state"),
        )
        return {f"state {schema}": {"rows": sum(rebuild_part(part=part) for part in parts)}}

    def _erase_candidates(self) -> dict[str, Any]:
        root = self._project.paths.candidates
        contract = required_contract(self._project)
        while self._writers.candidate_locks:
            self._writers.candidate_locks.pop().release()
        if not root.exists():
            return {}
        lake = Lake(self._project.paths.lake)
        position = rebuild_tables(self._project.routed, root, contract, lake, self._clock)
        return {"candidates": {"position": position}}

    def _erase_models(self) -> dict[str, Any]:
        root = self._project.paths.registry
        if self._journal.models is None:
            versions = intact_versions(root, self._clock)
            self._journal.models = [
                str(path.relative_to(root))
                for path in versions
                if has_mentions(path, self._mentions)
            ]
            write_journal(self._data, self._journal)
        for version in map(Path, self._journal.models):
            Registry(root / version.parent, clock=self._clock).amend(
                version.name,
                partial(remove_mentions, mentions=self._mentions),
                by="lake erase",
                why="people were erased",
            )
            faults.fire_if_armed("erase.model")
        return {"models": {"rewritten": len(self._journal.models)}}

    def _erase_files(self) -> dict[str, Any]:
        """Delete what commands made of their data; other files of the user's own stay."""
        lake = self._project.paths.lake
        files = list(find_scratch_files(self._data, storage_at(lake).local_path))
        for match in self._search().matches:
            path = Path(match.path)
            if is_below(match.path, local_roots(self._project)) and path.exists():
                files += find_derived_files(path, self._project)
        count = 0
        for path in dict.fromkeys(files):
            if path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                faults.fire_if_armed("erase.file")
                count += 1
        return {"files": {"deleted": count}}

    def _search(self) -> SearchReport:
        skip = [journal_path(self._data)]
        return search_project(self._project, self._people, skip=skip, progress=self._progress)

    def _finish(self, searched: SearchReport) -> Receipt:
        journal = self._journal
        footprint = self._footprint
        suppression_list = SuppressionList.load(self._data)
        receipt = Receipt(
            people=sorted(suppression_list.hash(*subject) for subject in self._people.subjects),
            begun_at=journal.begun_at,
            finished_at=self._clock.now(),
            counts=journal.counts,
            bundles=find_trained_models(
                self._project, footprint.first, footprint.last, journal.begun_at, self._clock
            ),
            searched=searched,
            unknown=journal.unknown,
            left=[match.path for match in searched.matches],
            path=str(next_receipt_path(self._data)),
        )
        write_receipt(receipt)
        faults.fire_if_armed("erase.receipt")
        if self._writers.topics is not None:
            self._writers.topics.publish_suppression_list(self._data, *suppression_list.encode())
        destroy_journal(self._data)
        return receipt

    def _make_counter(self, stage: str) -> Callable[[int], None]:
        done_count = 0

        def count(size: int) -> None:
            nonlocal done_count
            done_count += size
            self._progress(stage, done_count, None)

        return count
