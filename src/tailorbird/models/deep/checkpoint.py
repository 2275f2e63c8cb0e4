"""What a run that is killed goes on from: plain arrays in one file, renamed into place after it was
synced. Never pickle.

    w/NAME       weights and buffers of the net           o/PLACE/NAME   the optimiser's state of a parameter
    b/NAME       the best weights so far                  c/NAME, best   figures by epoch, and the best losses: NaN and ∞ are no JSON
    meta         JSON: the digest of what decides the result, next epoch and step

Draws need no generator's state: every batch, dropout mask and drawn negative is a function of seed,
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

FILE = "checkpoint.npz"


class Position(msgspec.Struct, forbid_unknown_fields=True):
    """Where a run is, and what it has found.

    Attributes:
        digest: of what decides the result: data, parameters, seed, heads. epoch, step: the next
        ones.
        best: validation loss of each group of weights (each head apart, or all together);
            `best_epoch` beside.
        stale: epochs since the last of them became better.
        curve: name → value by epoch.
        ended: whether nothing is left to do.
    """

    digest: str
    epoch: int = 0
    step: int = 0
    best: list[float] = []
    best_epoch: list[int] = []
    stale: int = 0
    curve: dict[str, list[float]] = {}
    ended: bool = False


def weights(net: nn.Module) -> Arrays:
    """Weights and buffers as arrays of their own."""
    return {name: value.detach().cpu().numpy().copy() for name, value in net.state_dict().items()}


def load_weights(net: nn.Module, arrays: Mapping[str, npt.NDArray]) -> None:
    """Put them back; names and shapes must be the same."""
    net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})


def save(
    folder: Path, net: nn.Module, optimiser: torch.optim.Optimizer, best: Arrays, position: Position
) -> None:
    """Write the one file of a folder anew."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: Arrays = {f"w/{name}": value for name, value in weights(net).items()} | {
        f"b/{name}": value for name, value in best.items()
    }
    for place, state in optimiser.state_dict()["state"].items():
        arrays |= {
            f"o/{place}/{name}": torch.as_tensor(value).cpu().numpy()
            for name, value in state.items()
        }
    arrays |= {f"c/{name}": np.array(series) for name, series in position.curve.items()} | {
        "best": np.array(position.best)
    }
    arrays["meta"] = np.frombuffer(
        msgspec.json.encode(msgspec.structs.replace(position, curve={}, best=[])), np.uint8
    )
    part = folder / f"{FILE}.part"
    with part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    part.rename(folder / FILE)


def load(
    folder: Path, net: nn.Module, optimiser: torch.optim.Optimizer, digest: str
) -> tuple[Position, Arrays] | None:
    """Go on from the file of a folder: None where there is none, or it belongs to other data or
    parameters.

    Raises:
        DamageError: the file cannot be read.
    """
    try:
        with np.load(folder / FILE, allow_pickle=False) as held:
            arrays: dict[str, Any] = dict(held)
        position = msgspec.json.decode(arrays.pop("meta").tobytes(), type=Position)
        position.best = arrays.pop("best").tolist()
        position.curve = {name: series.tolist() for name, series in _below(arrays, "c/").items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.DecodeError) as error:
        raise DamageError(
            f"cannot be read: {error}",
            where=str(folder / FILE),
            fix="remove it: training begins anew",
        ) from error
    if position.digest != digest:
        return None
    load_weights(net, _below(arrays, "w/"))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in _below(arrays, "o/").items():
        place, _, part = name.partition("/")
        state.setdefault(int(place), {})[part] = torch.from_numpy(np.array(value))
    optimiser.load_state_dict(
        {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
    )
    return position, _below(arrays, "b/")


def _below(arrays: Mapping[str, npt.NDArray], prefix: str) -> Arrays:
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
