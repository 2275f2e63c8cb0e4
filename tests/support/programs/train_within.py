"""A process that trains a net with little more memory than it has: python -m
tests.support.programs.train_within FOLDER BYTES files|memory.
"""

import hashlib
import resource
import sys
from pathlib import Path

import numpy as np

from tailorbird.models.deep.checkpoint import copy_weights
from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.model import DeepModel, fit_deep
from tailorbird.models.deep.parameters import resolve_parameters
from tailorbird.models.deep.rows import Blocks, PartRows, Rows

COLUMNS = 16
LAYOUT = Layout(tuple(f"c{place}" for place in range(COLUMNS)), tuple(range(COLUMNS)), {})
PARAMETERS = {"hidden": [8], "epochs": 1, "batch": 8_192, "threads": 1, "rate": 1e-2}


def make_rows(rows: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((rows, COLUMNS), np.float32)
    return Rows(matrix, {"click": (matrix[:, 0] > rng.standard_normal(rows)).astype(np.float32)})


def load_all(rows: PartRows) -> Rows:
    """All of it in memory, in the same blocks."""
    blocks = [rows.block(block_number) for block_number in range(len(rows.sizes))]
    matrix, label = (
        np.concatenate([getattr(block, name) for block in blocks]) for name in ("matrix", "labels")
    )
    return Rows(matrix, {"click": label[:, 0]}, block_rows=rows.sizes[0])


def fit_net(rows: Blocks) -> DeepModel:
    return fit_deep(
        "mlp", resolve_parameters("mlp", PARAMETERS), LAYOUT, rows, make_rows(2_000, 99), seed=3
    )


def digest(model: DeepModel) -> str:
    return hashlib.sha256(
        b"".join(array.tobytes() for _, array in sorted(copy_weights(model.net).items()))
    ).hexdigest()


def allow_more(extra_bytes: int) -> None:
    """Let this process take so many bytes more than it has, files that it maps not counted."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    bytes_max = int(status["VmData"].split()[0]) * 1024 + extra_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (bytes_max, bytes_max))


if __name__ == "__main__":
    fit_net(make_rows(10_000, 98))  # what torch takes once
    allow_more(int(sys.argv[2]))
    parts = PartRows.open(Path(sys.argv[1]))
    sys.stdout.write(digest(fit_net(parts if sys.argv[3] == "files" else load_all(parts))))
