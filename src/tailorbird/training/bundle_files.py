"""Write a fitted model as a bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightgbm
import pyarrow as pa

from tailorbird.features import FeatureSet
from tailorbird.models.gbdt import Gbdt
from tailorbird.ranking.bundle import SKETCHES_FILE, write_bundle
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Head, TrainingWindow
from tailorbird.retrieval import Index
from tailorbird.training.dataset.indexes import write_index
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.evaluation.figures import Evaluation
from tailorbird.training.evaluation.gate import Decision
from tailorbird.training.fit.fit import FittedModel
from tailorbird.training.fit.retrieval import RetrievalChoice
from tailorbird.training.fit.trees import export_trees
from tailorbird.training.fit.warm_trees import BOOSTERS_FOLDER
from tailorbird.training.settings import TrainSettings
from tailorbird.training.sketches import to_bytes

LIBRARIES = {"lightgbm": lightgbm.__version__, "pyarrow": str(pa.__version__)}


def write_model_bundle(
    folder: Path,
    training_data: TrainingData,
    features: FeatureSet,
    fitted_model: FittedModel,
    retrieval: RetrievalChoice,
    slot: Slot,
    settings: TrainSettings,
    now: int,
    about: Mapping[str, Any],
    evaluation: Evaluation,
    decision: Decision,
    card: str,
) -> None:
    """Write the bundle, with an index as of now."""
    write_index(
        folder / "index",
        training_data.events,
        training_data.item_profiles,
        now,
        text_vector_settings=settings.meaning,
    )
    tower = None
    if retrieval.learner is not None:
        space = retrieval.learner.add_inverted_file(
            retrieval.learner.build_space(Index.open(folder / "index"), now)
        )
        space.vectors.write(folder / "index")
        tower = retrieval.learner.export_files(space)
    write_bundle(
        folder / "bundle",
        created_at=now,
        features=features,
        encoder=fitted_model.encoder,
        models=fitted_model.exported_files,
        heads=locate_heads(fitted_model),
        index=folder / "index",
        golden=fitted_model.golden_rows,
        calibration=fitted_model.calibration_by_head,
        formula={
            head: weight
            for head, weight in slot.objective.items()
            if head in fitted_model.model_by_head
        },
        window=TrainingWindow(about["window"]["from"], about["window"]["test_from"]),
        metrics={
            **evaluation.to_dict(),
            "decision": list(decision.reasons),
            # A model of one arm's log is for that arm, and no candidate for everybody.
            "accepted": decision.is_accepted and not settings.arm,
            "about": dict(about),
            "parity": fitted_model.parity_error,
        },
        libraries=LIBRARIES,
        card=card,
        trees={
            head: export_trees(model)
            for head, model in fitted_model.model_by_head.items()
            if isinstance(model, Gbdt)
        },
        tower=tower,
        extra_files={
            **({SKETCHES_FILE: sketches} if (sketches := to_bytes(fitted_model.sketches)) else {}),
            **{
                f"{BOOSTERS_FOLDER}/{head}.txt": model.to_bytes()
                for head, model in fitted_model.model_by_head.items()
                if isinstance(model, Gbdt)
            },
        },
    )


def locate_heads(fitted_model: FittedModel) -> list[Head]:
    """Return the location of each head in a bundle."""
    return [
        Head(head, head_file.file, column=head_file.column)
        for head, head_file in fitted_model.head_files.items()
    ]
