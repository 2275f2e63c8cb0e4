"""Checkpoints of a training: plain arrays in one file, replaced atomically. Never pickle.

    w/NAME          weights and buffers of the net
    o/INDEX/NAME    optimiser state of a parameter
    b/NAME          the best weights so far
    c/NAME, best    metrics by epoch and best losses; JSON has no NaN and ∞
    meta            JSON: digest of the training, next epoch and step

Random generators need no state: every batch, dropout mask and drawn negative is a function of seed,
epoch and step.
"""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tailorbird.errors import DamageError

Arrays = dict[str, npt.NDArray]

CHECKPOINT_FILE = "checkpoint.npz"


class TrainingState(msgspec.Struct, forbid_unknown_fields=True):
    """The state of a training run.

    Attributes:
        digest: of everything that determines the result: data, parameters, seed, heads.
        epoch, step: the next ones.
        best: best validation loss of each group of weights (each head, or all together).
        best_epoch: the epochs of these losses.
        stale: epochs since the last improvement of any group.
        curve: name → value by epoch.
        ended: whether training is complete.
    """

    digest: str
    epoch: int = 0
    step: int = 0
    best: list[float] = []
    best_epoch: list[int] = []
    stale: int = 0
    curve: dict[str, list[float]] = {}
    ended: bool = False


def copy_weights(net: nn.Module) -> Arrays:
    """Return copies of weights and buffers as arrays."""
    return {name: value.detach().cpu().numpy().copy() for name, value in net.state_dict().items()}


def load_weights(net: nn.Module, arrays: Mapping[str, npt.NDArray]) -> None:
    """Load weights into a net; names and shapes must match."""
    net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})


def save_checkpoint(
    folder: Path,
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    best_weights: Arrays,
    state: TrainingState,
) -> None:
    """Write the checkpoint of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: Arrays = {f"w/{name}": value for name, value in copy_weights(net).items()} | {
        f"b/{name}": value for name, value in best_weights.items()
    }
    for index, parameter_state in optimiser.state_dict()["state"].items():
        arrays |= {
            f"o/{index}/{name}": torch.as_tensor(value).cpu().numpy()
            for name, value in parameter_state.items()
        }
    arrays |= {f"c/{name}": np.array(series) for name, series in state.curve.items()} | {
        "best": np.array(state.best)
    }
    arrays["meta"] = np.frombuffer(
        msgspec.json.encode(msgspec.structs.replace(state, curve={}, best=[])), np.uint8
    )
    temporary_path = folder / f"{CHECKPOINT_FILE}.part"
    with temporary_path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    temporary_path.rename(folder / CHECKPOINT_FILE)


def load_checkpoint(
    folder: Path, net: nn.Module, optimiser: torch.optim.Optimizer, digest: str
) -> tuple[TrainingState, Arrays] | None:
    """Restore the checkpoint of a folder, or return None without one for this digest.

    Raises:
        DamageError: the file cannot be read.
    """
    try:
        with np.load(folder / CHECKPOINT_FILE, allow_pickle=False) as archive:
            arrays: dict[str, Any] = dict(archive)
        state = msgspec.json.decode(arrays.pop("meta").tobytes(), type=TrainingState)
        state.best = arrays.pop("best").tolist()
        state.curve = {
            name: series.tolist() for name, series in _select_prefix(arrays, "c/").items()
        }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.DecodeError) as error:
        raise DamageError(
            f"cannot be read: {error}",
            where=str(folder / CHECKPOINT_FILE),
            fix="remove it: training begins anew",
        ) from error
    if state.digest != digest:
        return None
    load_weights(net, _select_prefix(arrays, "w/"))
    optimiser_state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in _select_prefix(arrays, "o/").items():
        parameter_index, _, state_name = name.partition("/")
        optimiser_state.setdefault(int(parameter_index), {})[state_name] = torch.from_numpy(
            np.array(value)
        )
    optimiser.load_state_dict(
        {"state": optimiser_state, "param_groups": optimiser.state_dict()["param_groups"]}
    )
    return state, _select_prefix(arrays, "b/")


def _select_prefix(arrays: Mapping[str, npt.NDArray], prefix: str) -> Arrays:
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
