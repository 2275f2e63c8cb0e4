"""The bundle that serves, and its swap under running requests.

A thread checks the registry's alias file five times a second. When the file changes, the new
champion is loaded next to the old one (checked, golden rows compared, warmed up), and then the
reference is replaced. Requests that began with the old bundle finish with it, and the last of them
frees it.

A bundle that cannot be loaded is refused and counted, and the previous one keeps serving. It is
tried again once one of its files changes, and every few minutes in any case. The previous champion
stays loaded: it answers where the new one fails, and a rollback need not load it. After a change of
the declarations, a bundle whose features are still being built waits until their state has caught
up.

A corrupt bundle may crash its native parser, so a server first loads it in a child process.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from tailorbird import faults
from tailorbird.atomic_write import FileStamp, file_stamp
from tailorbird.candidates.own import sources_file
from tailorbird.errors import BundleError, TailorbirdError
from tailorbird.periodic import PeriodicTask
from tailorbird.ranking.own_models import models_file
from tailorbird.registry import Registry

POLL_S = 0.2
PROBE_TIMEOUT_S = 60.0
RETRY_INTERVAL_S = 5.0  # between checks of a refused bundle's files
FORCED_RETRY_INTERVAL_S = 300.0  # memory or file descriptors may have been short
log = logging.getLogger(__name__)


class VersionedBundle(Protocol):
    """The part of a bundle that its holder uses."""

    @property
    def version(self) -> str: ...


class _RefusedFolder:
    """A folder that could not be loaded, with the stamps of its files before the attempt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_stamps_before = _file_stamps(folder)
        self._tried_at = self._checked_at = time.monotonic()

    def should_retry(self) -> bool:
        now = time.monotonic()
        if now - self._checked_at < RETRY_INTERVAL_S:
            return False
        self._checked_at = now
        return (
            now - self._tried_at >= FORCED_RETRY_INTERVAL_S
            or _file_stamps(self.folder) != self._file_stamps_before
        )


def _file_stamps(folder: Path) -> dict[Path, FileStamp | None]:
    try:
        return {path: file_stamp(path) for path in folder.rglob("*")}
    except OSError:  # an unreadable folder may be why it cannot be loaded
        return {}


B = TypeVar("B", bound=VersionedBundle)
B_contra = TypeVar("B_contra", bound=VersionedBundle, contravariant=True)


class SwapListener(Protocol):
    """Receives notice of swaps, as `serving.metrics.Metrics` does."""

    def bundle_loaded(self, version: str) -> None: ...
    def bundle_refused(self) -> None: ...


class ReadinessGate(Protocol[B_contra]):
    """Decides when a loaded bundle may serve, as `serving.models.schemas.LiveFeatureProvider` does."""

    def is_caught_up(self, bundle: B_contra, serving_bundle: B_contra | None) -> bool: ...
    def set_serving(self, bundle: B_contra) -> None: ...


class BundleHolder(Generic[B]):
    """The bundle of a registry's champion, or of another alias.

    `current` may be called from any thread; call it once per request.

    Args:
        registry: where the champion is named.
        load: makes a complete and warm bundle of a folder, or raises BundleError.
        swap_listener: notified of each swap and each refusal.
        gate: decides when a bundle may serve, and is notified which one serves; None lets it serve
            at once.
        alias: the alias of the registry's `NAMES` to follow. A bundle of an alias other than the
            champion is released when the alias is removed.
        keep_previous: keep the previous champion loaded.
        probe: tries a folder in a child process before it is loaded here, and raises BundleError;
            None skips that.
    Attributes:
        canary_share: fraction of the people whom a canary answers, as last read from the registry.
        is_fallback: whether the previous champion serves because the champion could not be loaded
            at the start.
    """

    def __init__(
        self,
        registry: Registry,
        load: Callable[[Path], B],
        swap_listener: SwapListener,
        *,
        gate: ReadinessGate[B] | None = None,
        alias: str = "champion",
        keep_previous: bool = False,
        probe: Callable[[Path], None] | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self._registry = registry
        self._load = load
        self._swap_listener = swap_listener
        self._probe = probe
        self._gate = gate
        self._alias = alias
        self._keep_previous = keep_previous
        self._bundle: B | None = None
        self._previous_bundle: B | None = None
        self._waiting_bundle: B | None = None
        self._refused_folder: _RefusedFolder | None = None
        self._is_previous_unloaded = False
        self.canary_share = 0.0
        self.is_fallback = False
        self._aliases_stamp: FileStamp | None = None
        self._problem = ""
        self.periodic_task = PeriodicTask(
            "bundles" if alias == "champion" else alias,
            self.tick,
            interval_s=poll_s,
            run_at_start=False,
        )

    def current(self) -> B | None:
        """Return the bundle to answer with, or None if there has been none yet."""
        return self._bundle

    def previous(self) -> B | None:
        """Return the previous champion if it is loaded."""
        return self._previous_bundle

    @property
    def problem(self) -> str:
        """The reason why the champion of the registry does not serve, or ""."""
        return self._problem

    def start(self) -> None:
        """Load the champion, or the previous one if that cannot be loaded, and start to follow
        changes.
        """
        self.tick()
        if self._bundle is None and self._problem and self._alias == "champion":
            problem = self._problem
            refused_folder = self._refused_folder
            with suppress(TailorbirdError):  # a damaged alias file, which `tick` has reported
                self.is_fallback = self._load_folder(self._registry.previous_folder())
            self._problem = problem
            self._refused_folder = refused_folder
        self.periodic_task.start()

    def stop(self) -> None:
        self.periodic_task.stop()

    def tick(self) -> bool:
        """Check once for a champion to serve, and return whether it was swapped in.

        That is the case after a change of the alias file, after a bundle has waited long enough, or
        when a refused bundle was repaired.
        """
        aliases_stamp = file_stamp(self._registry.path / "aliases.json")
        if aliases_stamp == self._aliases_stamp:
            if self._is_previous_unloaded:
                self._load_previous()
            if self._refused_folder is not None and self._refused_folder.should_retry():
                return self._load_folder(self._refused_folder.folder)
            return self._waiting_bundle is not None and self._serve_or_wait(self._waiting_bundle)
        self._aliases_stamp = aliases_stamp
        self._is_previous_unloaded = self._keep_previous
        self._stop_waiting()
        self._refused_folder = None
        try:
            aliases = self._registry.aliases()
            folder = self._registry.folder_named(self._alias)
        except TailorbirdError as error:
            self._refuse(str(error))
            return False
        self.canary_share = aliases.share
        if folder is None and self._alias != "champion":
            self._bundle = None
        return self._load_folder(folder)

    def _load_previous(self) -> None:
        """Load the previous champion.

        After a swap it is loaded already; after a start it is loaded once the champion serves.
        """
        self._is_previous_unloaded = False
        try:
            folder = self._registry.previous_folder()
            if folder is None or (self._bundle is not None and folder.name == self._bundle.version):
                self._previous_bundle = None
            elif self._previous_bundle is None or self._previous_bundle.version != folder.name:
                self._previous_bundle = None
                self._previous_bundle = self._probe_and_load(folder)
        except Exception as error:  # any error, because it does not serve
            log.warning("the champion before is not held ready: %s", error)

    def _load_folder(self, folder: Path | None) -> bool:
        self._refused_folder = None
        if folder is None or (self._bundle is not None and self._bundle.version == folder.name):
            self._problem = ""
            self.is_fallback = False
            return False
        refused_folder = _RefusedFolder(folder)
        try:
            previous_bundle = self._previous_bundle
            bundle = (
                previous_bundle
                if previous_bundle is not None and previous_bundle.version == folder.name
                else self._probe_and_load(folder)
            )
        except Exception as error:  # after any error the previous bundle keeps serving
            self._refuse(f"{folder.name}: {error}")
            self._refused_folder = refused_folder
            return False
        return self._serve_or_wait(bundle)

    def _probe_and_load(self, folder: Path) -> B:
        if self._probe is not None:
            self._probe(folder)
        faults.fire_if_armed("serving.before_bundle_load")
        return self._load(folder)

    def _serve_or_wait(self, bundle: B) -> bool:
        """Serve a loaded bundle, or let it wait for its features while another one serves."""
        may_wait = self._bundle is not None or self._alias != "champion"
        if (
            self._gate is not None
            and may_wait
            and not self._gate.is_caught_up(bundle, self._bundle)
        ):
            if self._waiting_bundle is not bundle:
                self._waiting_bundle = bundle
                self._problem = (
                    f"{bundle.version} waits until the state of its features and its "
                    "candidate tables are built"
                )
                log.info(
                    "%s; %s serves until then",
                    self._problem,
                    self._bundle.version if self._bundle is not None else "the champion",
                )
            return False
        self._waiting_bundle = None
        if self._keep_previous:
            self._previous_bundle = self._bundle
        self._bundle = bundle
        self._problem = ""
        self.is_fallback = False
        if self._gate is not None:
            self._gate.set_serving(bundle)
        self._swap_listener.bundle_loaded(bundle.version)
        log.info("bundle %s serves as %s", bundle.version, self._alias)
        return True

    def _stop_waiting(self) -> None:
        if self._waiting_bundle is None:
            return
        self._waiting_bundle = None
        self._problem = ""
        if self._gate is not None and self._bundle is not None:
            self._gate.set_serving(self._bundle)

    def _refuse(self, problem: str) -> None:
        self._problem = problem
        self._swap_listener.bundle_refused()
        serving_version = self._bundle.version if self._bundle is not None else "none"
        log.error("the %s was refused, %s serves on: %s", self._alias, serving_version, problem)


def probe_in_child(folder: Path) -> None:
    """Load a bundle in a child process. Raise BundleError if that fails, crashes, or takes a
    minute.
    """
    own_code_paths = [str(file or "") for file in (models_file(), sources_file())]
    command = [
        sys.executable,
        "-m",
        "tailorbird.serving.models.probe",
        str(folder),
        *own_code_paths,
    ]
    try:
        process = subprocess.run(
            command, capture_output=True, timeout=PROBE_TIMEOUT_S, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        raise BundleError(
            f"loading took more than {PROBE_TIMEOUT_S:g} s", where=str(folder)
        ) from None
    if process.returncode < 0:
        raise BundleError(
            f"loading it ended a process by signal {-process.returncode}",
            where=str(folder),
            fix="train again; do not promote it",
        )
    if process.returncode:
        raise BundleError(
            process.stderr.strip().splitlines()[-1]
            if process.stderr.strip()
            else "it cannot be loaded",
            where=str(folder),
        )
