"""The demo's new model on its way to the champion, and a broken one that is rolled back.

The steps are those of the trainer role, on the simulated clock.
"""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.cli.demo.figures import interval_figures
from tailorbird.cli.demo.traffic import PairedLists, Traffic
from tailorbird.cli.output import ReportProgress
from tailorbird.config import Project
from tailorbird.events import DAY, HOUR, MINUTE, SimulatedClock, to_iso_minute
from tailorbird.experiments.statistics import Interval
from tailorbird.platform.drift import figure_store
from tailorbird.platform.rollout import advance_rollout
from tailorbird.platform.runtime.canary import judge_canary
from tailorbird.ranking.bundle import CALIBRATION_FILE
from tailorbird.ranking.calibration import Isotonic
from tailorbird.registry import AuditEntry, Registry, read_sealed, seal
from tailorbird.simulator import Site

ACTOR = "demo"
ROLLOUT_MAX_US = 4 * DAY  # for shadow and canary together; each has `rollout.limit`
DECISION_INTERVAL_US = 3 * HOUR  # between decisions
ROLL_BACK_MAX_US = 8 * HOUR  # few people come at night
CHECK_INTERVAL_US = 3 * MINUTE  # between looks at a broken champion
_REFUSAL_ACTIONS = ("end canary", "reject")


class ModelRollout:
    """Leads models of one project while traffic goes on."""

    def __init__(
        self, project: Project, clock: SimulatedClock, traffic: Traffic, progress: ReportProgress
    ) -> None:
        self._project = project
        self._clock = clock
        self._traffic = traffic
        self._progress = progress
        self.registry = Registry(project.paths.registry, clock=clock)
        self._printed_entry_count = len(self.registry.audit())
        self.canary_uplift: Interval | None = None
        self._paired_lists: PairedLists | None = None

    def new_audit_lines(self) -> list[str]:
        """Return the audit lines that were written since the last call."""
        entries = self.registry.audit()[self._printed_entry_count :]
        self._printed_entry_count += len(entries)
        return [_format_entry(entry) for entry in entries]

    def roll_out(self, version: str) -> bool:
        """Advance the clock until the version is the champion or refused; return whether it is."""
        now = self._clock.now()
        until = now + ROLLOUT_MAX_US
        figure_store(self._project).refresh(now - DAY, now)  # a canary needs so many clicks a day
        while self._clock.now() < until:
            self._measure_canary(version)
            advance_rollout(self._project, self._clock)
            self._traffic.server.refresh()
            if self.registry.aliases().champion == version:
                return True
            last_entry = [entry for entry in self.registry.audit() if entry.version == version][-1]
            if last_entry.action in _REFUSAL_ACTIONS:
                return False
            self._run_traffic(DECISION_INTERVAL_US, f"{version} is on its way", self._paired_lists)
        return False

    def compare(self, version: str, site: Site) -> dict[str, Any]:
        """Return what the log promised of a version, what its canary measured, and the truth.

        All are uplifts in clicks over the champion; empty if it was no canary.
        """
        if self.canary_uplift is None or self._paired_lists is None:
            return {}
        # The champion of the canary's time: a training knows none while a baseline answers.
        champion = next(iter(self._paired_lists.pipeline_by_arm))
        estimate = self.registry.info(version).metrics["about"].get("off_policy", {})
        return {
            "estimate": estimate.get("summary") or f"not told, {estimate.get('refusal', '')}",
            "measured": interval_figures(
                self.canary_uplift.value, self.canary_uplift.low, self.canary_uplift.high
            ),
            "true": self._paired_lists.true_uplift(site, champion, version),
        }

    def _measure_canary(self, version: str) -> None:
        aliases = self.registry.aliases()
        if aliases.canary != version:
            return
        if self._paired_lists is None:
            self._paired_lists = self._traffic.pair_versions(aliases.champion, version)
        self.canary_uplift = judge_canary(self._project, self.registry).uplift

    def break_and_roll_back(self) -> dict[str, Any]:
        """Promote a broken copy of the newest model past the gate; return what became of it.

        The champion may be a baseline, if the gate refused the model. It has nothing to break.
        """
        champion_before = self.registry.aliases().champion
        model_version = [info.version for info in self.registry.versions() if info.heads][-1]
        with tempfile.TemporaryDirectory(prefix="tailorbird-broken-") as folder:
            broken_folder = _write_broken_bundle(
                self.registry.resolve(model_version), Path(folder) / "bundle"
            )
            version = self.registry.add(broken_folder, by=ACTOR, why="broken on purpose")
        self.registry.promote(version, by=ACTOR, why="on purpose, past the gate")
        promoted_at = self._clock.now()
        self._traffic.server.refresh()
        logging.disable(logging.ERROR)  # each failed answer logs a traceback, as it should
        try:
            while self._clock.now() < promoted_at + ROLL_BACK_MAX_US:
                self._run_traffic(CHECK_INTERVAL_US, f"{version} is broken")
                if advance_rollout(self._project, self._clock) == "roll_back":
                    break
        finally:
            logging.disable(logging.NOTSET)
        self._traffic.server.refresh()
        champion = self.registry.aliases().champion
        return {
            "broken": version,
            "champion": champion,
            "rolled_back": champion == champion_before,
            "after_min": round((self._clock.now() - promoted_at) / MINUTE, 1),
        }

    def _run_traffic(
        self, duration_us: int, label: str, paired_lists: PairedLists | None = None
    ) -> None:
        until = self._clock.now() + duration_us
        self._traffic.run(until, paired_lists, self._progress, label)
        figure_store(self._project).refresh(until - DAY, until)


def _write_broken_bundle(source: Path, folder: Path) -> Path:
    """Copy a bundle with a calibration whose arithmetic overflows: its scores are no numbers.

    Its golden rows, inputs with their expected scores, still pass: they are compared before
    calibration.
    """
    shutil.copytree(source, folder)
    manifest = read_sealed(folder).manifest
    calibration = Isotonic([-1e308, 1e308], [-1e308, 1e308])
    calibration_by_head = {head.name: calibration for head in manifest.heads}
    (folder / CALIBRATION_FILE).write_bytes(msgspec.json.encode(calibration_by_head))
    seal(folder, manifest)
    return folder


def _format_entry(entry: AuditEntry) -> str:
    version = entry.version or "none"
    return f"{to_iso_minute(entry.at)} {entry.by}: {entry.action} {version}, {entry.why}"
