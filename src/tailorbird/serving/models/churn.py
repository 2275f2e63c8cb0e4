"""`GET /v1/users/{id}/churn`: the probability that a person leaves, by the champion of a churn
model.

A churn model has its own registry (`registry/churn/NAME`) and its own bundle holder, so that it is
swapped and refused independently of the ranker. Columns are read from the same states as those of
answers, at the moments that the bundle names. Nothing is logged, because asking is not an event.
`training.tasks.churn.score` scores everybody by the same bundle.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tailorbird.errors import NotReadyError
from tailorbird.events import Clock
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.features import FeatureSet, ReadRequest, Rows
from tailorbird.ranking.churn.bundle import ChurnBundle
from tailorbird.ranking.churn.reasons import churn_reasons
from tailorbird.registry import Registry
from tailorbird.serving.messages import ChurnReason, ChurnResponse, QueryError
from tailorbird.serving.models.bundles import BundleHolder
from tailorbird.serving.models.schemas import LiveFeatureProvider


class ChurnSwapListener(Protocol):
    """Receives notice of swaps, as `serving.metrics.Metrics` does."""

    def churn_loaded(self, name: str, version: str) -> None: ...
    def churn_refused(self, name: str) -> None: ...


@dataclass(frozen=True)
class _SwapNotifier:
    """Notifies a listener of the swaps of one model."""

    name: str
    swap_listener: ChurnSwapListener
    on_swap: Callable[[], None]

    def bundle_loaded(self, version: str) -> None:
        self.on_swap()
        self.swap_listener.churn_loaded(self.name, version)

    def bundle_refused(self) -> None:
        self.swap_listener.churn_refused(self.name)


class ChurnModels:
    """The churn models of a project, each with the bundle that serves. Thread-safe once started.

    Args:
        registries: by the model's name.
        feature_provider: the states that columns are read from.
        pseudonyms: hides people under the same pseudonyms as the collector's.
    """

    def __init__(
        self,
        registries: Mapping[str, Path],
        feature_provider: LiveFeatureProvider,
        clock: Clock,
        swap_listener: ChurnSwapListener,
        *,
        pseudonyms: Pseudonyms | None = None,
        probe: Callable[[Path], None] | None = None,
    ) -> None:
        self._feature_provider = feature_provider
        self._clock = clock
        self._pseudonyms = pseudonyms
        self._holders = {
            name: BundleHolder(
                Registry(path, clock=clock),
                lambda folder: ChurnBundle.load(folder, schema_hash=None),
                _SwapNotifier(name, swap_listener, self._keep_open),
                probe=probe,
            )
            for name, path in registries.items()
        }

    def start(self) -> None:
        for holder in self._holders.values():
            holder.start()

    def stop(self) -> None:
        for holder in self._holders.values():
            holder.stop()

    def answer(self, user_id: str, name: str, *, explain: bool = False) -> ChurnResponse:
        """Return the probability that a user leaves.

        Raises:
            QueryError: there is no such model.
            NotReadyError: it has no champion that serves, or its state is not there.
        """
        bundle = self._require_bundle(name)
        now = self._clock.now()
        person = user_id if self._pseudonyms is None else self._pseudonyms.user_id(user_id)
        assert bundle.features is not None  # ensured by `_require_bundle`
        with self._feature_provider.open_schema(bundle.features) as feature_access:
            if feature_access.reader is None:
                raise NotReadyError(
                    "the features are not there at the moment", fix="ask again later"
                )
            rows_per_moment = [
                feature_access.reader.person(ReadRequest(user_id=person, now=as_of))
                for as_of in bundle.moments(now)
            ]
        model_inputs = [
            _select_columns(feature_rows, bundle, feature_access.features)
            for feature_rows in rows_per_moment
        ]
        scores = bundle.score(model_inputs)
        purchases = float(scores.purchases[0])
        reasons: list[ChurnReason] = []
        if explain:
            column_reasons = churn_reasons(bundle, model_inputs)[0]
            reasons = [
                ChurnReason(reason.column, reason.effect, reason.text) for reason in column_reasons
            ]
        return ChurnResponse(
            user_id=user_id,
            name=name,
            model=bundle.version,
            gone=float(scores.churn_probability[0]),
            purchases=None if np.isnan(purchases) else purchases,
            known=_has_activity(model_inputs[0]),
            as_of=rows_per_moment[0].t,
            reasons=reasons,
        )

    def features(self, name: str) -> FeatureSet | None:
        """Return the feature set of a model's champion, or None where none serves."""
        holder = self._holders.get(name)
        bundle = holder.current() if holder is not None else None
        return None if bundle is None else bundle.features

    def _require_bundle(self, name: str) -> ChurnBundle:
        holder = self._holders.get(name)
        if holder is None:
            fix = (
                f"use one of {', '.join(self._holders)}"
                if self._holders
                else "declare one in churn.py"
            )
            raise QueryError(
                f"there is no churn model {name[:60]!r}",
                path="model",
                code="unknown_model",
                fix=fix,
            )
        bundle = holder.current()
        if bundle is None or bundle.features is None:
            problem = holder.problem or "it has no champion yet"
            raise NotReadyError(
                f"churn model {name} does not answer: {problem}", fix=f"tailorbird train {name}"
            )
        return bundle

    def _keep_open(self) -> None:
        bundles: Iterable[ChurnBundle | None] = (
            holder.current() for holder in self._holders.values()
        )
        schema_hashes = (
            bundle.features.schema_hash
            for bundle in bundles
            if bundle is not None and bundle.features is not None
        )
        self._feature_provider.keep_open(schema_hashes, owner="churn")


def _select_columns(
    rows: Rows, bundle: ChurnBundle, features: FeatureSet
) -> tuple[np.ndarray, np.ndarray]:
    """Return the one row of the columns that the bundle reads."""
    numeric_positions = [features.numeric.index(name) for name in bundle.feature_columns.numeric]
    categorical_positions = [
        features.categorical.index(name) for name in bundle.feature_columns.categorical
    ]
    sequence = (
        rows.sequences.get(bundle.space.tower.plan.sequence) if bundle.space is not None else None
    )
    return bundle.with_user_vector(rows.numeric[:1, numeric_positions], sequence), rows.categorical[
        :1, categorical_positions
    ]


def _has_activity(row: tuple[np.ndarray, np.ndarray]) -> bool:
    """Return whether the columns hold anything about the person."""
    numeric, categorical = row
    return bool((np.nan_to_num(numeric) != 0).any() or (categorical != 0).any())
