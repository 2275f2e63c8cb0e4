"""Add a model of a notebook to the registry, with the figures of its evaluation."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tailorbird.errors import UsageError
from tailorbird.registry import Registry
from tailorbird.training.bundle_files import write_model_bundle
from tailorbird.training.comparison import Comparison
from tailorbird.training.evaluation.figures import Evaluation, SliceIntervals
from tailorbird.training.evaluation.gate import Decision
from tailorbird.training.notes import describe_training
from tailorbird.training.report.card import render_model_card
from tailorbird.training.rivals import MODEL_NAME


def add_version(model: Any, comparison: Comparison, registry: Registry, *, by: str) -> str:
    """Write a bundle of a model, add it, and return its version.

    Raises:
        UsageError: the model is not in the report.
    """
    from tailorbird.training.api import evaluate

    matching_names = [
        name for name, evaluated_model in comparison.models.items() if evaluated_model is model
    ]
    if not matching_names:
        raise UsageError(
            "the report does not have this model",
            where="registry.add",
            fix="evaluate it: tb.training.evaluate({'mine': model}, data.test)",
        )
    name = matching_names[0]
    if (
        comparison.evaluation.model_name != name
    ):  # the figures shall compare this model with the others
        comparison = evaluate(
            {name: model, **comparison.models}, comparison.test_requests, metrics=comparison.metrics
        )
    split_data = comparison.test_requests.split_data
    fitted_model = comparison.fitted_models[name]
    dataset = split_data.dataset
    settings = split_data.dataset.settings
    evaluation = _rename_model(comparison.evaluation, name)
    decision = Decision(False, ("added by hand: the gate did not decide on it",))
    about = {
        **describe_training(
            slot=dataset.slot,
            training_data=dataset.training_data,
            all_requests=dataset.training_data.dataset,
            split=split_data.split,
            datasets=split_data.datasets,
            candidate_plan=split_data.candidate_plan,
            dropped_count=split_data.dropped_count,
            settings=settings,
            now=dataset.as_of,
        ),
        "architecture": fitted_model.architecture,
        "owner": dataset.declarations.settings.project.owner,
        "columns": fitted_model.encoder.describe_columns(),
        "calibration": {
            head: calibration_choice.summary
            for head, calibration_choice in fitted_model.calibration_choices.items()
        },
        "decided_by": by,
    }
    card = render_model_card(
        slot=dataset.slot,
        evaluation=evaluation,
        decision=decision,
        about=about,
        notes=fitted_model.notes,
        by=by,
    )
    with tempfile.TemporaryDirectory(prefix="tailorbird-bundle-") as folder:
        write_model_bundle(
            folder=Path(folder),
            training_data=dataset.training_data,
            features=dataset.declarations.features,
            fitted_model=fitted_model,
            retrieval=split_data.candidate_plan.retrieval,
            slot=dataset.slot,
            settings=settings,
            now=dataset.as_of,
            about=about,
            evaluation=evaluation,
            decision=decision,
            card=card,
        )
        return registry.add(Path(folder) / "bundle", by=by, why=f"added as {name!r} from Python")


def _rename_model(evaluation: Evaluation, name: str) -> Evaluation:
    """Return the figures with the model under the name that reports of trainings use."""

    def rename_key(value_by_model: Mapping[str, Any]) -> dict[str, Any]:
        return {MODEL_NAME if key == name else key: value for key, value in value_by_model.items()}

    return replace(
        evaluation,
        model_name=MODEL_NAME,
        intervals=rename_key(evaluation.intervals),
        slices={
            key: SliceIntervals(count, rename_key(value_by_model))
            for key, (count, value_by_model) in evaluation.slices.items()
        },
    )
