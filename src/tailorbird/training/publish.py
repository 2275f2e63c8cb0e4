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
from tailorbird.training.evaluation.figures import Evaluation
from tailorbird.training.evaluation.gate import Decision
from tailorbird.training.notes import describe_training
from tailorbird.training.report.card import render_model_card
from tailorbird.training.rivals import MODEL_NAME


def add_version(model: Any, report: Comparison, registry: Registry, *, by: str) -> str:
    """Write a bundle of a model, add it, and return its version.

    Raises:
        UsageError: the model is not in the report.
    """
    from tailorbird.training.api import evaluate

    names = [name for name, evaluated_model in report.models.items() if evaluated_model is model]
    if not names:
        raise UsageError(
            "the report does not have this model",
            where="registry.add",
            fix="evaluate it: tb.training.evaluate({'mine': model}, data.test)",
        )
    name = names[0]
    if report.evaluation.model != name:  # the figures shall compare this model with the others
        report = evaluate({name: model, **report.models}, report.test, metrics=report.metrics)
    data, fitted = report.test.data, report.fitted[name]
    dataset, settings = data.dataset, data.dataset.settings
    evaluation = _rename_model(report.evaluation, name)
    decision = Decision(False, ("added by hand: the gate did not decide on it",))
    about = {
        **describe_training(
            dataset.slot,
            dataset.training_data,
            dataset.training_data.data,
            data.split,
            data.parts,
            data.plan,
            data.dropped,
            settings,
            dataset.now,
        ),
        "architecture": fitted.architecture,
        "owner": dataset.declarations.settings.project.owner,
        "columns": fitted.encoder.describe_columns(),
        "calibration": {
            head: calibration_choice.summary
            for head, calibration_choice in fitted.calibration_choices.items()
        },
        "decided_by": by,
    }
    card = render_model_card(dataset.slot, evaluation, decision, about, fitted.notes, by)
    with tempfile.TemporaryDirectory(prefix="tailorbird-bundle-") as folder:
        write_model_bundle(
            Path(folder),
            dataset.training_data,
            dataset.declarations.features,
            fitted,
            data.plan.retrieval,
            dataset.slot,
            settings,
            dataset.now,
            about,
            evaluation,
            decision,
            card,
        )
        return registry.add(Path(folder) / "bundle", by=by, why=f"added as {name!r} from Python")


def _rename_model(evaluation: Evaluation, name: str) -> Evaluation:
    """Return the figures with the model under the name that reports of trainings use."""

    def rename_key(by_model: Mapping[str, Any]) -> dict[str, Any]:
        return {MODEL_NAME if key == name else key: value for key, value in by_model.items()}

    return replace(
        evaluation,
        model=MODEL_NAME,
        figures=rename_key(evaluation.figures),
        slices={
            key: (count, rename_key(by_model))
            for key, (count, by_model) in evaluation.slices.items()
        },
    )
