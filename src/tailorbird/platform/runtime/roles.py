"""The roles of a project in one process, stepped by hand.

`import` and `demo` use them; `up` runs the same roles as processes.
"""

import threading
from typing import TYPE_CHECKING

from tailorbird.candidates import history
from tailorbird.candidates.role import CandidatesRole
from tailorbird.config import Project
from tailorbird.config.candidates import required_contract
from tailorbird.config.schemas import (
    ActiveSchemaWatch,
    active_schemas,
    apply_declared,
    route_plan_for,
)
from tailorbird.events import Clock, RoutePlan, parse_duration
from tailorbird.features.migration.bootstrap import build_if_needed, catch_up
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state.key_partition import KeyPart, all_parts
from tailorbird.lake import Lake, LakeRole
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.router import Router, open_router

if TYPE_CHECKING:
    from tailorbird.router.partitions.single_process import PartitionedRouter


class InProcessRoles:
    """Router, feature workers, candidates and lake of one project, each under its lock.

    Applies `features.py`, as `up` does.

    Raises:
        LockedError: one of them runs in another process.
    """

    def __init__(self, project: Project, clock: Clock) -> None:
        self._project = apply_declared(project, clock).project
        self._clock = clock
        paths = project.paths
        paths.stream.mkdir(parents=True, exist_ok=True)
        self._schema_watch = ActiveSchemaWatch(project)
        self._route_plan = project.plan
        self.has_publishing_paused = False  # True plays a stale source: tables stand still.
        self._router: Router | PartitionedRouter | None = None
        self._lake: LakeRole | None = None
        self._candidates: CandidatesRole | None = None
        self.workers: dict[tuple[str, KeyPart], FeatureWorker] = {}
        self.accepted = self.duplicates = self.quarantined = 0
        self.has_more = (
            False  # True if the last step processed anything: rows, or messages between routers.
        )
        try:
            self.refresh_schemas()
            self._lake = LakeRole(
                self._project.stream,
                paths.lake,
                clock=clock,
                keep_us=parse_duration(project.settings.lake.history),
            )
        except BaseException:
            self.close()
            raise

    @property
    def router(self) -> "Router | PartitionedRouter":
        assert self._router is not None
        return self._router

    @property
    def lake(self) -> LakeRole:
        assert self._lake is not None
        return self._lake

    def refresh_schemas(self) -> None:
        """Open a worker for each active schema if these may have changed.

        The state of a new schema is built from the lake if the log does not suffice.
        """
        if not self._schema_watch.has_changed():
            return
        paths = self._project.paths
        features_by_schema = {
            features.schema_hash: features for features in active_schemas(self._project)
        }
        route_plan = route_plan_for(self._project, list(features_by_schema.values()))
        if self._router is None or route_plan != self._route_plan:
            if self._router is not None:
                self._router.close()
            self._router = self._open_router(route_plan)
            self._route_plan = route_plan
        features_by_worker = {
            (schema, part): features
            for schema, features in features_by_schema.items()
            for part in all_parts(self._project.workers)
        }
        for removed_key in self.workers.keys() - features_by_worker.keys():
            self.workers.pop(removed_key).close()
        entities_max = self._project.settings.features.entities_max
        for worker_key in [
            worker_key for worker_key in features_by_worker if worker_key not in self.workers
        ]:
            worker = FeatureWorker(
                self._project.routed,
                paths.state,
                features_by_worker[worker_key],
                clock=self._clock,
                entities_max=entities_max,
                part=worker_key[1],
            )
            self.workers[worker_key] = worker
            # The worker is new, and the log may have been pruned or lack an attribute.
            build_if_needed(worker, Lake(paths.lake))
        self._refresh_candidates()

    def _refresh_candidates(self) -> None:
        """Maintain the candidate tables that slots and bundles need.

        New tables are built from the lake if the log does not suffice.
        """
        contract = required_contract(self._project)
        role = self._candidates
        if role is None or role.contract != contract:
            if role is not None:
                self._candidates = None
                role.close()
            root = self._project.paths.candidates
            root.mkdir(parents=True, exist_ok=True)
            role = self._candidates = CandidatesRole(
                self._project.routed, root, contract, clock=self._clock
            )

    def _build_candidate_history(self) -> None:
        """Build the candidate tables from the lake if the log no longer has their next rows."""
        role = self.candidates
        lake = Lake(self._project.paths.lake)
        if role.needs_history() and history.lake_is_ahead(role, lake):
            history.build_from_lake(role, lake, threading.Event())

    @property
    def candidates(self) -> CandidatesRole:
        assert self._candidates is not None
        return self._candidates

    def _open_router(self, route_plan: RoutePlan) -> "Router | PartitionedRouter":
        project = self._project
        memory_bytes = self._project.settings.router.memory_mb << 20
        return open_router(
            project.stream,
            route_plan,
            clock=self._clock,
            suppression_list=project.suppression_list(),
            memory_bytes=memory_bytes,
        )

    def step(self) -> int:
        """Route new events and update the states; return the number of raw rows.

        The lake is stepped separately.
        """
        self.refresh_schemas()
        report = self.router.step()
        self.has_more = report.has_more
        self.accepted += report.accepted
        self.duplicates += report.duplicates
        self.quarantined += report.quarantined
        self._update_states()
        return report.rows

    def _update_states(self) -> None:
        for worker in self.workers.values():
            catch_up(worker, Lake(self._project.paths.lake))
        self._build_candidate_history()
        while self.candidates.step():
            pass
        if not self.has_publishing_paused:
            self.candidates.publish()

    def drain(self, progress: Progress = no_progress, *, label: str = "route") -> None:
        """Step until nothing is left, the lake included."""
        rows_done = 0
        while True:
            rows_done += self.step()
            if not self.has_more:
                break
            progress(label, rows_done, None)
        self.lake.drain()
        self._update_states()  # The lake now has the attributes that the log lacked.
        if not self.has_publishing_paused:
            self.candidates.publish(everything=True)
        self.candidates.save_snapshot()

    def close(self) -> None:
        """Close all files."""
        if self._lake is not None:
            self._lake.close()
        for worker in self.workers.values():
            worker.close()
        if self._candidates is not None:
            self._candidates.close()
        if self._router is not None:
            self._router.close()

    def __enter__(self) -> "InProcessRoles":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def drain(project: Project, clock: Clock, *, progress: Progress) -> dict[str, int]:
    """Process all rows of the raw logs into state and lake; return counts by the router's decision.

    Raises:
        LockedError: the roles run in another process, which processes the rows, or a command
            holds them that processes none.
    """
    with InProcessRoles(project, clock) as roles:
        roles.drain(progress)
        return {
            "accepted": roles.accepted,
            "duplicates": roles.duplicates,
            "quarantined": roles.quarantined,
        }
