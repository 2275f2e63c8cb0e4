"""A process that trains a net with two more, to be killed: python -m
tests.support.programs.train_in_processes FOLDER.
"""

import sys
from pathlib import Path

from tests.support.nets import LAYOUT
from tests.support.programs.train_a_net import PARAMETERS

from tailorbird.models.deep.model import DeepModel
from tailorbird.models.deep.parallel import fit_parallel
from tailorbird.models.deep.rows import PartRows

RUN_FOLDER = "processes"


def fit(folder: Path, run: str = RUN_FOLDER, count: int = 2) -> DeepModel:
    rows, validation_rows = PartRows.open(folder / "rows"), PartRows.open(folder / "watched")
    parameters = {**PARAMETERS, "epochs": 3, "shards": 2}
    return fit_parallel(
        folder=folder / run,
        architecture="mmoe",
        parameters=parameters,
        layout=LAYOUT,
        rows=rows,
        validation=validation_rows,
        seed=3,
        processes=count,
        checkpoint_steps=7,
    )


if __name__ == "__main__":
    fit(Path(sys.argv[1]))
