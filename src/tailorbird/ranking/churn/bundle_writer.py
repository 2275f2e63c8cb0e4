"""Writing of a churn bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort

from tailorbird.features import FeatureSet
from tailorbird.features.codec import FILE as DECLARED
from tailorbird.features.codec import encode_features
from tailorbird.ranking.bundle import CARD, GOLDEN_ROWS
from tailorbird.ranking.calibration import Calibration
from tailorbird.ranking.churn.bundle import CHURN_HEAD
from tailorbird.ranking.churn.plan import ChurnPlan
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.rows import Matrix
from tailorbird.ranking.head_sessions import open_session, run_heads
from tailorbird.ranking.tower import FOLDER as TOWER
from tailorbird.ranking.tree_shap import Trees
from tailorbird.ranking.trees import write_trees
from tailorbird.registry import Head, Manifest, Window, seal
from tailorbird.retrieval.arrays import write_array
from tailorbird.version import __version__


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
    for name, data in (space or {}).items():
        (folder / TOWER).mkdir(parents=True, exist_ok=True)
        (folder / TOWER / name).write_bytes(data)
    (folder / "model").mkdir(parents=True)
    heads = [
        Head(
            part.head,
            f"model/{part.head}.onnx",
            calibration=calibration.name if part.kind != "count" else "none",
        )
        for part in plan.parts
    ]
    for head in heads:
        (folder / head.file).write_bytes(models[head.name])
    (folder / DECLARED).write_bytes(encode_features(features))
    write_trees(folder, trees or {})
    (folder / "churn.json").write_bytes(msgspec.json.encode(plan))
    (folder / "encoder.json").write_bytes(msgspec.json.encode(encoder))
    (folder / "calibration.json").write_bytes(msgspec.json.encode({CHURN_HEAD: calibration}))
    sessions = {
        head.file: open_session(models[head.name], width=len(encoder.names), where=head.file)
        for head in heads
    }
    sampled = np.unique(np.linspace(0, len(golden) - 1, GOLDEN_ROWS).astype(np.intp))
    rows = np.ascontiguousarray(golden[sampled], np.float32)
    write_array(folder / "golden_input.npy", rows)
    write_array(
        folder / "golden_raw.npy", np.column_stack(list(run_heads(sessions, heads, rows).values()))
    )
    if card:
        (folder / CARD).write_text(
            card, encoding="utf-8"
        )  # a copy of the manifest's card for readers of the folder
    manifest = Manifest(
        created_at=created_at,
        schema_hash=features.schema_hash,
        columns=encoder.columns,
        heads=tuple(heads),
        window=window,
        metrics=dict(metrics),
        libraries={"onnxruntime": ort.__version__, "numpy": np.__version__, **libraries},
        golden_rows=len(rows),
        engine=__version__,
        card=card,
    )
    return seal(folder, manifest)
