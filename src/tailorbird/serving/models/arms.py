"""The versions that arms of experiments name, loaded beside the champion while they run.

A version that another alias has loaded is shared with it. One that cannot be loaded, or whose
features are not built yet, is tried again, and its experiment does not run here until then.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import Registry
from tailorbird.serving.models.bundles import Gate, Watcher

RETRY_S = 10.0  # between attempts to load a version that failed
log = logging.getLogger(__name__)


class ArmBundles:
    """Implements `experiments.ArmVersions`. `find` may be called from any thread.

    Args:
        load: makes a complete and warm bundle of a folder, or raises BundleError.
        gate: decides when a bundle may serve.
        keep_open: called with the schemas of the bundles that are held.
        watcher: notified of each refusal.
    """

    def __init__(
        self,
        registry: Registry,
        load: Callable[[Path], Bundle],
        gate: Gate[Bundle],
        keep_open: Callable[[Collection[str]], None],
        watcher: Watcher,
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self._registry, self._load, self._gate = registry, load, gate
        self._keep_open, self._watcher, self._retry_s = keep_open, watcher, retry_s
        self._bundles: Mapping[str, Bundle] = {}
        self._retry_at: dict[str, float] = {}

    def find(self, version: str) -> Bundle | None:
        """Return the bundle of a version that is held."""
        return self._bundles.get(version)

    def hold(self, versions: Collection[str]) -> Collection[str]:
        """Load these versions, release all others, and return those that can serve."""
        bundles = {name: bundle for name, bundle in self._bundles.items() if name in versions}
        self._retry_at = {name: at for name, at in self._retry_at.items() if name in versions}
        for version in sorted(set(versions) - bundles.keys()):
            if time.monotonic() < self._retry_at.get(version, 0.0):
                continue
            try:
                bundles[version] = self._load(self._registry.resolve(version))
            except Exception as error:  # after any error the other arms and the champion serve
                self._retry_at[version] = time.monotonic() + self._retry_s
                self._watcher.bundle_refused()
                log.error("the version %s of an arm cannot be loaded: %s", version, error)
        self._bundles = bundles
        self._keep_open({bundle.schema_hash for bundle in bundles.values()})
        return [name for name, bundle in bundles.items() if self._gate.caught_up(bundle, None)]
