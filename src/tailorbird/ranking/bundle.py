"""A bundle: everything that turns features into values, loaded and swapped as one unit.

    manifest.json, manifest.sha256    see `registry.manifest`
    features.json                     the feature declarations, see `features.codec`
    encoder.json                      see `ranking.encode.encoder`
    calibration.json                  head → table, see `ranking.calibration`
    model/NAME.onnx                   one input (n, D) float32; tensors inside
    model/NAME.own                    in its place: a project's own model, see `ranking.own_models`
    trees/HEAD.msgpack                forests, for explanations, see `ranking.tree_shap`; optional
    golden_input.npy, golden_raw.npy  matrix rows, and the heads' outputs at the time of writing
    index/…                           see `retrieval.index`
    tower/…                           see `ranking.tower`; not in every bundle
    sketches.parquet                  histograms of the training rows, see `training.sketches`

`Bundle.load` uses the very bytes that it verified. `ranking.policy.policy` turns values into a
slate.

A bundle without heads holds an index for search, or names a baseline that orders items until a
model is better. Interaction data is in no bundle: it names the candidate sources that it reads,
whose tables are live.
"""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from tailorbird.candidates.contract import build_contract
from tailorbird.errors import BundleError, DamageError, DeclarationError
from tailorbird.features import FeatureSet
from tailorbird.features.codec import FEATURES_FILE, decode_features, encode_features
from tailorbird.ranking.baseline import Baseline
from tailorbird.ranking.calibration import Calibration, Identity
from tailorbird.ranking.encode.encoder import Encoder, Keys
from tailorbird.ranking.encode.encoder_file import read_encoder
from tailorbird.ranking.encode.rows import Matrix, RowsLike
from tailorbird.ranking.head_sessions import Session, open_session, run_heads
from tailorbird.ranking.policy.formula import compute_value
from tailorbird.ranking.tower import FOLDER as TOWER_FOLDER
from tailorbird.ranking.tower import Space, Tower, UserQuery
from tailorbird.ranking.tower_net import read_tower
from tailorbird.ranking.tree_shap import Trees
from tailorbird.ranking.trees import read_trees, write_trees
from tailorbird.registry import ColumnNames, Head, Manifest, SealedBundle
from tailorbird.registry.manifest import TrainingWindow, read_sealed, seal
from tailorbird.retrieval import Index
from tailorbird.retrieval.arrays import read_array, write_array
from tailorbird.version import __version__

Floats = npt.NDArray[np.float64]

CARD_FILE = "card.md"
CALIBRATION_FILE = "calibration.json"
SKETCHES_FILE = "sketches.parquet"  # of bundles that a training wrote
GOLDEN_ROWS = 32
GOLDEN_RTOL = 1e-5
GOLDEN_ATOL = 1e-6


class NotFiniteError(BundleError):
    """A model returned a value that is not a finite number."""


@dataclass(frozen=True)
class Scores:
    """The scores of n items.

    Attributes:
        heads: target → calibrated probability (n,).
        value: (n,): the objective's value, by which they are ranked.
    """

    heads: Mapping[str, Floats]
    value: Floats


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Its methods are pure and safe to call from several threads.
    """

    manifest: Manifest
    encoder: Encoder
    calibration: Mapping[str, Calibration]
    index: Index
    sessions: Mapping[str, Session]
    features: FeatureSet | None = None  # None: it was written before bundles had them
    trees: Mapping[str, Trees] = field(default_factory=dict)  # of heads that are forests
    tower: Tower | None = None

    @classmethod
    def load(cls, path: Path, *, schema_hash: str | None = None) -> "Bundle":
        """Load, verify and warm up a bundle.

        Args:
            path: its folder, such as `Registry.champion_folder()`.
            schema_hash: of the feature set that its rows will come from; None to take any, for
                looking at a bundle.
        Raises:
            BundleError: it does not match its manifest, the schema, or its own golden rows.
        """
        return cls.read(read_sealed(path, maps_arrays=True), schema_hash=schema_hash)

    @classmethod
    def read(
        cls,
        sealed: SealedBundle,
        *,
        schema_hash: str | None,
        has_index: bool = True,
        fix: str = "tailorbird train",
    ) -> "Bundle":
        """Read and warm up a verified bundle; see `load`.

        Args:
            has_index: False for a bundle without items, such as one of churn; its tower is left to
                the caller.
            fix: the remedy for a bundle of other features.
        """
        path = sealed.path
        manifest = sealed.manifest
        files = sealed.files
        if schema_hash is not None and manifest.schema_hash != schema_hash:
            message = f"was trained on the features {manifest.schema_hash}, not on {schema_hash}"
            raise BundleError(message, where=str(path), fix=fix)
        try:
            encoder = read_encoder(bytes(files["encoder.json"]), where=str(path))
            calibration = msgspec.json.decode(files[CALIBRATION_FILE], type=dict[str, Calibration])
            model_data_by_file = {head.file: files[head.file] for head in manifest.heads}
            golden = read_array(files["golden_input.npy"]), read_array(files["golden_raw.npy"])
        except KeyError as error:
            raise BundleError(f"{error.args[0]} is missing", where=str(path)) from error
        except (ValueError, msgspec.DecodeError) as error:
            raise BundleError(f"cannot be read: {error}", where=str(path)) from error
        try:
            build_contract(manifest.sources)
            if manifest.baseline:
                Baseline.parse(manifest.baseline)
            features = None
            if FEATURES_FILE in files:
                features = decode_features(
                    bytes(files[FEATURES_FILE]),
                    where=f"{path}/{FEATURES_FILE}",
                    expected_hash=manifest.schema_hash,
                )
        except (DamageError, DeclarationError) as error:
            raise BundleError(error.message, where=str(path), fix="tailorbird train") from error
        if encoder.columns != manifest.columns:
            raise BundleError(
                "its encoder was made for other columns than the manifest names", where=str(path)
            )
        sessions = {
            name: open_session(bytes(data), width=len(encoder.names), where=f"{path}/{name}")
            for name, data in model_data_by_file.items()
        }
        trees = read_trees(files, manifest.heads, len(encoder.names), golden, where=str(path))
        index = Index.from_ids(())
        tower = None
        if has_index:
            index = Index.load(sealed.folder("index"))
            tower = read_tower(
                sealed.folder(TOWER_FOLDER), index.vectors, where=f"{path}/{TOWER_FOLDER}"
            )
        bundle = cls(manifest, encoder, calibration, index, sessions, features, trees, tower)
        bundle._check_golden(*golden, where=str(path))
        encoder.warm_up()
        return bundle

    @property
    def version(self) -> str:
        """The version that the registry assigned."""
        return self.manifest.version

    @property
    def schema_hash(self) -> str:
        """The schema hash of the feature set that it was trained on."""
        return self.manifest.schema_hash

    @property
    def columns(self) -> ColumnNames:
        """The feature columns that it reads."""
        return self.manifest.columns

    @property
    def heads(self) -> tuple[str, ...]:
        """The targets that it predicts."""
        return tuple(head.name for head in self.manifest.heads)

    def with_index(self, index: Index) -> "Bundle":
        """Return the bundle with an index that has more items."""
        return dataclasses.replace(self, index=index)

    def without_tower(self) -> "Bundle":
        """Return the bundle without its tower: its vector columns are missing."""
        return dataclasses.replace(self, tower=None)

    @property
    def space(self) -> Space | None:
        """The vector space of users and items, or None."""
        return (
            Space(self.tower, self.index)
            if self.tower is not None and self.index.vectors is not None
            else None
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The candidate sources whose tables it reads."""
        return self.manifest.sources

    @property
    def baseline(self) -> str:
        """The baseline that orders items where it has no heads, or ""."""
        return self.manifest.baseline

    def score(
        self,
        rows: RowsLike,
        item_keys: Keys,
        *,
        objective: Mapping[str, float] | None = None,
        user_query: UserQuery | None = None,
        live_columns: Matrix | None = None,
    ) -> Scores:
        """Score one request's items.

        Args:
            rows: the features of n items.
            item_keys: uint64 (n,).
            objective: head → weight, as a slot has it; the manifest's formula by default.
            user_query: the user's query, if retrieval made it; recomputed if it is of another
                sequence than the rows hold.
            live_columns: their columns of `encoder.live_columns`; missing without them.
        Raises:
            NotFiniteError: the model gave something that is no number; serve with the previous
                bundle.
        """
        matrix = self.encoder.encode_request(
            rows, item_keys, self.index, self.space, user_query, live_columns
        )
        return self.score_matrix(matrix, objective=objective)

    def score_matrix(
        self, matrix: Matrix, *, objective: Mapping[str, float] | None = None
    ) -> Scores:
        """Score encoded rows of any number of requests, for evaluation and verification."""
        raw_scores_by_head = self.raw_scores(matrix)
        heads = {
            name: self.calibration.get(name, Identity()).apply(column)
            for name, column in raw_scores_by_head.items()
        }
        return Scores(
            heads, compute_value(heads, objective or self.manifest.formula or {self.heads[0]: 1.0})
        )

    def raw_scores(self, matrix: Matrix) -> dict[str, Floats]:
        """Return the raw model outputs before calibration: target → (n,)."""
        forest_files = {head.file for head in self.manifest.heads if head.name in self.trees}
        scores_by_head = run_heads(self.sessions, self.manifest.heads, matrix, forest_files)
        for name, column in scores_by_head.items():
            if not np.isfinite(column).all():
                raise NotFiniteError(
                    f"head {name} gave a value that is no finite number",
                    where=self.version,
                    fix="tailorbird models rollback",
                )
        return scores_by_head

    def _check_golden(self, matrix: Matrix, expected: Floats, *, where: str) -> None:
        if not self.heads:
            return
        if matrix.dtype != np.float32 or expected.dtype != np.float64:
            raise BundleError(
                "its golden rows have other types of numbers than its model", where=where
            )
        if (
            matrix.ndim != 2
            or matrix.shape[1] != len(self.encoder.names)
            or expected.shape != (matrix.shape[0], len(self.heads))
        ):
            raise BundleError("its golden rows have another shape than its model", where=where)
        if not matrix.shape[0]:
            raise BundleError("it has no golden rows", where=where)
        actual = np.column_stack(list(self.raw_scores(matrix).values()))
        if not np.allclose(actual, expected, rtol=GOLDEN_RTOL, atol=GOLDEN_ATOL):
            largest_difference = float(np.abs(actual - expected).max())
            raise BundleError(
                f"its model answers its golden rows differently here, by up to {largest_difference:.2g}",
                where=where,
                fix="tailorbird train",
            )


def write_bundle(
    folder: Path,
    *,
    created_at: int,
    encoder: Encoder,
    models: Mapping[str, bytes],
    heads: Sequence[Head],
    index: Path | None,
    golden: Matrix,
    features: FeatureSet | None = None,
    schema_hash: str = "",
    calibration: Mapping[str, Calibration] | None = None,
    formula: Mapping[str, float] | None = None,
    window: TrainingWindow | None = None,
    metrics: Mapping[str, Any] | None = None,
    libraries: Mapping[str, str] | None = None,
    card: str = "",
    trees: Mapping[str, Trees] | None = None,
    tower: Mapping[str, bytes] | None = None,
    baseline: str = "",
    extra_files: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Write a sealed bundle into a new folder, ready for `Registry.add`.

    Args:
        trees: of the heads that are forests.
        models: file name such as `model/click.onnx` → ONNX bytes.
        heads: what to read from which file; none for an index alone.
        index: the folder that `retrieval.build_index` made; None without items.
        features: the set that its rows are made by; it travels with the bundle, so that a server
            can read for it when the project's own declarations have moved on.
        schema_hash: of the set, where `features` is not given.
        golden: rows of the matrix, of which up to 32 are kept to be scored again at each load.
        calibration: head → table; the output as it is for a head that is not there.
        tower: file → bytes, as `ranking.tower` has them; None without one.
        formula: head → weight, used where a slot declares no objective.
        baseline: sources joined by "+" that order items, of a bundle without heads.
        extra_files: file → bytes of further files, such as `SKETCHES_FILE`.
    """
    calibration = dict(calibration or {})
    folder.mkdir(parents=True)
    tower_files = {f"{TOWER_FOLDER}/{name}": data for name, data in (tower or {}).items()}
    for name, data in {**models, **tower_files, **(extra_files or {})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if index is not None:
        shutil.copytree(index, folder / "index")
    write_trees(folder, trees or {})
    if features is not None:
        (folder / FEATURES_FILE).write_bytes(encode_features(features))
        schema_hash = features.schema_hash
    (folder / "encoder.json").write_bytes(msgspec.json.encode(encoder))
    (folder / CALIBRATION_FILE).write_bytes(msgspec.json.encode(calibration, order="sorted"))
    golden_count = _write_golden(folder, models, heads, golden)
    calibrated_heads = tuple(
        msgspec.structs.replace(head, calibration=calibration[head.name].name)
        if head.name in calibration
        else head
        for head in heads
    )
    if card:  # a copy of the manifest's card for readers of the folder
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
    manifest = Manifest(
        created_at=created_at,
        schema_hash=schema_hash,
        columns=encoder.columns,
        heads=calibrated_heads,
        formula=dict(formula or {}),
        window=window or TrainingWindow(),
        metrics=dict(metrics or {}),
        libraries={"onnxruntime": ort.__version__, "numpy": np.__version__, **(libraries or {})},
        golden_rows=golden_count,
        engine=__version__,
        index_as_of=0 if index is None else Index.open(index).as_of,
        sources=(*encoder.live_columns.sources, *(name for name in baseline.split("+") if name)),
        baseline=baseline,
        card=card,
    )
    return seal(folder, manifest)


def _write_golden(
    folder: Path, models: Mapping[str, bytes], heads: Sequence[Head], matrix: Matrix
) -> int:
    """Write evenly chosen rows of a matrix with their raw scores, and return their number."""
    row_count = GOLDEN_ROWS if heads else 0
    golden_positions = np.unique(np.linspace(0, len(matrix) - 1, row_count).astype(np.intp))
    rows = np.ascontiguousarray(matrix[golden_positions], np.float32)
    raw_scores = np.zeros((0, 0))
    if heads:
        sessions = {
            name: open_session(bytes(data), width=matrix.shape[1], where=name)
            for name, data in models.items()
        }
        raw_scores = np.column_stack(list(run_heads(sessions, heads, rows).values()))
    write_array(folder / "golden_input.npy", rows)
    write_array(folder / "golden_raw.npy", raw_scores)
    return len(rows)
