"""Evidence for the gate: the evaluation of a model beside its rivals."""

from dataclasses import dataclass

from tailorbird.training.evaluation.estimate import ChampionEstimate
from tailorbird.training.evaluation.figures import PRIMARY_METRIC, Evaluation, K
from tailorbird.training.evaluation.gate import SUPERIORITY, Decision, Evidence, Rival
from tailorbird.training.fit.fit import FittedModel
from tailorbird.training.rivals import MODEL_NAME, Rivals


@dataclass(frozen=True)
class Judgement:
    """The evaluation and its context, from which the gate decides."""

    evaluation: Evaluation
    fitted: FittedModel
    champion: str
    champion_note: str
    rivals: Rivals
    recipe: str
    estimate: ChampionEstimate | None

    def evidence(self) -> Evidence:
        """Return what the gate weighs: the model against baselines, champion and anchor."""
        evaluation = self.evaluation
        versions = set(self.rivals.bundles)
        baselines = tuple(
            self._to_rival(name) for name in evaluation.differences if name not in versions
        )
        champion = (
            self._to_rival(self.champion) if self.champion in evaluation.differences else None
        )
        anchor = (
            self._to_rival(self.rivals.anchor)
            if self.rivals.anchor in evaluation.differences
            else None
        )
        reference = self.champion or evaluation.best_baseline
        coverage = f"coverage_{K}"
        figures = evaluation.figures
        return Evidence(
            PRIMARY_METRIC,
            baselines,
            champion,
            anchor,
            self._is_fresher(),
            self.champion_note,
            evaluation.people,
            {head: figures.mean_ratio for head, figures in evaluation.heads.items()},
            figures[MODEL_NAME][coverage].value,
            figures[reference][coverage].value if reference in figures else 0.0,
            self.fitted.leaks,
            estimate=self.estimate.summary if self.estimate is not None else "",
            is_estimated_worse=self.estimate is not None and self.estimate.is_worse,
        )

    def anchor_after(self, decision: Decision) -> str:
        """Return the last model that won by superiority, once this one is the champion.

        "" stands for this model itself.
        """
        if decision.by == SUPERIORITY or self.champion not in self.rivals.bundles:
            return ""
        return self.rivals.anchor or self.champion

    def _is_fresher(self) -> bool:
        bundle = self.rivals.bundles.get(self.champion)
        return (
            bundle is not None
            and bundle.manifest.metrics.get("about", {}).get("recipe") == self.recipe
        )

    def _to_rival(self, name: str) -> Rival:
        return Rival(
            name,
            self.evaluation.differences[name],
            self.evaluation.figures[name][PRIMARY_METRIC].value,
        )
