"""Writing of a churn bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.features import FeatureSet
from tailorbird.ranking.bundle import write_bundle
from tailorbird.ranking.calibration import Calibration
from tailorbird.ranking.churn.bundle import CHURN_HEAD
from tailorbird.ranking.churn.plan import ChurnPlan
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.rows import Matrix
from tailorbird.ranking.tree_shap import Trees
from tailorbird.registry import Head, Manifest, Window


def write_churn_bundle(
    folder: Path,
    plan: ChurnPlan,
    *,
    created_at: int,
    features: FeatureSet,
    encoder: Encoder,
    models: Mapping[str, bytes],
    calibration: Calibration,
    golden: Matrix,
    window: Window,
    metrics: Mapping[str, Any],
    libraries: Mapping[str, str],
    card: str,
    trees: Mapping[str, Trees] | None = None,
    space: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Write a sealed bundle into a new folder, ready for `Registry.add`.

    Args:
        models: head → ONNX bytes, those of the plan's parts.
        trees: of the parts that are forests.
        golden: rows of the matrix, of which some are kept to be scored again at each load.
        space: file → bytes of the tower and its items, see `space_files`; None without vectors.
    """
    heads = [
        Head(
            part.head,
            f"model/{part.head}.onnx",
            calibration=calibration.name if part.kind != "count" else "none",
        )
        for part in plan.parts
    ]
    return write_bundle(
        folder,
        created_at=created_at,
        features=features,
        encoder=encoder,
        models={head.file: models[head.name] for head in heads},
        heads=heads,
        index=None,
        golden=golden,
        calibration={CHURN_HEAD: calibration},
        window=window,
        metrics=metrics,
        libraries=libraries,
        card=card,
        trees=trees,
        tower=space,
        extra={"churn.json": msgspec.json.encode(plan)},
    )
