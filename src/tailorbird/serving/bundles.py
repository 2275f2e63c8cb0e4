"""The bundle that serves, and its swap under running requests.

A thread looks at the registry's alias file five times a second. When it changed, the new champion
is loaded beside the old one (checked, golden rows compared, warmed up) and then the reference is
replaced: requests that began with the old bundle end with it, and it is freed with the last of
them. One that cannot be loaded is refused, counted, and leaves the previous one serving; it is
tried again once one of its files changed, and every few minutes in any case. The champion before
stays loaded: it answers where the new one fails, and a rollback need not load it. One whose
features are still being built, after a change of the declarations, waits beside the one that serves
until their state has caught up.

A bundle may crash its loader (a native parser reads it), so a server first loads it in a child
process.
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
from tailorbird.errors import BundleError, TailorbirdError
from tailorbird.loops import Loop
from tailorbird.registry import Registry
from tailorbird.whole import Stamp, stamp

POLL_S = 0.2
PROBE_S = 60.0
RETRY_S = 5.0  # how often what was refused is looked at
RETRY_ANYWAY_S = 300.0  # what it lacked may have been memory, or room for files
log = logging.getLogger(__name__)


class Versioned(Protocol):
    """What the holder asks of a bundle."""

    @property
    def version(self) -> str: ...


class _Refused:
    """A folder that could not be loaded, and its files as they were before that was tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _stamps(folder)
        self._tried_at = self._looked_at = time.monotonic()

    def worth_another_try(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at < RETRY_S:
            return False
        self._looked_at = now
        return now - self._tried_at >= RETRY_ANYWAY_S or _stamps(self.folder) != self._files


def _stamps(folder: Path) -> dict[Path, Stamp | None]:
    try:
        return {path: stamp(path) for path in folder.rglob("*")}
    except OSError:  # what keeps it from being loaded may keep it from being looked at
        return {}


B = TypeVar("B", bound=Versioned)
B_contra = TypeVar("B_contra", bound=Versioned, contravariant=True)


class Watcher(Protocol):
    """Who wants to know of swaps; `serving.metrics.Metrics` does."""

    def bundle_loaded(self, version: str) -> None: ...
    def bundle_refused(self) -> None: ...


class Gate(Protocol[B_contra]):
    """Says when a loaded bundle may serve; `serving.schemas.Schemas` does."""

    def caught_up(self, bundle: B_contra, serving: B_contra | None) -> bool: ...
    def serves(self, bundle: B_contra) -> None: ...


class BundleHolder(Generic[B]):
    """The bundle of a registry's champion. `current` may be called from any thread; take it once a
    request.

    Args:
        registry: where the champion is named.
        load: makes a bundle of a folder, whole and warm, or raises BundleError.
        watcher: told of each swap and each refusal.
        gate: lets a bundle serve once its features are there, and is told which one serves; None
            lets it serve at once.
        name: which of the registry's `NAMES` is followed; what is behind another one than the
            champion goes when the name does.
        keep_previous: hold the champion before ready.
        probe: tries a folder in a child process before it is loaded here, and raises BundleError;
            None trusts it.
    Attributes:
        share: of the people whom a canary is to answer, as the registry said last.
        stands_in: whether the bundle is the champion before, taken at the start because the
            champion cannot be loaded.
    """

    def __init__(
        self,
        registry: Registry,
        load: Callable[[Path], B],
        watcher: Watcher,
        *,
        gate: Gate[B] | None = None,
        name: str = "champion",
        keep_previous: bool = False,
        probe: Callable[[Path], None] | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self._registry, self._load, self._watcher, self._probe = registry, load, watcher, probe
        self._gate, self._name, self._keep_previous = gate, name, keep_previous
        self._bundle: B | None = None
        self._before: B | None = None
        self._waiting: B | None = None
        self._refused: _Refused | None = None
        self._look_behind = False
        self.share = 0.0
        self.stands_in = False
        self._seen: Stamp | None = None
        self._problem = ""
        self.loop = Loop(
            "bundles" if name == "champion" else name, self.look, every_s=poll_s, first=False
        )

    def current(self) -> B | None:
        """The bundle to answer with, or None if there has been none yet."""
        return self._bundle

    def previous(self) -> B | None:
        """The champion before the one that serves, if it is held and loads."""
        return self._before

    @property
    def problem(self) -> str:
        """Why the champion of the registry does not serve; "" if it does."""
        return self._problem

    def start(self) -> None:
        """Load the champion, or the one before it if that cannot be loaded, and watch for changes
        from then on.
        """
        self.look()
        if self._bundle is None and self._problem and self._name == "champion":
            problem, refused = self._problem, self._refused
            with suppress(
                TailorbirdError
            ):  # what names the one before is damaged, as `look` has said
                self.stands_in = self._take(self._registry.previous())
            self._problem, self._refused = problem, refused
        self.loop.start()

    def stop(self) -> None:
        self.loop.stop()

    def look(self) -> bool:
        """Swap the champion in if the alias file changed since the last look, if it has waited long
        enough, or if what was refused was mended; whether it was swapped.
        """
        seen = stamp(self._registry.path / "aliases.json")
        if seen == self._seen:
            if self._look_behind:
                self._hold_previous()
            if self._refused is not None and self._refused.worth_another_try():
                return self._take(self._refused.folder)
            return self._waiting is not None and self._try(self._waiting)
        self._seen, self._look_behind = seen, self._keep_previous
        self._stop_waiting()
        self._refused = None
        try:
            aliases = self._registry.aliases()
            folder = self._registry.behind(self._name)
        except TailorbirdError as error:
            self._refuse(str(error))
            return False
        self.share = aliases.share
        if folder is None and self._name != "champion":
            self._bundle = None
        return self._take(folder)

    def _hold_previous(self) -> None:
        """Have the champion before ready: after a swap it is there anyway, after a start it is
        loaded once the champion serves.
        """
        self._look_behind = False
        try:
            folder = self._registry.previous()
            if folder is None or (self._bundle is not None and folder.name == self._bundle.version):
                self._before = None
            elif self._before is None or self._before.version != folder.name:
                self._before = None
                self._before = self._loaded(folder)
        except Exception as error:  # whatever is wrong with it, it is not what serves
            log.warning("the champion before is not held ready: %s", error)

    def _take(self, folder: Path | None) -> bool:
        self._refused = None
        if folder is None or (self._bundle is not None and self._bundle.version == folder.name):
            self._problem, self.stands_in = "", False
            return False
        refused = _Refused(folder)
        try:
            before = self._before
            bundle = (
                before
                if before is not None and before.version == folder.name
                else self._loaded(folder)
            )
        except (
            Exception
        ) as error:  # whatever is wrong with a bundle, the previous one goes on serving
            self._refuse(f"{folder.name}: {error}")
            self._refused = refused
            return False
        return self._try(bundle)

    def _loaded(self, folder: Path) -> B:
        if self._probe is not None:
            self._probe(folder)
        faults.at("serving.before_bundle_load")
        return self._load(folder)

    def _try(self, bundle: B) -> bool:
        """Let a loaded bundle serve, or wait for its features if there is one that serves
        meanwhile.
        """
        may_wait = self._bundle is not None or self._name != "champion"
        if self._gate is not None and may_wait and not self._gate.caught_up(bundle, self._bundle):
            if self._waiting is not bundle:
                self._waiting = bundle
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
        self._waiting = None
        if self._keep_previous:
            self._before = self._bundle
        self._bundle = bundle
        self._problem, self.stands_in = "", False
        if self._gate is not None:
            self._gate.serves(bundle)
        self._watcher.bundle_loaded(bundle.version)
        log.info("bundle %s serves as %s", bundle.version, self._name)
        return True

    def _stop_waiting(self) -> None:
        if self._waiting is None:
            return
        self._waiting, self._problem = None, ""
        if self._gate is not None and self._bundle is not None:
            self._gate.serves(self._bundle)

    def _refuse(self, problem: str) -> None:
        self._problem = problem
        self._watcher.bundle_refused()
        serving = self._bundle.version if self._bundle is not None else "none"
        log.error("the %s was refused, %s serves on: %s", self._name, serving, problem)


def probe_in_child(folder: Path) -> None:
    """Load a bundle in a process of its own. Raises BundleError if that refuses it, dies of it, or
    takes a minute.
    """
    command = [sys.executable, "-m", "tailorbird.serving.probe", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_S, text=True, check=False)
    except subprocess.TimeoutExpired:
        raise BundleError(f"loading took more than {PROBE_S:g} s", where=str(folder)) from None
    if done.returncode < 0:
        raise BundleError(
            f"loading it ended a process by signal {-done.returncode}",
            where=str(folder),
            fix="train again; do not promote it",
        )
    if done.returncode:
        raise BundleError(
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it cannot be loaded",
            where=str(folder),
        )
