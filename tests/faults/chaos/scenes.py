"""The scenes: for each role a folder made ready, a step of the role as it really runs, and how to
judge what it left.

    prepare   brings a site to just before the step, undisturbed
    step      is what a fault hits; what it acknowledges it tells
    bodies    up to which of the client's bodies the step sends (all are the client's to send again)

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
from tailorbird.features.bootstrap import build_from_lake
from tailorbird.features.worker import FeatureWorker
from tailorbird.lake import Lake, LakeRole, compaction, delta
from tailorbird.lake.idle import prune_idle
from tailorbird.platform.roles import Roles
from tailorbird.router import Router
from tailorbird.serving.pruning import Pruner
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
    # behind each commit, so that they are hit as well; what only a sync keeps shows without
    checkpoints: bool = True

    def make(self, folder: Path, seed: int) -> None:
        """To be run in a child: the site, just before the step."""
        site = make_site(folder, seed)
        _settled(site)
        self.prepare(site)

    def run(self, folder: Path, tell: Tell) -> None:
        _small(self.checkpoints)
        self.step(Site(folder), tell)

    def judge(self, folder: Path, told: Told) -> Verdict:
        """To be run in a child."""
        site = Site(folder)
        return judge(site, told, self.bodies, lambda: self.afterwards(site, told))


def _small(checkpoints: bool = True) -> None:
    """Whatever happens now and then happens in each step."""
    if checkpoints:
        sqlite.CHECKPOINT_BYTES = 0
    delta.CHECKPOINT_EVERY = compaction.SMALL_FILES = 2


def _send(site: Site, first: int, end: int) -> None:
    """Bodies that come in undisturbed."""
    told = site.told()
    with site.door() as door:
        told.take(submit(door, told.seed, number) for number in range(first, end))
    told.bodies = end
    told.write(site.ledger)


def _settled(site: Site) -> None:
    _send(site, 0, BEFORE)
    with Roles(site.project, CLOCK) as roles:
        roles.drain()


def _sent(site: Site) -> None:
    _send(site, BEFORE, AFTER)


def _routed(site: Site) -> None:
    _sent(site)
    with Router(site.project.stream, site.project.plan, clock=CLOCK) as router:
        while router.step(8).rows:
            pass


def _applied(site: Site) -> None:
    _routed(site)
    with Roles(site.project, CLOCK) as roles:
        roles.step()


def _loaded(site: Site) -> None:
    _small()
    _routed(site)
    with LakeRole(site.project.stream, site.project.paths.lake, clock=CLOCK) as role:
        while not role.step(rows_max=8, flush=True).idle:
            pass
    with Roles(site.project, CLOCK) as roles:
        roles.step()


def _nothing(site: Site) -> None:
    pass


def _door(site: Site, tell: Tell) -> None:
    seed = site.told().seed
    with site.door(flush_s=0.0) as door:
        for number in range(BEFORE, AFTER):
            tell(**submit(door, seed, number))


def _router(site: Site, tell: Tell) -> None:
    project = site.project
    with Router(project.stream, project.plan, clock=CLOCK) as router:
        while router.step(8).rows:
            pass


def _worker(site: Site, tell: Tell) -> None:
    project = site.project
    with FeatureWorker(
        project.routed, project.paths.state, project.features, clock=CLOCK
    ) as worker:
        while worker.step(8).rows:
            pass
        worker.refresh()
        worker.sweep()
        worker.tell()


def _lake(site: Site, tell: Tell) -> None:
    project = site.project
    with LakeRole(project.stream, project.paths.lake, clock=CLOCK) as role:
        while not role.step(rows_max=8, flush=True).idle:
            pass


def _compaction(site: Site, tell: Tell) -> None:
    project = site.project
    with LakeRole(project.stream, project.paths.lake, clock=CLOCK) as role:
        while role.upkeep(everything=True):
            pass
        role.vacuum(keep_us=0)
        assert not role.vacuum(keep_us=0, dry_run=True), "what was to be deleted is still there"


def _load(site: Site, tell: Tell) -> None:
    """The lake takes in a piece, and what it has is deleted from the logs, and so on: nothing else
    has it then.
    """
    project = site.project
    with (
        LakeRole(project.stream, project.paths.lake, clock=CLOCK) as role,
        Router(project.stream, project.plan, clock=CLOCK) as router,
    ):
        while not role.step(rows_max=8, flush=True).idle:
            tell(step="loaded")
            router.prune(releasable_offset(project))
            prune_idle(project.paths.stream, project.paths.lake, CLOCK, idle_us=0)
            tell(step="pruned")


def _prune(site: Site, tell: Tell) -> None:
    """Door and router delete what the lake has, while events come in."""
    project, seed = site.project, site.told().seed
    with site.door(flush_s=0.0) as door:
        pruner = Pruner(door, project.paths.lake)
        for number in range(BEFORE, AFTER):
            pruner.look()
            tell(**submit(door, seed, number))
    with Router(project.stream, project.plan, clock=CLOCK) as router:
        router.prune(releasable_offset(project))
        router.step()


def _import(site: Site, tell: Tell) -> None:
    told, project = site.told(), site.project
    import_files(
        project.paths.stream,
        "tailorbird",
        _history(site, told.seed),
        plan=project.plan,
        clock=CLOCK,
    )
    tell(body=-1, acked=[each["event_id"] for each in _past(told.seed)], refused=[])


def _import_again(site: Site, told: Told) -> None:
    """The operator gives the same command again, and then it is done."""
    _import(site, lambda **said: told.take([said]))  # pyrefly: ignore
    told.sent.update(each["event_id"] for each in _past(told.seed))


def _history(site: Site, seed: int) -> Path:
    path = site.folder / "history.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in _past(seed)))
    return path


def _past(seed: int) -> list[dict]:
    """Events of some days long ago: later than any lateness, and yet they count."""
    began = 20_000 * DAY
    events = [
        each
        for number in range(1_000, 1_020)
        for each in body_of_its_own(seed, number)
        if each["type"] != "nonsense"
    ]
    return [{**each, "ts": to_iso(began + place * HOUR)} for place, each in enumerate(events)]


def _bootstrap(site: Site, tell: Tell) -> None:
    """The state was lost, and is built from the lake."""
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


def _leavers(site: Site) -> None:
    _sent(site)
    erasing.prepare(site)


SCENES = (
    Scene("door", _door, _nothing),
    Scene("acknowledge", _door, _nothing, checkpoints=False),
    Scene("router", _router, _sent),
    Scene("worker", _worker, _routed),
    Scene("lake", _lake, _routed),
    Scene("load", _load, _applied),
    Scene("compaction", _compaction, _loaded),
    Scene("prune", _prune, _nothing),
    Scene("import", _import, _nothing, BEFORE, _import_again),
    Scene("bootstrap", _bootstrap, _without_state),
    Scene("erase", erasing.step, _leavers, afterwards=erasing.finish, quick=False),
)
