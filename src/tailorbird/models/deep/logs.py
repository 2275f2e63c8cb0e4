"""Metrics of a training by epoch, for TensorBoard and MLflow.

    record    length u64 | its checksum u32 | an Event | its checksum u32
    Event     1: wall time f64   2: step i64   3: file version   5: Summary
    Summary   1: Value { 1: tag  2: value f32 } …

The format is TensorFlow's record of `Event` messages; the checksum is CRC-32C, rotated and offset.
It needs no package.
"""

import importlib
import struct
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tailorbird.errors import StorageError


class EventLog:
    """A file of scalars in its own folder: `tensorboard --logdir FOLDER`.

    Args:
        folder: created if needed; one file is added.
        now: seconds since 1970.
    """

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._now = now
        self.path = folder / f"events.out.tfevents.{int(now()):010}.tailorbird"
        self._append(_encode_field(3, b"brain.Event:2"))

    def append_scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a value for each tag."""
        values = (
            _encode_field(1, _encode_field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
            for tag, value in metrics.items()
        )
        self._append(b"\x10" + _encode_varint(step) + _encode_field(5, b"".join(values)))

    def _append(self, payload: bytes) -> None:
        event = b"\x09" + struct.pack("<d", self._now()) + payload
        length = struct.pack("<Q", len(event))
        with self.path.open("ab") as file:
            file.write(length + _compute_checksum(length) + event + _compute_checksum(event))


def group_tags(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return tags that show training and validation of a head in one chart.

    `train_click` becomes `click/train`.
    """
    tags: dict[str, float] = {}
    for name, value in metrics.items():
        part, _, head = name.partition("_")
        tags[f"{head or 'loss'}/{part}" if part in ("train", "validation") else name] = value
    return tags


def log_to_mlflow(
    name: str, parameters: Mapping[str, Any], curve: Mapping[str, list[float]], tracking_uri: str
) -> str | None:
    """Log a training as an MLflow run and return its id, or None without `mlflow`.

    Args:
        tracking_uri: MLflow's tracking URI.

    Raises:
        StorageError: MLflow rejected it or is not reachable.
    """
    if find_spec("mlflow") is None:
        return None
    mlflow: Any = importlib.import_module("mlflow")
    try:
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_experiment("tailorbird")
        with mlflow.start_run(run_name=name) as run:
            mlflow.log_params(dict(parameters))
            for metric, series in curve.items():
                for epoch, value in enumerate(series, 1):
                    mlflow.log_metric(metric, value, step=epoch)
            return str(run.info.run_id)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise StorageError(
            f"MLflow did not take the training: {reason}",
            where=tracking_uri,
            fix="look at MLFLOW_TRACKING_URI",
        ) from error


def _encode_field(field_number: int, data: bytes) -> bytes:
    return bytes([field_number << 3 | 2]) + _encode_varint(len(data)) + data


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _compute_checksum(data: bytes) -> bytes:
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@lru_cache(maxsize=1)
def _crc_table() -> tuple[int, ...]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ 0x82F63B78 if value & 1 else value >> 1
        entries.append(value)
    return tuple(entries)
