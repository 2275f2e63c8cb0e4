"""The versions that arms of experiments name, loaded beside the champion while they run.

A version that another alias has loaded is shared with it. One that cannot be loaded, or whose
features are not built yet, is tried again, and its experiment does not run here until then. A
thread of its own loads, so that a stopped experiment never waits for it.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from tailorbird.periodic import PeriodicTask
from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import Registry
from tailorbird.serving.models.bundles import POLL_S, ReadinessGate, SwapListener

RETRY_S = 10.0  # between attempts to load a version that failed
log = logging.getLogger(__name__)


class ArmBundles:
    """Implements `experiments.ArmVersions`. Thread-safe.

    Args:
        load: makes a complete and warm bundle of a folder, or raises BundleError.
        gate: decides when a bundle may serve.
        keep_open: called with the schemas of the bundles that are held.
        swap_listener: notified of each refusal.
    """

    def __init__(
        self,
        registry: Registry,
        load: Callable[[Path], Bundle],
        gate: ReadinessGate[Bundle],
        keep_open: Callable[[Collection[str]], None],
        swap_listener: SwapListener,
        *,
        poll_s: float = POLL_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._registry = registry
        self._load = load
        self._gate = gate
        self._keep_open = keep_open
        self._swap_listener = swap_listener
        self._retry_s = retry_s
        self._wanted_versions: frozenset[str] = frozenset()
        self._bundle_by_version: Mapping[str, Bundle] = {}
        self._retry_at_by_version: dict[str, float] = {}
        self._lock = threading.Lock()
        self.periodic_task = PeriodicTask("arms", self.tick, interval_s=poll_s, run_at_start=False)

    def find(self, version: str) -> Bundle | None:
        """Return the bundle of a version that is held."""
        return self._bundle_by_version.get(version)

    def hold(self, versions: Collection[str]) -> Collection[str]:
        """Hold these versions and release all others; return those that can serve now."""
        with self._lock:
            self._wanted_versions = frozenset(versions)
            bundles = {
                name: bundle for name, bundle in self._bundle_by_version.items() if name in versions
            }
            self._swap(bundles)
        return [name for name, bundle in bundles.items() if self._gate.is_caught_up(bundle, None)]

    def tick(self) -> bool:
        """Load what is to be held and is not there yet; return whether anything was loaded."""
        has_loaded = False
        for version in sorted(self._wanted_versions - self._bundle_by_version.keys()):
            if time.monotonic() < self._retry_at_by_version.get(version, 0.0):
                continue
            try:
                bundle = self._load(self._registry.resolve(version))
            except Exception as error:  # after any error the other arms and the champion serve
                self._retry_at_by_version[version] = time.monotonic() + self._retry_s
                self._swap_listener.bundle_refused()
                log.error("the version %s of an arm cannot be loaded: %s", version, error)
                continue
            with self._lock:
                if version in self._wanted_versions:
                    self._swap({**self._bundle_by_version, version: bundle})
                    has_loaded = True
        return has_loaded

    def _swap(self, bundles: Mapping[str, Bundle]) -> None:
        if bundles.keys() != self._bundle_by_version.keys():
            self._bundle_by_version = bundles
            self._keep_open({bundle.schema_hash for bundle in bundles.values()})
