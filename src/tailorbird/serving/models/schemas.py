"""The feature schema of a request: that of the bundle that answers it, whatever is declared
meanwhile.

A bundle brings its declarations. Their state is opened when the bundle is loaded, and closed when
the last request that reads it has finished, so that a promotion or a rollback switches features,
encoder and model at one moment. A bundle whose state does not exist yet, or lags behind that of the
serving bundle, waits: `BundleHolder` calls `is_caught_up`. Without a bundle, the applied schema is
read.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tailorbird.errors import BundleError, NotReadyError, TailorbirdError
from tailorbird.features import FeatureSet
from tailorbird.features.online.read import make_breaker
from tailorbird.features.schemas import load_declarations, read_applied
from tailorbird.ranking.bundle import Bundle
from tailorbird.serving.models.state import RETRY_S, StateReader
from tailorbird.serving.pipeline.protocols import FeatureAccess, FeatureReader
from tailorbird.store import CopyTarget

CHECK_INTERVAL_S = 1.0  # between checks of the applied schema, without a bundle
log = logging.getLogger(__name__)


@dataclass
class _OpenSchema:
    """An open schema with the number of requests that read it."""

    access: FeatureAccess
    reader: StateReader
    use_count: int = 0


class LiveFeatureProvider:
    """The schemas of a project's bundles, as its workers keep their states. Thread-safe.

    Args:
        state: the folder of all states.
        copies: a Valkey with copies for servers elsewhere; None reads the folder.
        workers: how many share the entities of each schema.
        declared: the features to read while there is no bundle and nothing was applied.
    """

    def __init__(
        self,
        state: Path,
        declared: FeatureSet,
        *,
        copies: CopyTarget | None = None,
        workers: int = 1,
        retry_s: float = RETRY_S,
    ) -> None:
        self._breaker = make_breaker(
            workers
        )  # shared, because all schemas are read from one server
        self._states_folder = state
        self._features_without_bundle = declared
        self._copies = copies
        self._retry_s = retry_s
        self._workers = workers
        self._open_schemas: dict[str, _OpenSchema] = {}
        self._active_hashes = {
            declared.schema_hash
        }  # kept open while unused: the serving schema and the next one
        self._pinned_hashes_by_owner: dict[str, frozenset[str]] = {}
        self._catch_up_position_by_schema: dict[str, int] = {}
        self._next_check_at = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def open_features(self, bundle: Bundle | None) -> Iterator[FeatureAccess]:
        """Open the features of a bundle for the duration of a request."""
        with self.open_schema(
            self._default_features() if bundle is None else _require_features(bundle)
        ) as access:
            yield access

    @contextmanager
    def open_schema(self, features: FeatureSet) -> Iterator[FeatureAccess]:
        """Open the features of a schema for the duration of the block."""
        open_schema = self._acquire(features)
        try:
            yield open_schema.access
        finally:
            self._release(features.schema_hash, open_schema)

    def keep_open(self, schema_hashes: Iterable[str], *, owner: str) -> None:
        """Keep the states of further schemas open though the champion does not read them, until the
        next call of `owner`.
        """
        with self._lock:
            self._pinned_hashes_by_owner[owner] = frozenset(schema_hashes)
            self._close_idle()

    def attach_schema(self, bundle: Bundle) -> Bundle:
        """Return the bundle with its declarations, which are looked up here if it does not bring
        them.

        Raises:
            BundleError: they are not here either.
        """
        if bundle.features is not None:
            return bundle
        if bundle.schema_hash == self._features_without_bundle.schema_hash:
            return replace(bundle, features=self._features_without_bundle)
        try:
            return replace(
                bundle, features=load_declarations(self._states_folder, bundle.schema_hash)
            )
        except TailorbirdError as error:
            message = (
                f"was trained on the features {bundle.schema_hash}, whose declarations are "
                f"not here: {error.message}"
            )
            raise BundleError(message, where=bundle.version, fix="tailorbird train") from error

    def set_serving(self, bundle: Bundle) -> None:
        """Answer requests with this bundle from now on.

        The states of others are closed once nobody reads them.
        """
        with self._lock:
            self._active_hashes = {_require_features(bundle).schema_hash}
            self._catch_up_position_by_schema.clear()
            self._close_idle()

    def is_caught_up(self, bundle: Bundle, serving_bundle: Bundle | None) -> bool:
        """Return whether the state of a bundle exists, and is current.

        It is once it has reached the position that the serving bundle's state had when this one
        appeared.
        """
        features = _require_features(bundle)
        if serving_bundle is not None and serving_bundle.schema_hash == features.schema_hash:
            return True
        return self._is_caught_up(
            features, None if serving_bundle is None else _require_features(serving_bundle)
        )

    def is_ready(self, bundle: Bundle | None) -> bool:
        """Return whether features can be read for a bundle now."""
        with self.open_features(bundle) as access:
            return isinstance(access.reader, StateReader) and access.reader.ready()

    def published_at(self) -> dict[str, int]:
        """Return by schema when its copies were last known to be current, in microseconds."""
        with self._lock:
            return {
                schema: open_schema.reader.published_at
                for schema, open_schema in self._open_schemas.items()
                if open_schema.reader.published_at
            }

    def close(self) -> None:
        with self._lock:
            for open_schema in self._open_schemas.values():
                open_schema.reader.close()
            self._open_schemas.clear()

    def _is_caught_up(self, features: FeatureSet, reference: FeatureSet | None) -> bool:
        with self._lock:
            self._active_hashes.add(features.schema_hash)
        position = self._read_position(features)
        if position is None:
            return False
        if features.schema_hash not in self._catch_up_position_by_schema:
            reference_position = None if reference is None else self._read_position(reference)
            self._catch_up_position_by_schema[features.schema_hash] = reference_position or 0
        return position >= self._catch_up_position_by_schema[features.schema_hash]

    def _read_position(self, features: FeatureSet) -> int | None:
        open_schema = self._acquire(features)
        try:
            return open_schema.reader.position()
        except NotReadyError:
            return None
        finally:
            self._release(features.schema_hash, open_schema)

    def _default_features(self) -> FeatureSet:
        """Return the applied schema, once its state has reached that of the previous one."""
        with self._lock:
            if time.monotonic() < self._next_check_at:
                return self._features_without_bundle
            self._next_check_at = time.monotonic() + CHECK_INTERVAL_S
        try:
            schema = read_applied(self._states_folder).schema
            if not schema or schema == self._features_without_bundle.schema_hash:
                return self._features_without_bundle
            applied_features = load_declarations(self._states_folder, schema)
        except TailorbirdError as error:
            log.warning("the applied schema cannot be read with: %s", error)
            return self._features_without_bundle
        if self._is_caught_up(applied_features, self._features_without_bundle):
            with self._lock:
                self._features_without_bundle = applied_features
                self._active_hashes = {applied_features.schema_hash}
                self._close_idle()
        return self._features_without_bundle

    def _acquire(self, features: FeatureSet) -> _OpenSchema:
        with self._lock:
            open_schema = self._open_schemas.get(features.schema_hash)
            if open_schema is None:
                reader = StateReader(
                    self._states_folder,
                    features,
                    copies=self._copies,
                    breaker=self._breaker,
                    workers=self._workers,
                    retry_s=self._retry_s,
                )
                open_schema = self._open_schemas[features.schema_hash] = _OpenSchema(
                    FeatureAccess.from_features(features, reader), reader
                )
            open_schema.use_count += 1
            return open_schema

    def _release(self, schema: str, open_schema: _OpenSchema) -> None:
        with self._lock:
            open_schema.use_count -= 1
            self._close_idle()

    def _close_idle(self) -> None:
        needed_hashes = self._active_hashes.union(*self._pinned_hashes_by_owner.values())
        for schema in [
            schema
            for schema, open_schema in self._open_schemas.items()
            if not open_schema.use_count and schema not in needed_hashes
        ]:
            self._open_schemas.pop(schema).reader.close()


def _require_features(bundle: Bundle) -> FeatureSet:
    assert bundle.features is not None  # ensured by `attach_schema`
    return bundle.features


class SingleSchema:
    """Reads one schema whatever the bundle: for evaluation and tests."""

    def __init__(self, features: FeatureSet, reader: FeatureReader | None) -> None:
        self._access = FeatureAccess.from_features(features, reader)

    @contextmanager
    def open_features(self, bundle: Bundle | None) -> Iterator[FeatureAccess]:
        yield self._access

    def is_ready(self, bundle: Bundle | None) -> bool:
        reader = self._access.reader
        check_ready = getattr(reader, "ready", None)
        return reader is not None and (check_ready is None or bool(check_ready()))
