"""A churn bundle: everything that says of a person how likely they are to leave, loaded as one thing.

    manifest.json, manifest.sha256    see `registry.manifest`; its heads are the models, its columns those that are read
    features.json                     the declarations that its columns are made by
    churn.json                        `ChurnPlan`: when a person counts as gone, when columns are read, how models are put together
    encoder.json, calibration.json    as in `ranking.bundle`; the calibration's one head is `gone`
    model/NAME.onnx                   as there
    golden_input.npy, golden_raw.npy  as there

    bundle = ChurnBundle.load(folder, schema_hash=…)
    rows = [columns of people at t for t in bundle.moments(now)]      # what is known now, read at now and later
    answer = bundle.score(rows)                                       # answer.gone, answer.purchases

A server and a batch read the columns in their own way; both score by this. What is declared stands in `ranking.churn`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from tailorbird.errors import BundleError
from tailorbird.events.clock import DAY
from tailorbird.features import FeatureSet
from tailorbird.features.codec import FILE as DECLARED
from tailorbird.features.codec import encode_features
from tailorbird.ranking.bg_nbd import BgNbdColumns
from tailorbird.ranking.bundle import GOLDEN_ABSOLUTE, GOLDEN_RELATIVE, GOLDEN_ROWS, declared_in, open_session, run_heads
from tailorbird.ranking.calibration import Calibration
from tailorbird.ranking.encoders import Encoder, Keys, Matrix, read_encoder
from tailorbird.registry import Columns, Head, Manifest, Window, read_sealed, seal
from tailorbird.retrieval.arrays import read_array, write_array
from tailorbird.version import __version__

Floats = npt.NDArray[np.float64]

GONE = "gone"
_EDGE = 1e-6


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model. `kind`: `direct` gives P(active in the window), `hazard` P(active in the next period), `count` expected purchases."""

    head: str
    kind: Literal["direct", "hazard", "count"]


class ChurnPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an answer is made; `churn.json` of the bundle. Times in microseconds.

    Attributes:
        types, window, gap, active: as declared; active 0 is ever.
        period, periods: of the hazard.
        read_until: no columns are read later: the models never saw anything forgotten, see `training.churn.walk.read_until`.
        parts: the models; P(gone) is the mean of their log-odds, before calibration.
        scale: of the expected purchases.
        bg_nbd: another expectation of purchases, of which the mean with the model's is taken; None without.
    """

    name: str
    types: tuple[str, ...]
    window: int
    gap: int
    active: int
    period: int
    periods: int
    read_until: int
    parts: tuple[Part, ...]
    scale: float = 1.0
    bg_nbd: BgNbdColumns | None = None

    @property
    def hazards(self) -> bool:
        return any(part.kind == "hazard" for part in self.parts)

    def moments(self, now: int) -> list[int]:
        """When columns are read, with what is known now: now, and at the beginning of each period of the window."""
        starts = [now + self.gap + k * self.period for k in range(self.periods)] if self.hazards else []
        return [now, *(max(min(start, self.read_until), now) for start in starts)]


@dataclass(frozen=True)
class ChurnScores:
    """What a bundle says of n people: P(gone), and expected purchases within the window, NaN where it has no such model."""

    gone: Floats
    purchases: Floats


@dataclass(frozen=True)
class ChurnBundle:
    """A loaded bundle. Its methods are pure, and may be called from several threads at once."""

    manifest: Manifest
    plan: ChurnPlan
    encoder: Encoder
    calibration: Calibration
    sessions: Mapping[str, ort.InferenceSession]
    features: FeatureSet | None

    @classmethod
    def load(cls, path: Path, *, schema_hash: str | None) -> "ChurnBundle":
        """Read, check and warm up a bundle.

        Args:
            schema_hash: of the feature set that its columns will come from; None to take any, for looking at a bundle.
        Raises:
            BundleError: it is none, or does not match its manifest, the schema, or its own golden rows.
        """
        sealed = read_sealed(path)
        manifest, files, where = sealed.manifest, sealed.files, str(path)
        if schema_hash is not None and manifest.schema_hash != schema_hash:
            message = f"was trained on the features {manifest.schema_hash}, not on {schema_hash}"
            raise BundleError(message, where=where, fix="tailorbird train with the name that churn.py declares")
        try:
            plan = msgspec.json.decode(files["churn.json"], type=ChurnPlan)
            encoder = read_encoder(files["encoder.json"], where=where)
            calibration = msgspec.json.decode(files["calibration.json"], type=dict[str, Calibration])[GONE]
            models = {head.file: files[head.file] for head in manifest.heads}
            golden = read_array(files["golden_input.npy"]), read_array(files["golden_raw.npy"])
        except KeyError as error:
            raise BundleError(f"{error.args[0]} is missing", where=where) from error
        except (ValueError, msgspec.DecodeError) as error:
            raise BundleError(f"cannot be read: {error}", where=where) from error
        if encoder.columns != manifest.columns or {part.head for part in plan.parts} != {head.name for head in manifest.heads}:
            raise BundleError("its parts do not belong together", where=where)
        sessions = {name: open_session(data, width=len(encoder.names), where=f"{path}/{name}") for name, data in models.items()}
        bundle = cls(manifest, plan, encoder, calibration, sessions, declared_in(files, manifest.schema_hash, where=f"{path}/{DECLARED}"))
        bundle._check_golden(*golden, where=where)
        return bundle

    @property
    def version(self) -> str:
        """As the registry numbers it."""
        return self.manifest.version

    @property
    def columns(self) -> Columns:
        """The feature columns that it reads, in this order."""
        return self.manifest.columns

    def moments(self, now: int) -> list[int]:
        """When the columns are read, see `ChurnPlan.moments`."""
        return self.plan.moments(now)

    def score(self, rows: Sequence[tuple[Matrix, Keys]]) -> ChurnScores:
        """Score people.

        Args:
            rows: for each of `moments`, the numeric (n, F) and categorical (n, C) columns of the same n people.
        """
        now, later = rows[0], rows[1:]
        raw = self._raw(now)
        logs = {part.head: np.zeros(len(now[0])) for part in self.plan.parts if part.kind == "hazard"}
        for each in later:
            told = self._raw(each)
            for head in logs:
                logs[head] += np.log1p(-np.minimum(told[head], 1 - _EDGE))
        gone = [1 - raw[part.head] for part in self.plan.parts if part.kind == "direct"] + [np.exp(each) for each in logs.values()]
        counts = [raw[part.head] for part in self.plan.parts if part.kind == "count"]
        if counts and self.plan.bg_nbd is not None:
            start, stop = self.plan.gap / DAY, (self.plan.gap + self.plan.window) / DAY
            counts.append(self.plan.bg_nbd.purchases(self.encoder.encode_people(*now), start, stop))
        purchases = np.mean(counts, axis=0) * self.plan.scale if counts else np.full(len(now[0]), np.nan)
        return ChurnScores(self.calibration.apply(together(gone)), purchases)

    def _raw(self, rows: tuple[Matrix, Keys]) -> dict[str, Floats]:
        raw = run_heads(self.sessions, self.manifest.heads, self.encoder.encode_people(*rows))
        for name, column in raw.items():
            if not np.isfinite(column).all():
                raise BundleError(f"head {name} gave a value that is no finite number", where=self.version, fix="train again")
        return raw

    def _check_golden(self, matrix: Matrix, expected: Floats, *, where: str) -> None:
        if matrix.ndim != 2 or matrix.shape[1] != len(self.encoder.names) or expected.shape != (len(matrix), len(self.manifest.heads)):
            raise BundleError("its golden rows have another shape than its models", where=where)
        raw = np.column_stack(list(run_heads(self.sessions, self.manifest.heads, matrix).values()))
        if not len(raw) or not np.allclose(raw, expected, rtol=GOLDEN_RELATIVE, atol=GOLDEN_ABSOLUTE):
            raise BundleError("its models answer its golden rows differently here", where=where, fix="train again")


def together(gone: Sequence[Floats]) -> Floats:
    """The mean of probabilities in log-odds; of one, itself."""
    if len(gone) == 1:
        return gone[0]
    clipped = [np.clip(each, _EDGE, 1 - _EDGE) for each in gone]
    return 1.0 / (1.0 + np.exp(-np.mean([np.log(p) - np.log1p(-p) for p in clipped], axis=0)))


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
) -> Manifest:
    """Write a sealed bundle into a new folder, ready for `Registry.add`.

    Args:
        models: head → ONNX bytes, those of the plan's parts.
        golden: rows of the matrix, of which some are kept to be scored again at each load.
    """
    (folder / "model").mkdir(parents=True)
    heads = [
        Head(part.head, f"model/{part.head}.onnx", calibration=calibration.name if part.kind != "count" else "none") for part in plan.parts
    ]
    for head in heads:
        (folder / head.file).write_bytes(models[head.name])
    (folder / DECLARED).write_bytes(encode_features(features))
    (folder / "churn.json").write_bytes(msgspec.json.encode(plan))
    (folder / "encoder.json").write_bytes(msgspec.json.encode(encoder))
    (folder / "calibration.json").write_bytes(msgspec.json.encode({GONE: calibration}))
    sessions = {head.file: open_session(models[head.name], width=len(encoder.names), where=head.file) for head in heads}
    kept = np.unique(np.linspace(0, len(golden) - 1, GOLDEN_ROWS).astype(np.intp))
    rows = np.ascontiguousarray(golden[kept], np.float32)
    write_array(folder / "golden_input.npy", rows)
    write_array(folder / "golden_raw.npy", np.column_stack(list(run_heads(sessions, heads, rows).values())))
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
