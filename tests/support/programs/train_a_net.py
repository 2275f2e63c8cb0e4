"""A process that trains a net with checkpoints, to be killed: python -m
tests.support.programs.train_a_net FOLDER.
"""

import sys
from pathlib import Path

from tests.support.nets import LAYOUT

from tailorbird.models.deep.loop import RunOptions
from tailorbird.models.deep.model import DeepModel, fit_deep
from tailorbird.models.deep.parameters import resolve_parameters
from tailorbird.models.deep.rows import PartRows

PARAMETERS = {
    "hidden": [16, 8],
    "epochs": 4,
    "batch": 64,
    "threads": 1,
    "patience": 3,
    "negative_share": 0.6,
    "unknown_share": 0.1,
}


def fit(folder: Path, checkpoint: Path | None, architecture: str = "dcn") -> DeepModel:
    rows, validation_rows = PartRows.open(folder / "rows"), PartRows.open(folder / "watched")
    run_options = RunOptions(checkpoint=checkpoint, checkpoint_steps=7)
    return fit_deep(
        architecture,
        resolve_parameters(architecture, PARAMETERS),
        LAYOUT,
        rows,
        validation_rows,
        seed=5,
        run_options=run_options,
    )


if __name__ == "__main__":
    fit(Path(sys.argv[1]), Path(sys.argv[1]) / "checkpoint")
