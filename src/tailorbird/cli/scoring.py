"""The parts of `tailorbird run score`: the project's models, as the score role asks them."""

from dataclasses import replace
from typing import TYPE_CHECKING

from tailorbird.errors import NotReadyError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.events import Clock
    from tailorbird.features import FeatureSet
    from tailorbird.serving.messages import Answer, ChurnAnswer, RecommendQuery


class Models:
    """The champions of a project, over the features that a server would read; they are swapped as
    in a server.
    """

    def __init__(self, project: "Project", clock: "Clock") -> None:
        from tailorbird.platform.inprocess import InProcessServer
        from tailorbird.ranking import ChurnScore, NextBest
        from tailorbird.serving.bundles import probe_in_child
        from tailorbird.serving.churn import ChurnModels
        from tailorbird.serving.metrics import Metrics
        from tailorbird.store.valkey import WRITE_TIMEOUT_S

        copies = project.copy_target()
        # Nobody waits for a score, and what was not scored is not scored later. Ids of the routed
        # log are hidden already.
        copies = None if copies is None else replace(copies, read_timeout_s=WRITE_TIMEOUT_S)
        self._parts = InProcessServer(
            project,
            clock,
            collector=None,
            seed=None,
            hide=False,
            copies=copies,
            probe=probe_in_child,
        )
        slots = {
            score.slot: replace(project.slots[score.slot], explore=None, experiment=None)
            for score in _of(project, NextBest)
        }
        self._pipeline = self._parts.pipeline_for(slots, None) if slots else None
        self._names = sorted({score.model for score in _of(project, ChurnScore)})
        registries = {name: project.paths.churn(name) for name in self._names}
        self._churn = ChurnModels(
            registries, self._parts.schemas, clock, Metrics(), probe=probe_in_child
        )
        self._churn.start()

    def refresh(self) -> None:
        self._parts.refresh()

    def reached(self) -> int:
        reached = []
        for features in self._read():
            with self._parts.schemas.access_for(features) as reading:
                reader = reading.reader
                try:
                    reached.append(reader.position() if reader is not None else 0)  # type: ignore[attr-defined]
                except NotReadyError:
                    return 0
        return min(
            reached, default=1 << 62
        )  # without a model nothing is scored, and there is nothing to wait for

    def next_best(self, query: "RecommendQuery") -> "Answer":
        assert self._pipeline is not None
        answer = self._pipeline.answer(query)
        if {"model", "features"} & set(answer.degraded):
            raise NotReadyError(f"there is no {answer.degraded[0]}", fix="tailorbird train")
        return answer

    def churn(self, user_id: str, model: str) -> "ChurnAnswer":
        return self._churn.answer(user_id, model, explain=True)

    def close(self) -> None:
        self._churn.stop()
        self._parts.close()

    def _read(self) -> "list[FeatureSet]":
        """The features that scores are made of now."""
        bundle = self._parts.bundles.current() if self._pipeline is not None else None
        found = [] if bundle is None or bundle.features is None else [bundle.features]
        return [
            *found,
            *(
                features
                for name in self._names
                if (features := self._churn.features(name)) is not None
            ),
        ]


def _of(project: "Project", kind: type) -> list:
    return [score for score in project.scores.values() if isinstance(score, kind)]
