"""The scenes: for each role a prepared folder, a real step of the role, and its judge.

    prepare   brings a site to just before the step, undisturbed
    step      is disturbed by a fault; it reports its acknowledgements
    bodies    up to which of the client's bodies the step sends (the client may resend all)

A further role needs a function and a line in `SCENES`; kills at each of its calls, failing syncs,
full disks and power cuts follow.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from tests.faults.chaos import erasing
from tests.faults.chaos.injection import Tell
from tests.faults.chaos.judging import Verdict, judge
from tests.faults.chaos.site import CLOCK, Site, Told, body_of_its_own, make_site, submit

from tailorbird.config.schemas import releasable_offset
from tailorbird.events import DAY, HOUR, to_iso
from tailorbird.features.migration.bootstrap import build_from_lake
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.lake import Lake, LakeRole
from tailorbird.lake.delta import compaction, table
from tailorbird.lake.write.log_pruning import prune_idle
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.router import Router
from tailorbird.serving.collector.pruning import Pruner
from tailorbird.stream import sqlite
from tailorbird.stream.importer import import_files

BEFORE, AFTER = 6, 12  # bodies that the site has been through, and up to which the scene goes


@dataclass(frozen=True)
class Scene:
    """A role's step, and all that is needed to try faults on it."""

    name: str
    step: Callable[[Site, Tell], None]
    prepare: Callable[[Site], None]
    bodies: int = AFTER
    afterwards: Callable[[Site, Told], None] = field(default=lambda site, told: None)
    quick: bool = True  # whether the few faults that `make test` tries are also put into this one
    # after each commit, so that faults hit them too; without, only syncs keep the data
    checkpoints: bool = True

    def make(self, folder: Path, seed: int) -> None:
        """Make the site as it is just before the step; to be run in a child."""
        site = make_site(folder, seed)
        _settle(site)
        self.prepare(site)

    def run(self, folder: Path, tell: Tell) -> None:
        _shrink_limits(self.checkpoints)
        self.step(Site(folder), tell)

    def judge(self, folder: Path, ledger: Told) -> Verdict:
        """Judge the folder; to be run in a child."""
        site = Site(folder)
        return judge(site, ledger, self.bodies, lambda: self.afterwards(site, ledger))


def _shrink_limits(checkpoints: bool = True) -> None:
    """Lower the limits, so that rare work happens in each step."""
    if checkpoints:
        sqlite.CHECKPOINT_BYTES = 0
    table.CHECKPOINT_EVERY_COMMITS = compaction.SMALL_FILES_MIN = 2


def _send(site: Site, first: int, end: int) -> None:
    """Send bodies undisturbed."""
    ledger = site.read_ledger()
    with site.collector() as collector:
        ledger.take(submit(collector, ledger.seed, number) for number in range(first, end))
    ledger.bodies = end
    ledger.write(site.ledger)


def _settle(site: Site) -> None:
    _send(site, 0, BEFORE)
    with InProcessRoles(site.project, CLOCK) as roles:
        roles.drain()


def _send_rest(site: Site) -> None:
    _send(site, BEFORE, AFTER)


def _routed(site: Site) -> None:
    _send_rest(site)
    with Router(site.project.stream, site.project.plan, clock=CLOCK) as router:
        while router.step(8).rows:
            pass


def _applied(site: Site) -> None:
    _routed(site)
    with InProcessRoles(site.project, CLOCK) as roles:
        roles.step()


def _loaded(site: Site) -> None:
    _shrink_limits()
    _routed(site)
    with LakeRole(site.project.stream, site.project.paths.lake, clock=CLOCK) as role:
        while not role.step(rows_max=8, flush=True).is_idle:
            pass
    with InProcessRoles(site.project, CLOCK) as roles:
        roles.step()


def _do_nothing(site: Site) -> None:
    pass


def _collector(site: Site, report: Tell) -> None:
    seed = site.read_ledger().seed
    with site.collector(flush_s=0.0) as collector:
        for number in range(BEFORE, AFTER):
            report(**submit(collector, seed, number))


def _router(site: Site, report: Tell) -> None:
    project = site.project
    with Router(project.stream, project.plan, clock=CLOCK) as router:
        while router.step(8).rows:
            pass


def _worker(site: Site, report: Tell) -> None:
    project = site.project
    with FeatureWorker(
        project.routed, project.paths.state, project.features, clock=CLOCK
    ) as worker:
        while worker.step(8).rows:
            pass
        worker.refresh()
        worker.sweep()
        worker.publish_progress()


def _lake(site: Site, report: Tell) -> None:
    project = site.project
    with LakeRole(project.stream, project.paths.lake, clock=CLOCK) as role:
        while not role.step(rows_max=8, flush=True).is_idle:
            pass


def _compaction(site: Site, report: Tell) -> None:
    project = site.project
    with LakeRole(project.stream, project.paths.lake, clock=CLOCK) as role:
        while role.upkeep(include_unsettled=True):
            pass
        role.vacuum(keep_us=0)
        assert not role.vacuum(keep_us=0, dry_run=True), "what was to be deleted is still there"


def _load(site: Site, report: Tell) -> None:
    """Load a piece into the lake and delete it from the logs, so that only the lake has it."""
    project = site.project
    with (
        LakeRole(project.stream, project.paths.lake, clock=CLOCK) as role,
        Router(project.stream, project.plan, clock=CLOCK) as router,
    ):
        while not role.step(rows_max=8, flush=True).is_idle:
            report(step="loaded")
            router.prune(releasable_offset(project))
            prune_idle(project.paths.stream, project.paths.lake, CLOCK, idle_us=0)
            report(step="pruned")


def _prune(site: Site, report: Tell) -> None:
    """Delete what the lake has from the logs of collector and router, while events come in."""
    project, seed = site.project, site.read_ledger().seed
    with site.collector(flush_s=0.0) as collector:
        pruner = Pruner(collector, project.paths.lake)
        for number in range(BEFORE, AFTER):
            pruner.tick()
            report(**submit(collector, seed, number))
    with Router(project.stream, project.plan, clock=CLOCK) as router:
        router.prune(releasable_offset(project))
        router.step()


def _import(site: Site, report: Tell) -> None:
    ledger, project = site.read_ledger(), site.project
    import_files(
        project.paths.stream,
        "tailorbird",
        _history(site, ledger.seed),
        plan=project.plan,
        clock=CLOCK,
    )
    report(body=-1, acked=[each["event_id"] for each in _past(ledger.seed)], refused=[])


def _import_again(site: Site, ledger: Told) -> None:
    """Repeat the operator's command, which then completes."""
    _import(site, lambda **message: ledger.take([message]))  # pyrefly: ignore
    ledger.sent.update(each["event_id"] for each in _past(ledger.seed))


def _history(site: Site, seed: int) -> Path:
    path = site.folder / "history.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in _past(seed)))
    return path


def _past(seed: int) -> list[dict]:
    """Return events of days long ago: later than any lateness, and yet they count."""
    started = 20_000 * DAY
    events = [
        each
        for number in range(1_000, 1_020)
        for each in body_of_its_own(seed, number)
        if each["type"] != "nonsense"
    ]
    return [{**each, "ts": to_iso(started + hour * HOUR)} for hour, each in enumerate(events)]


def _bootstrap(site: Site, report: Tell) -> None:
    """Build a lost state from the lake."""
    project = site.project
    with FeatureWorker(
        project.routed, project.paths.state, project.features, clock=CLOCK
    ) as worker:
        build_from_lake(worker, Lake(project.paths.lake), Event())
        while worker.step(8).rows:
            pass


def _without_state(site: Site) -> None:
    project = site.project
    _routed(site)
    with LakeRole(project.stream, project.paths.lake, clock=CLOCK) as role:
        role.drain()
    for file in (project.paths.state / project.features.schema_hash).glob("*.mdb"):
        file.unlink()


def _prepare_erasure(site: Site) -> None:
    _send_rest(site)
    erasing.prepare(site)


SCENES = (
    Scene("collector", _collector, _do_nothing),
    Scene("acknowledge", _collector, _do_nothing, checkpoints=False),
    Scene("router", _router, _send_rest),
    Scene("worker", _worker, _routed),
    Scene("lake", _lake, _routed),
    Scene("load", _load, _applied),
    Scene("compaction", _compaction, _loaded),
    Scene("prune", _prune, _do_nothing),
    Scene("import", _import, _do_nothing, BEFORE, _import_again),
    Scene("bootstrap", _bootstrap, _without_state),
    Scene("erase", erasing.step, _prepare_erasure, afterwards=erasing.finish, quick=False),
)
