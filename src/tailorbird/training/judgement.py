"""Evidence for the gate: the evaluation of a model beside its rivals."""

from dataclasses import dataclass

from tailorbird.training.evaluation.estimate import ChampionEstimate
from tailorbird.training.evaluation.figures import PRIMARY_METRIC, TOP_K, Evaluation
from tailorbird.training.evaluation.gate import SUPERIORITY, Decision, Evidence, Rival
from tailorbird.training.fit.fit import FittedModel
from tailorbird.training.rivals import MODEL_NAME, Rivals


@dataclass(frozen=True)
class Judgement:
    """The evaluation and its context, from which the gate decides."""

    evaluation: Evaluation
    fitted_model: FittedModel
    champion_version: str
    champion_note: str
    rivals: Rivals
    recipe_hash: str
    estimate: ChampionEstimate | None

    def evidence(self) -> Evidence:
        """Return what the gate weighs: the model against baselines, champion and anchor."""
        evaluation = self.evaluation
        rival_versions = set(self.rivals.bundle_by_version)
        baselines = tuple(
            self._to_rival(name) for name in evaluation.differences if name not in rival_versions
        )
        champion = (
            self._to_rival(self.champion_version)
            if self.champion_version in evaluation.differences
            else None
        )
        anchor = (
            self._to_rival(self.rivals.anchor_version)
            if self.rivals.anchor_version in evaluation.differences
            else None
        )
        reference_name = self.champion_version or evaluation.best_baseline
        coverage_metric = f"coverage_{TOP_K}"
        intervals = evaluation.intervals
        return Evidence(
            metric=PRIMARY_METRIC,
            baselines=baselines,
            champion=champion,
            anchor=anchor,
            has_same_recipe=self._has_same_recipe(),
            champion_note=self.champion_note,
            user_count=evaluation.user_count,
            calibration_ratios={
                head: head_metrics.mean_ratio
                for head, head_metrics in evaluation.head_metrics.items()
            },
            coverage=intervals[MODEL_NAME][coverage_metric].value,
            coverage_reference=intervals[reference_name][coverage_metric].value
            if reference_name in intervals
            else 0.0,
            leak_reasons=self.fitted_model.leak_reasons,
            estimate=self.estimate.summary if self.estimate is not None else "",
            is_estimated_worse=self.estimate is not None and self.estimate.is_worse,
        )

    def anchor_after(self, decision: Decision) -> str:
        """Return the last model that won by superiority, once this one is the champion.

        "" stands for this model itself.
        """
        if (
            decision.rule == SUPERIORITY
            or self.champion_version not in self.rivals.bundle_by_version
        ):
            return ""
        return self.rivals.anchor_version or self.champion_version

    def _has_same_recipe(self) -> bool:
        bundle = self.rivals.bundle_by_version.get(self.champion_version)
        return (
            bundle is not None
            and bundle.manifest.metrics.get("about", {}).get("recipe") == self.recipe_hash
        )

    def _to_rival(self, name: str) -> Rival:
        return Rival(
            name,
            self.evaluation.differences[name],
            self.evaluation.intervals[name][PRIMARY_METRIC].value,
        )
