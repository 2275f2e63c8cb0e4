"""A churn bundle: everything that scores a user's risk of leaving, loaded as one unit.

    manifest.json, manifest.sha256    see `registry.manifest`; its heads are the models
    features.json                     the feature declarations
    churn.json                        `ChurnPlan`: the definition of churn and the model ensemble
    encoder.json, calibration.json    as in `ranking.bundle`; the calibration's one head is `gone`
    model/NAME.onnx                   as there
    trees/NAME.msgpack                as there
    golden_input.npy, golden_raw.npy  as there
    tower/…                           as there, plus items and vectors; only with user vectors

    bundle = ChurnBundle.load(folder, schema_hash=…)
    columns = [columns of users at t for t in bundle.moments(now)]  # known now, read at t
    scores = bundle.score(columns)                                  # probability and purchases

A server and a batch job read the columns in their own way and score by this module.
`ranking.churn.declaration` has the declaration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError
from tailorbird.events.clock import DAY
from tailorbird.features import FeatureSet
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.calibration import Calibration
from tailorbird.ranking.churn.plan import PLAN_FILE as PLAN_FILE
from tailorbird.ranking.churn.plan import ChurnPlan
from tailorbird.ranking.encode.encoder import Encoder, Keys
from tailorbird.ranking.encode.rows import Matrix
from tailorbird.ranking.tower import FOLDER as TOWER_FOLDER
from tailorbird.ranking.tower import SequenceLike, Space, TowerPlan
from tailorbird.ranking.tower_net import read_tower
from tailorbird.ranking.tree_shap import Trees, rescale_contributions
from tailorbird.registry import ColumnNames, Manifest, read_sealed
from tailorbird.retrieval import Index
from tailorbird.retrieval.arrays import read_array
from tailorbird.retrieval.vectors import ItemVectors

Floats = npt.NDArray[np.float64]

CHURN_HEAD = "gone"
USER_VECTOR_PREFIX = "user_vector_"
ITEM_IDS_FILE = "items.json"
BACKGROUND_ROWS = 8  # background rows of an explanation
_PROBABILITY_MIN = 1e-6


@dataclass(frozen=True)
class ChurnScores:
    """The scores of n users: P(churn) and expected purchases in the window.

    Purchases are NaN without such a model.
    """

    churn_probability: Floats
    purchases: Floats


@dataclass(frozen=True)
class ChurnBundle:
    """A loaded bundle.

    Its methods are pure and safe to call from several threads.

    Attributes:
        base_bundle: the models of the plan's parts, with encoder and manifest.
        background: encoded rows that `effects` takes columns from, (rows, columns).
    """

    base_bundle: Bundle
    plan: ChurnPlan
    calibration: Calibration
    background: Matrix
    space: Space | None = None

    @classmethod
    def load(cls, path: Path, *, schema_hash: str | None) -> "ChurnBundle":
        """Load, verify and warm up a bundle.

        Args:
            schema_hash: of the feature set that its columns will come from. None skips the check,
                for inspection.

        Raises:
            BundleError: the folder is no bundle, or differs from its manifest, the schema or its
                golden rows.
        """
        bundle_files = read_sealed(path, maps_arrays=True)
        where = str(path)
        base_bundle = Bundle.read(
            bundle_files,
            schema_hash=schema_hash,
            has_index=False,
            fix="tailorbird train with the name that churn.py declares",
        )
        try:
            plan = msgspec.json.decode(bundle_files.files[PLAN_FILE], type=ChurnPlan)
            calibration = base_bundle.calibration[CHURN_HEAD]
        except KeyError as error:
            raise BundleError(f"{error.args[0]} is missing", where=where) from error
        except msgspec.DecodeError as error:
            raise BundleError(f"cannot be read: {error}", where=where) from error
        if not base_bundle.heads or {part.head for part in plan.parts} != set(base_bundle.heads):
            raise BundleError("its parts do not belong together", where=where)
        golden = read_array(bundle_files.files["golden_input.npy"])
        background_rows = np.unique(
            np.linspace(0, len(golden) - 1, BACKGROUND_ROWS).astype(np.intp)
        )
        space = _read_space(bundle_files.folder(TOWER_FOLDER), where=f"{path}/{TOWER_FOLDER}")
        bundle = cls(base_bundle, plan, calibration, golden[background_rows], space)
        if base_bundle.columns.numeric[len(bundle.feature_columns.numeric) :] != (
            () if space is None else vector_names(space.tower.plan)
        ):
            raise BundleError("its tower and its columns do not belong together", where=where)
        return bundle

    @property
    def manifest(self) -> Manifest:
        return self.base_bundle.manifest

    @property
    def features(self) -> FeatureSet | None:
        """The feature declarations that it brings, if any."""
        return self.base_bundle.features

    @property
    def encoder(self) -> Encoder:
        return self.base_bundle.encoder

    @property
    def version(self) -> str:
        """The version that the registry assigned."""
        return self.manifest.version

    @property
    def columns(self) -> ColumnNames:
        """The feature columns that it reads, in this order."""
        return self.manifest.columns

    @property
    def feature_columns(self) -> ColumnNames:
        """The feature columns among `columns`: all but the user vector."""
        width = 0 if self.space is None else self.space.tower.plan.width
        columns = self.manifest.columns
        return ColumnNames(
            columns.numeric[: len(columns.numeric) - width], columns.categorical, columns.sequences
        )

    def with_user_vector(self, numeric: Matrix, sequence: SequenceLike | None) -> Matrix:
        """Append the user vector to the numeric columns (1, F) of one user, for `score`."""
        return (
            numeric
            if self.space is None
            else np.concatenate([numeric, self.space.query(sequence).user_vector[None]], axis=1)
        )

    def moments(self, now: int) -> list[int]:
        """Return the times at which the columns are read, see `ChurnPlan.moments`."""
        return self.plan.moments(now)

    def score(self, columns_by_time: Sequence[tuple[Matrix, Keys]]) -> ChurnScores:
        """Score users.

        Args:
            columns_by_time: for each of `moments`, the numeric (n, F) and categorical (n, C)
                columns of the same n people.
        """
        matrices = [self.encoder.encode_people(*columns) for columns in columns_by_time]
        churn_probability, raw_by_head = self._churn_probability(matrices)
        predicted_counts = [
            raw_by_head[part.head] for part in self.plan.parts if part.kind == "count"
        ]
        start_days = self.plan.gap / DAY
        stop_days = (self.plan.gap + self.plan.window) / DAY
        predicted_counts += [
            model.purchases(matrices[0], start_days, stop_days)
            for model in (self.plan.bg_nbd, self.plan.pareto_nbd)
            if model is not None
        ]
        purchases = (
            np.mean(predicted_counts, axis=0) * self.plan.scale
            if predicted_counts
            else np.full(len(churn_probability), np.nan)
        )
        return ChurnScores(churn_probability, purchases)

    def effects(self, columns_by_time: Sequence[tuple[Matrix, Keys]]) -> Floats:
        """Return the effect of each column on the log-odds of churn, (n, columns).

        Columns are those of `encoder.names`. An effect above 0 makes churn likelier.

        If only forests for the whole window determine P(churn), these are exact Shapley values
        (`ranking.tree_shap`), which sum to the difference between the user's log-odds and the base
        value. Otherwise each is the mean decrease of the log-odds when the column takes the values
        of background users (occlusion); these need not sum to the difference.

        Args:
            columns_by_time: as for `score`.
        """
        matrices = [self.encoder.encode_people(*columns) for columns in columns_by_time]
        if (forests := self._forests) is not None:
            return self._shapley(forests, matrices[0])
        n = len(matrices[0])
        width = len(self.encoder.names)
        background_size = len(self.background)
        churn_probability, _ = self._churn_probability(matrices)
        perturbed_matrices = []
        for matrix in matrices:
            repeated_rows = np.repeat(matrix, width * background_size, axis=0).reshape(
                n, width, background_size, width
            )
            for column in range(width):
                repeated_rows[:, column, :, column] = self.background[:, column]
            perturbed_matrices.append(np.ascontiguousarray(repeated_rows.reshape(-1, width)))
        perturbed_probability, _ = self._churn_probability(perturbed_matrices)
        return to_log_odds(churn_probability)[:, None] - to_log_odds(perturbed_probability).reshape(
            n, width, background_size
        ).mean(axis=2)

    @property
    def _forests(self) -> list[Trees] | None:
        """The forests that alone determine P(churn), or None."""
        active_parts = [part for part in self.plan.parts if part.kind != "count"]
        forests = [
            self.base_bundle.trees[part.head]
            for part in active_parts
            if part.kind == "direct" and part.head in self.base_bundle.trees
        ]
        return forests if forests and len(forests) == len(active_parts) else None

    def _shapley(self, forests: Sequence[Trees], matrix: Matrix) -> Floats:
        """Return exact Shapley effects of forests.

        P(churn) is 1 - P(active), so the log-odds of the forests' mean are negated, before
        calibration.
        """
        contributions = [forest.contributions(matrix) for forest in forests]
        effects = -np.mean([effect for effect, _ in contributions], axis=0)
        base_value = -float(np.mean([forest_base for _, forest_base in contributions]))
        return rescale_contributions(
            effects,
            base_value,
            lambda raw: to_log_odds(self.calibration.apply(1.0 / (1.0 + np.exp(-raw)))),
        )

    def _churn_probability(self, matrices: Sequence[Matrix]) -> tuple[Floats, dict[str, Floats]]:
        """Return P(churn) by the matrix at each time, and the heads' outputs at the first."""
        raw_by_head = self.base_bundle.raw_scores(matrices[0])
        log_survival_by_head = {
            part.head: np.zeros(len(matrices[0]))
            for part in self.plan.parts
            if part.kind == "hazard"
        }
        for matrix in matrices[1:]:
            outputs = self.base_bundle.raw_scores(matrix)
            for head in log_survival_by_head:
                log_survival_by_head[head] += to_log_survival(outputs[head])
        probabilities = [
            1 - raw_by_head[part.head] for part in self.plan.parts if part.kind == "direct"
        ] + [np.exp(log_survival) for log_survival in log_survival_by_head.values()]
        return self.calibration.apply(average_log_odds(probabilities)), raw_by_head


def vector_names(plan: TowerPlan) -> tuple[str, ...]:
    """Return the names of the columns of the user vector."""
    return tuple(f"{USER_VECTOR_PREFIX}{index}" for index in range(1, plan.width + 1))


def with_vectors(columns: ColumnNames, plan: TowerPlan) -> ColumnNames:
    """Append the columns of the user vector to the numeric ones."""
    return ColumnNames(
        (*columns.numeric, *vector_names(plan)), columns.categorical, columns.sequences
    )


def space_files(space: Space, tower: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a tower and its item vectors as a churn bundle stores them.

    Args:
        tower: as `ranking.tower` has its files.
    """
    return {**tower, **space.vectors.files(), ITEM_IDS_FILE: msgspec.json.encode(space.index.ids)}


def _read_space(files: Mapping[str, bytes | memoryview], *, where: str) -> Space | None:
    if not files:
        return None
    try:
        ids = msgspec.json.decode(files[ITEM_IDS_FILE], type=list[str])
        vectors = ItemVectors.read(files, len(ids))
    except (KeyError, ValueError, msgspec.DecodeError) as error:
        raise BundleError(
            f"the items of its tower cannot be read: {error}", where=where, fix="train again"
        ) from error
    tower = read_tower(files, vectors, where=where)
    assert tower is not None
    return Space(tower, Index.from_ids(ids, vectors))


def average_log_odds(probabilities: Sequence[Floats]) -> Floats:
    """Average probabilities in log-odds; a single one is returned unchanged."""
    if len(probabilities) == 1:
        return probabilities[0]
    return 1.0 / (1.0 + np.exp(-np.mean([to_log_odds(p) for p in probabilities], axis=0)))


def to_log_survival(hazard: Floats) -> Floats:
    """Return ln(1 − hazard), bounded below."""
    return np.log1p(-np.minimum(hazard, 1 - _PROBABILITY_MIN))


def to_log_odds(p: Floats) -> Floats:
    """Return the log-odds of probabilities, clipped away from 0 and 1."""
    clipped = np.clip(p, _PROBABILITY_MIN, 1 - _PROBABILITY_MIN)
    return np.log(clipped) - np.log1p(-clipped)
