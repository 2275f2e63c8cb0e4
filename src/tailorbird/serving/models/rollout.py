"""Selection of the bundle that answers: champion, canary for its share of people, and shadow for
nobody.

    champion   answers; the previous one stays loaded, as a fallback and for a rollback
    canary     answers its share of people, by the same hash that assigns arms of experiments:
               whoever is in at 5 % is in at 20 %
    holdout    a small share of the people stays with the previous champion, as a control
    shadow     scores the shown items for the log; the caller sees nothing of it
    arms       versions that running experiments name, each for the units of its arm

One file of the registry names the first four, and each server follows it, so that one command on any
machine is enough. A version that one alias has loaded is not loaded again for another, so promoting
the canary and rolling back take one check of that file. `monitoring.canary` decides what becomes
of a canary.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

from tailorbird.experiments.assign import is_in_share
from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import Registry
from tailorbird.serving.models.arms import ArmBundles
from tailorbird.serving.models.bundles import POLL_S, BundleHolder, SwapListener
from tailorbird.serving.models.schemas import LiveFeatureProvider

RECENT_BUNDLES = 3  # bundles that stay loaded, whatever the registry names


class _SecondaryListener:
    """Receives notice of bundles other than the champion; implements `bundles.SwapListener`."""

    def __init__(self, name: str, swap_listener: SwapListener) -> None:
        self._name = name
        self._swap_listener = swap_listener

    def bundle_loaded(self, version: str) -> None:
        pass  # metrics read `Rollout.versions`

    def bundle_refused(self) -> None:
        self._swap_listener.bundle_refused()


class TableCoverage(Protocol):
    """Decides whether the published candidate tables suffice, as
    `serving.models.candidates.LiveTables` does.
    """

    def covers(self, sources: Collection[str]) -> bool: ...


class _Gate:
    """Admits a bundle once its state is there and its candidate tables are published.

    `alias` names what the bundle is loaded for. Implements `bundles.ReadinessGate`.
    """

    def __init__(
        self, alias: str, feature_provider: LiveFeatureProvider, tables: TableCoverage | None
    ) -> None:
        self._alias = alias
        self._feature_provider = feature_provider
        self._tables = tables

    def is_caught_up(self, bundle: Bundle, serving_bundle: Bundle | None) -> bool:
        has_state = self._feature_provider.is_caught_up(
            bundle, serving_bundle if self._alias == "champion" else None
        )
        return has_state and self._has_tables(bundle, serving_bundle)

    def _has_tables(self, bundle: Bundle, serving_bundle: Bundle | None) -> bool:
        """Return whether a bundle finds its candidate tables.

        True also if the serving bundle has none either, because there is nothing to wait for then.
        """
        if self._tables is None or self._tables.covers(bundle.sources):
            return True
        return serving_bundle is not None and not self._tables.covers(serving_bundle.sources)

    def set_serving(self, bundle: Bundle) -> None:
        if self._alias == "champion":
            self._feature_provider.set_serving(bundle)
        else:
            self._feature_provider.keep_open({bundle.schema_hash}, owner=self._alias)


class Rollout:
    """Implements `protocols.BundleSelector` over a registry. Thread-safe once started.

    Args:
        load: makes a complete and warm bundle of a folder, or raises BundleError.
        probe: tries a folder in a child process first, and raises BundleError; None skips that.
        tables: the candidate tables that bundles read; None requires none.
        holdout_share: share of the people whom the previous champion answers.
    """

    def __init__(
        self,
        registry: Registry,
        load: Callable[[Path], Bundle],
        swap_listener: SwapListener,
        feature_provider: LiveFeatureProvider,
        *,
        probe: Callable[[Path], None] | None = None,
        tables: TableCoverage | None = None,
        holdout_share: float = 0.0,
        poll_s: float = POLL_S,
    ) -> None:
        self._holdout_share = holdout_share
        self._registry = registry
        self._load = load
        self._probe = probe
        self._loaded_bundles: WeakValueDictionary[str, Bundle] = WeakValueDictionary()
        self._recent_bundles: deque[Bundle] = deque(
            maxlen=RECENT_BUNDLES
        )  # kept alive, so that switching back loads nothing
        self._load_lock = threading.Lock()
        self.champion = BundleHolder(
            registry,
            self._load_once,
            swap_listener,
            gate=_Gate("champion", feature_provider, tables),
            keep_previous=True,
            poll_s=poll_s,
        )
        self._canary, self._shadow = (
            BundleHolder(
                registry,
                self._load_once,
                _SecondaryListener(name, swap_listener),
                gate=_Gate(name, feature_provider, tables),
                alias=name,
                poll_s=poll_s,
            )
            for name in ("canary", "shadow")
        )
        self._holders = {"champion": self.champion, "canary": self._canary, "shadow": self._shadow}
        self.arms = ArmBundles(
            registry,
            self._load_once,
            _Gate("arms", feature_provider, tables),
            lambda schema_hashes: feature_provider.keep_open(schema_hashes, owner="arms"),
            swap_listener,
            poll_s=poll_s,
        )
        self.periodic_tasks = [
            *(holder.periodic_task for holder in self._holders.values()),
            self.arms.periodic_task,
        ]

    def start(self) -> None:
        """Load the bundles that the registry names, the champion first, and follow changes."""
        for holder in self._holders.values():
            holder.start()
        self.arms.periodic_task.start()

    def stop(self) -> None:
        self.arms.periodic_task.stop()
        for holder in self._holders.values():
            holder.stop()

    def tick(self) -> None:
        """Follow the registry now, for callers without threads."""
        for holder in self._holders.values():
            holder.tick()
        self.arms.tick()

    def current(self) -> Bundle | None:
        return self.champion.current()

    def for_person(self, person: str) -> Bundle | None:
        canary = self._canary.current()
        champion = self.champion.current()
        if champion is None:
            return None
        if (
            canary is not None
            and canary.version != champion.version
            and is_in_share(f"canary-{canary.version}", self._canary.canary_share, person)
        ):
            return canary
        return self._holdout_bundle(champion, person) or champion

    def pin_version(self, version: str) -> "PinnedBundle":
        """Return a version as the only one, for comparisons that nobody sees."""
        return PinnedBundle(self._load_once(self._registry.resolve(version)))

    def for_version(self, version: str) -> Bundle | None:
        """Return the bundle of a version that an arm names, or None where it is not loaded."""
        return self.arms.find(version)

    def _holdout_bundle(self, champion: Bundle, person: str) -> Bundle | None:
        """Return the previous champion for people of the holdout.

        Each champion has other people in its holdout. A previous version with other features has
        none, because their state may be gone.
        """
        previous = self.champion.previous()
        if (
            not self._holdout_share
            or previous is None
            or previous.version == champion.version
            or previous.schema_hash != champion.schema_hash
            or not is_in_share(f"holdout-{champion.version}", self._holdout_share, person)
        ):
            return None
        return previous

    def previous(self) -> Bundle | None:
        return self.champion.previous()

    def is_fallback(self, bundle: Bundle) -> bool:
        return self.champion.is_fallback and bundle is self.current()

    def shadow(self) -> Bundle | None:
        return self._shadow.current()

    def versions(self) -> dict[str, str]:
        """Return the version of each role that has a bundle now."""
        bundles = {name: holder.current() for name, holder in self._holders.items()} | {
            "previous": self.previous()
        }
        return {name: bundle.version for name, bundle in bundles.items() if bundle is not None}

    def _load_once(self, folder: Path) -> Bundle:
        """Return the bundle of a folder, loaded at most once."""
        with self._load_lock:
            bundle = self._loaded_bundles.get(folder.name)
            if bundle is None:
                if self._probe is not None:
                    self._probe(folder)
                bundle = self._loaded_bundles[folder.name] = self._load(folder)
                self._recent_bundles.append(bundle)
            return bundle


class PinnedBundle:
    """One bundle that answers everybody; implements `protocols.BundleSelector`."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def current(self) -> Bundle | None:
        return self._bundle

    def for_person(self, person: str) -> Bundle | None:
        return self._bundle

    def for_version(self, version: str) -> Bundle | None:
        return None

    def previous(self) -> Bundle | None:
        return None

    def is_fallback(self, bundle: Bundle) -> bool:
        return False

    def shadow(self) -> Bundle | None:
        return None
