"""The models of the score role of `tailorbird run score`."""

from dataclasses import replace
from typing import TYPE_CHECKING

from tailorbird.errors import NotReadyError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.events import Clock
    from tailorbird.features import FeatureSet
    from tailorbird.serving.messages import ChurnResponse, RecommendQuery, RecommendResponse


class ScoreModels:
    """The champions of a project with the features that a server reads."""

    def __init__(self, project: "Project", clock: "Clock") -> None:
        from tailorbird.platform.inprocess import InProcessServer
        from tailorbird.ranking import ChurnScore, NextBest
        from tailorbird.serving.metrics import Metrics
        from tailorbird.serving.models.bundles import probe_in_child
        from tailorbird.serving.models.churn import ChurnModels
        from tailorbird.store import WRITE_TIMEOUT_S

        copy_target = project.copy_target()
        # Late scores are not computed at all, so a long timeout does no harm. Ids in the routed log
        # are pseudonyms already.
        copy_target = (
            None if copy_target is None else replace(copy_target, read_timeout_s=WRITE_TIMEOUT_S)
        )
        self._server = InProcessServer(
            project,
            clock,
            collector=None,
            seed=None,
            pseudonymise=False,
            copy_target=copy_target,
            probe_bundle=probe_in_child,
        )
        slots = {
            score.slot: replace(project.slots[score.slot], explore=None, experiment=None)
            for score in _scores_of_kind(project, NextBest)
        }
        self._pipeline = self._server.pipeline_for(slots, None) if slots else None
        self._churn_model_names = sorted(
            {score.model for score in _scores_of_kind(project, ChurnScore)}
        )
        registry_path_by_model = {
            name: project.paths.churn(name) for name in self._churn_model_names
        }
        self._churn = ChurnModels(
            registry_path_by_model,
            self._server.feature_provider,
            clock,
            Metrics(),
            probe=probe_in_child,
        )
        self._churn.start()

    def refresh(self) -> None:
        self._server.refresh()

    def reached_position(self) -> int:
        """Return the routed position that all states have reached; 0 while one is missing."""
        positions = []
        for features in self._used_feature_sets():
            with self._server.feature_provider.open_schema(features) as reading:
                reader = reading.reader
                try:
                    positions.append(reader.position() if reader is not None else 0)  # type: ignore[attr-defined]
                except NotReadyError:
                    return 0
        # Without a model nothing is scored, so there is nothing to wait for.
        return min(positions, default=1 << 62)

    def next_best(self, query: "RecommendQuery") -> "RecommendResponse":
        assert self._pipeline is not None
        response = self._pipeline.answer(query)
        if {"model", "features"} & set(response.degraded):
            raise NotReadyError(f"there is no {response.degraded[0]}", fix="tailorbird train")
        return response

    def churn(self, user_id: str, model: str) -> "ChurnResponse":
        return self._churn.answer(user_id, model, explain=True)

    def close(self) -> None:
        self._churn.stop()
        self._server.close()

    def _used_feature_sets(self) -> "list[FeatureSet]":
        """Return the feature sets that scores are computed from."""
        bundle = self._server.rollout.current() if self._pipeline is not None else None
        ranker_features = [] if bundle is None or bundle.features is None else [bundle.features]
        return [
            *ranker_features,
            *(
                features
                for name in self._churn_model_names
                if (features := self._churn.features(name)) is not None
            ),
        ]


def _scores_of_kind(project: "Project", kind: type) -> list:
    return [score for score in project.scores.values() if isinstance(score, kind)]
