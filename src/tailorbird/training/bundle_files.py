"""Write a fitted model as a bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightgbm
import pyarrow as pa

from tailorbird.features import FeatureSet
from tailorbird.models.gbdt import Gbdt
from tailorbird.ranking.bundle import SKETCHES, write_bundle
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Head, Window
from tailorbird.retrieval import Index
from tailorbird.training.dataset.indexes import write_index
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.evaluation.figures import Evaluation
from tailorbird.training.evaluation.gate import Decision
from tailorbird.training.fit.fit import FittedModel
from tailorbird.training.fit.retrieval import RetrievalChoice
from tailorbird.training.fit.trees import export_trees
from tailorbird.training.fit.warm_trees import BOOSTERS
from tailorbird.training.settings import TrainSettings
from tailorbird.training.sketches import to_bytes

LIBRARIES = {"lightgbm": lightgbm.__version__, "pyarrow": str(pa.__version__)}


def write_model_bundle(
    folder: Path,
    training_data: TrainingData,
    features: FeatureSet,
    fitted: FittedModel,
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
        folder / "index", training_data.events, training_data.items, now, meaning=settings.meaning
    )
    tower = None
    if retrieval.learner is not None:
        space = retrieval.learner.add_inverted_file(
            retrieval.learner.space(Index.open(folder / "index"), now)
        )
        space.vectors.write(folder / "index")
        tower = retrieval.learner.export_files(space)
    write_bundle(
        folder / "bundle",
        created_at=now,
        features=features,
        encoder=fitted.encoder,
        models=fitted.exported,
        heads=bundle_heads(fitted),
        index=folder / "index",
        golden=fitted.golden,
        calibration=fitted.calibration,
        formula={head: weight for head, weight in slot.objective.items() if head in fitted.models},
        window=Window(about["window"]["from"], about["window"]["test_from"]),
        metrics={
            **evaluation.to_dict(),
            "decision": list(decision.reasons),
            # A model of one arm's log is for that arm, and no candidate for everybody.
            "accepted": decision.promote and not settings.arm,
            "about": dict(about),
            "parity": fitted.parity_error,
        },
        libraries=LIBRARIES,
        card=card,
        trees={
            head: export_trees(model)
            for head, model in fitted.models.items()
            if isinstance(model, Gbdt)
        },
        tower=tower,
        extra={
            **({SKETCHES: sketches} if (sketches := to_bytes(fitted.sketches)) else {}),
            **{
                f"{BOOSTERS}/{head}.txt": model.to_bytes()
                for head, model in fitted.models.items()
                if isinstance(model, Gbdt)
            },
        },
    )


def bundle_heads(fitted: FittedModel) -> list[Head]:
    """Return the location of each head in a bundle."""
    return [
        Head(head, head_file.file, column=head_file.column)
        for head, head_file in fitted.head_files.items()
    ]
