"""DCN-v2 for each target and MMoE for all, of FuxiCTR's layers and loop.

    .peers/bin/python several_targets.py FOLDER

    FOLDER/jobs.json     [{"model": "dcn" or "mmoe", "variant", "seed", "out"}]
    FOLDER/rows.npz      PART_matrix (n, columns), PART_label (n, targets) for train, held and test
    FOLDER/layout.json   {"targets", "numbers": places, "codes": {place: size},
                         "item": [place, size], "recent": places}
    FOLDER/OUT.npz       said (n, targets) of the test part; seconds_fit, seconds_ask: CPU seconds
                         of this process

FuxiCTR does not install its model zoo, so these models are assembled here from the layers that it
does install. Numbers are standardised by the training part, as its own preprocessing does; the
newest items share the candidate's embedding and are averaged. Imports nothing of ours.
"""

import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel, MultiTaskModel
from torch import Tensor, nn

WIDTH = 16  # of embeddings
BATCH = 256
EPOCHS = 10
RECENT = "recent"


class Dcn(BaseModel):
    """Cross layers in parallel with dense layers, for one target."""

    def __init__(
        self, columns: FeatureMap, dropout: float, embedding_l2: float, rate: float, **options: Any
    ) -> None:
        super().__init__(columns, model_id="dcn", embedding_regularizer=embedding_l2, **options)
        self.embedding_layer = FeatureEmbedding(columns, WIDTH)
        width = columns.sum_emb_out_dim()
        self.crosses = CrossNetV2(width, 2)
        self.layers = MLP_Block(input_dim=width, hidden_units=[128, 64], dropout_rates=dropout)
        self.last = nn.Linear(width + 64, 1)
        self.compile("adam", "binary_crossentropy", rate)
        self.reset_parameters()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        x = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        return {
            "y_pred": self.output_activation(
                self.last(torch.cat([self.crosses(x), self.layers(x)], dim=-1))
            )
        }


class Mmoe(MultiTaskModel):
    """Experts, mixed by a gate for each target, and a tower for each."""

    def __init__(
        self, columns: FeatureMap, dropout: float, embedding_l2: float, rate: float, **options: Any
    ) -> None:
        targets = columns.labels
        super().__init__(
            columns,
            model_id="mmoe",
            num_tasks=len(targets),
            task="binary_classification",
            embedding_regularizer=embedding_l2,
            **options,
        )
        self.embedding_layer = FeatureEmbedding(columns, WIDTH)
        width = columns.sum_emb_out_dim()
        self.experts = nn.ModuleList(
            MLP_Block(input_dim=width, hidden_units=[64], dropout_rates=dropout) for _ in range(4)
        )
        self.gates = nn.ModuleList(nn.Linear(width, 4) for _ in targets)
        self.towers = nn.ModuleList(
            MLP_Block(input_dim=64, hidden_units=[32], output_dim=1, dropout_rates=dropout)
            for _ in targets
        )
        self.compile("adam", "binary_crossentropy", rate)
        self.reset_parameters()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        x = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        expert_outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
        predictions = {}
        for target, gate, tower, activation in zip(
            self.feature_map.labels, self.gates, self.towers, self.output_activation, strict=True
        ):
            mixed = (torch.softmax(gate(x), dim=1).unsqueeze(2) * expert_outputs).sum(dim=1)
            predictions[f"{target}_pred"] = activation(tower(mixed))
        return predictions


class Loader:
    """Batches as FuxiCTR takes them: a tensor for each column and target."""

    def __init__(
        self,
        matrix: np.ndarray,
        label: np.ndarray,
        layout: dict[str, Any],
        targets: list[str],
        shuffle: bool,
    ) -> None:
        self._tensors = {
            f"c{place}": torch.from_numpy(matrix[:, place].copy()) for place in layout["numbers"]
        }
        self._tensors |= {
            f"c{place}": torch.from_numpy(matrix[:, int(place)].astype(np.int64))
            for place in layout["codes"]
        }
        self._tensors[f"c{layout['item'][0]}"] = torch.from_numpy(
            matrix[:, layout["item"][0]].astype(np.int64)
        )
        self._tensors[RECENT] = torch.from_numpy(matrix[:, layout["recent"]].astype(np.int64))
        places = [layout["targets"].index(target) for target in targets]
        self._tensors |= {
            target: torch.from_numpy(label[:, place].copy())
            for target, place in zip(targets, places, strict=True)
        }
        self._rows, self._shuffle = len(matrix), shuffle

    def __len__(self) -> int:
        return -(-self._rows // BATCH)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(self._rows) if self._shuffle else torch.arange(self._rows)
        for rows in order.split(BATCH):
            yield {name: tensor[rows] for name, tensor in self._tensors.items()}


def feature_map(layout: dict[str, Any], targets: list[str], folder: str) -> FeatureMap:
    """Return FuxiCTR's description of the columns."""
    columns = FeatureMap("rows", folder)
    columns.labels, columns.default_emb_dim = targets, WIDTH
    for place in layout["numbers"]:
        columns.features[f"c{place}"] = {"source": "", "type": "numeric"}
    item, size = layout["item"]
    for place, vocabulary_size in {**layout["codes"], str(item): size}.items():
        columns.features[f"c{place}"] = {
            "source": "",
            "type": "categorical",
            "vocab_size": vocabulary_size,
            "padding_idx": 0,
        }
    columns.features[RECENT] = {
        "source": "",
        "type": "sequence",
        "vocab_size": size,
        "padding_idx": 0,
        "max_len": len(layout["recent"]),
        "feature_encoder": "layers.MaskedAveragePooling()",
        "share_embedding": f"c{item}",
    }
    columns.num_fields = len(columns.features)
    columns.set_column_index()
    return columns


def fit_and_predict(
    rows: dict[str, np.ndarray], layout: dict[str, Any], targets: list[str], job: dict[str, Any]
) -> tuple[np.ndarray, float, float]:
    """Fit a model; return predictions of the test part (n, targets), fit and predict seconds."""
    torch.manual_seed(job["seed"])
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        columns = feature_map(layout, targets, folder)
        options = {
            "metrics": ["logloss", "AUC"],
            "monitor": "AUC",
            "verbose": 0,
            "model_root": folder,
        }
        model = (Mmoe if job["model"] == "mmoe" else Dcn)(columns, **job["variant"], **options)
        Path(model.checkpoint).parent.mkdir(parents=True, exist_ok=True)
        train, validation, test = (
            Loader(rows[f"{part}_matrix"], rows[f"{part}_label"], layout, targets, part == "train")
            for part in ("train", "held", "test")
        )
        model.fit(train, epochs=job.get("epochs", EPOCHS), validation_data=validation)
        learned = time.process_time()
        model.eval()
        with torch.no_grad():
            predictions = [model(batch) for batch in test]
        keys = [f"{target}_pred" for target in targets] if job["model"] == "mmoe" else ["y_pred"]
        scores = np.concatenate(
            [
                np.stack([prediction[key].numpy().ravel() for key in keys], axis=1)
                for prediction in predictions
            ]
        )
        return scores, learned - started, time.process_time() - learned


def main(folder: Path) -> None:
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    layout, rows = (
        json.loads((folder / "layout.json").read_text()),
        dict(np.load(folder / "rows.npz")),
    )
    numbers = layout["numbers"]
    train_numbers = np.where(
        np.isfinite(rows["train_matrix"][:, numbers]), rows["train_matrix"][:, numbers], np.nan
    )
    centre, scale = (
        np.nanmean(train_numbers, axis=0),
        np.maximum(np.nanstd(train_numbers, axis=0), 1e-6),
    )
    for part in ("train", "held", "test"):
        matrix = rows[f"{part}_matrix"]
        matrix[:, numbers] = np.nan_to_num((matrix[:, numbers] - centre) / scale)
    for job in json.loads((folder / "jobs.json").read_text()):
        groups = (
            [layout["targets"]]
            if job["model"] == "mmoe"
            else [[target] for target in layout["targets"]]
        )
        parts = [fit_and_predict(rows, layout, targets, job) for targets in groups]
        scores, fit_seconds, predict_seconds = (list(each) for each in zip(*parts, strict=True))
        np.savez(
            folder / f"{job['out']}.npz",
            said=np.concatenate(scores, axis=1),
            seconds_fit=sum(fit_seconds),
            seconds_ask=sum(predict_seconds),
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
