"""What is learned at one origin: up to six models of staying away, and up to three of how often
people buy.

    trees, logistic                  P(gone) at once, from origins whose whole window is known
    hazard_trees, hazard_logistic    P(active in the next period), from every period that is known; over a window the chances of
                                     not being active are multiplied: Π (1 − h(k)), h read at the k-th period as if nothing had
                                     happened since the origin. Origins whose window is cut off teach too, as far as they are known
    rfm, bg_nbd                      P(gone) at once from recency, frequency, age and amount alone, where `churn.py` names the columns
    purchases                        expected purchases of a window: a Poisson rate with the known time as its exposure
    pareto_nbd                       expected purchases alone, from recency, frequency and age

What was learned from an origin counts half for each window that it lies back, but for `purchases`,
which counts all alike. `blend` is the mean of the models' log-odds. Expected purchases are those of
the trees; where the columns are named, the mean of trees and BG/NBD (`trees_bg_nbd`), or what
BG/NBD or Pareto/NBD expects alone. Which of either is taken is decided by `training.churn.walk`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY
from tailorbird.models.btyd import BgNbdOfColumns, bg_nbd_to_onnx, fit_bg_nbd
from tailorbird.models.export import gbdt_to_onnx
from tailorbird.models.gbdt import GbdtSettings, Sample, fit_gbdt
from tailorbird.models.logistic import Logistic, fit_logistic, logistic_to_onnx
from tailorbird.ranking.bg_nbd import BgNbdColumns
from tailorbird.ranking.churn_bundle import together
from tailorbird.ranking.encoders import Encoder, fit_encoder
from tailorbird.ranking.pareto_nbd import ParetoNbdColumns
from tailorbird.training.churn.labels import Activity, Floats, Ints, Window
from tailorbird.training.churn.pareto import fit_pareto_nbd
from tailorbird.training.churn.rows import Matrix, Table
from tailorbird.training.settings import check_seed

DIRECT, HAZARD = ("trees", "logistic", "rfm", "bg_nbd"), ("hazard_trees", "hazard_logistic")
BLEND = "blend"
PURCHASES = "purchases"
BY_COLUMNS = (
    "trees_bg_nbd",
    "bg_nbd",
    "pareto_nbd",
)  # ways to say expected purchases where the columns are named, the usual one first
POSITIVES_MIN = 30  # of both classes, for a model to be learned
HELD = 5  # one of so many people is watched by early stopping and teaches the trees nothing
EDGE = 1e-6


@dataclass(frozen=True)
class FitSettings:
    """How churn models are learned.

    Attributes:
        gbdt: of all trees.
        penalty: of the logistic regressions.
        half_life: in windows, after which an origin counts half; 0 counts all alike.
        rows: of one model, at most, drawn evenly.
        seed: of every draw.
    """

    gbdt: GbdtSettings = field(
        default_factory=lambda: GbdtSettings(trees=300, rate=0.05, patience=30, columns=0.5)
    )
    penalty: float = 1.0
    half_life: float = 1.0
    rows: int = 100_000
    seed: int = 7

    def __post_init__(self) -> None:
        check_seed(self.seed)


class Model(Protocol):
    """A fitted model of one number."""

    def score(self, matrix: Matrix) -> Floats: ...
    def importance(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class Grid:
    """People at moments, with the columns that they had then: what rows are made of.

    Attributes:
        moment, person: shape (n,).
        origin: shape (n,), whether the moment is one of the sparser ones that whole windows are
            learned from, and the person would have been asked about then.
        period: µs between two moments.
    """

    moment: Ints
    person: Ints
    table: Table
    origin: npt.NDArray[np.bool_]
    period: int


@dataclass(frozen=True)
class Fitted:
    """What was learned at an origin.

    Attributes:
        models: by name; `purchases` among them where it could be learned.
        rows: model → how many rows taught it.
        pareto_nbd: where the columns are named, as a bundle keeps it.
    """

    encoder: Encoder
    models: Mapping[str, Model]
    rows: Mapping[str, int]
    pareto_nbd: ParetoNbdColumns | None = None

    @property
    def candidates(self) -> tuple[str, ...]:
        """The ways to say P(gone)."""
        alone = tuple(name for name in (*DIRECT, *HAZARD) if name in self.models)
        return (*alone, BLEND) if len(alone) > 1 else alone

    def gone(self, now: Table, periods: Sequence[Table]) -> dict[str, Floats]:
        """P(gone) of each person by candidate, uncalibrated.

        Args:
            now: their columns at the origin.
            periods: their columns at the beginning of each period of the window, as if nothing had
                happened since.
        """
        found: dict[str, Floats] = {}
        if any(name in self.models for name in DIRECT):
            matrix = self.matrix(now)
            found |= {
                name: 1 - self.models[name].score(matrix) for name in DIRECT if name in self.models
            }
        if hazards := [name for name in HAZARD if name in self.models]:
            stay = {name: np.zeros(len(now)) for name in hazards}
            for table in periods:
                matrix = self.matrix(table)
                for name in hazards:
                    stay[name] += np.log1p(-np.minimum(self.models[name].score(matrix), 1 - EDGE))
            found |= {name: np.exp(logs) for name, logs in stay.items()}
        if len(found) > 1:
            found[BLEND] = together(list(found.values()))
        return found

    @property
    def counts(self) -> tuple[str, ...]:
        """The ways to say expected purchases, the usual one first; none where too few purchases are
        known.
        """
        if PURCHASES not in self.models:
            return ()
        return ("trees",) if self.bg_nbd is None or self.pareto_nbd is None else BY_COLUMNS

    def purchases(self, now: Table, window: Window) -> dict[str, Floats]:
        """Expected purchases of each person within the window by each of `counts`, uncalibrated."""
        if not self.counts:
            return {}
        matrix, span = self.matrix(now), (window.gap / DAY, (window.gap + window.length) / DAY)
        trees = self.models[PURCHASES].score(matrix)
        if self.bg_nbd is None or self.pareto_nbd is None:
            return {"trees": trees}
        bg_nbd = self.bg_nbd.purchases(matrix, *span)
        return dict(
            zip(
                BY_COLUMNS,
                ((trees + bg_nbd) / 2, bg_nbd, self.pareto_nbd.purchases(matrix, *span)),
                strict=True,
            )
        )

    @property
    def bg_nbd(self) -> BgNbdColumns | None:
        """BG/NBD as a bundle keeps it."""
        found = self.models.get("bg_nbd")
        if not isinstance(found, BgNbdOfColumns):
            return None
        model = found.model
        return BgNbdColumns(
            model.r, model.alpha, model.a, model.b, found.recency, found.frequency, found.age
        )

    def matrix(self, table: Table) -> Matrix:
        return self.encoder.encode_people(table.numeric, table.categorical)

    def export(self, name: str) -> bytes:
        """A model as ONNX."""
        model = self.models[name]
        if isinstance(model, BgNbdOfColumns):
            return bg_nbd_to_onnx(model)
        return logistic_to_onnx(model) if isinstance(model, Logistic) else gbdt_to_onnx(model)  # type: ignore[arg-type]


def fit_at(
    grid: Grid, activity: Activity, window: Window, settings: FitSettings, rfm: Sequence[str] = ()
) -> Fitted:
    """Learn what can be known at the window's origin.

    Args:
        activity: as of the origin: what asks for more of it is refused.
        rfm: columns of recency, frequency, age and perhaps amount.

    Raises:
        NotReadyError: no model has enough of both outcomes.
    """
    assert activity.known <= window.origin
    encoder = _encoder(grid, window.origin)
    models: dict[str, Model] = {}
    rows: dict[str, int] = {}
    for names, sample in (
        (DIRECT, _direct(grid, activity, window, settings)),
        (HAZARD, _hazard(grid, activity, window, settings)),
    ):
        if (
            min(np.count_nonzero(sample.label > 0), np.count_nonzero(sample.label <= 0))
            < POSITIVES_MIN
        ):
            continue
        matrix = encoder.encode_people(sample.table.numeric, sample.table.categorical)
        models[names[0]] = _trees(encoder, matrix, sample, activity, settings)
        models[names[1]] = _line(encoder, matrix, sample, settings, encoder.categorical_names)
        if names is DIRECT and rfm:
            models["rfm"] = _line(
                encoder,
                matrix,
                sample,
                settings,
                [name for name in encoder.names if name not in rfm],
            )
        rows |= {name: len(sample.label) for name in names if name in models}
    if not models:
        raise NotReadyError(
            f"fewer than {POSITIVES_MIN} people came back, or stayed away, in what is known",
            fix="a longer history, or a shorter window",
        )
    if rfm:
        models["bg_nbd"] = _bg_nbd(grid, encoder, activity, window, rfm)
        rows["bg_nbd"] = len(activity.present(window.origin))
    counted = _counted(grid, activity, window, settings)
    if np.count_nonzero(counted.label) >= POSITIVES_MIN:
        matrix = encoder.encode_people(counted.table.numeric, counted.table.categorical)
        models[PURCHASES] = _trees(
            encoder, matrix, counted, activity, settings, objective="poisson"
        )
        rows[PURCHASES] = len(counted.label)
    return Fitted(
        encoder, models, rows, _pareto_nbd(encoder, activity, window, rfm) if rfm else None
    )


def labelled(
    fitted: Fitted, grid: Grid, activity: Activity, window: Window, settings: FitSettings
) -> tuple[Matrix, Floats]:
    """The rows that models of whole windows learned from, or of periods where there are none, and
    who was active.
    """
    direct = _direct(grid, activity, window, settings)
    sample = direct if len(direct.label) else _hazard(grid, activity, window, settings)
    return fitted.matrix(sample.table), sample.label


@dataclass(frozen=True)
class _Labelled:
    """Rows of a grid with what is to be learned."""

    table: Table
    person: Ints
    label: Floats
    weight: Floats


def _encoder(grid: Grid, until: int) -> Encoder:
    return fit_encoder(grid.table.columns, grid.table.categorical[grid.moment < until], computed=())


def _direct(grid: Grid, activity: Activity, window: Window, settings: FitSettings) -> _Labelled:
    """Rows of origins whose whole window is known; label: active in it."""
    chosen = _known(
        grid,
        activity,
        grid.origin,
        window.gap + window.length,
        window.gap + window.length,
        settings,
    )
    label = _counts(grid, activity, chosen, window.gap, window.length) > 0
    return _Labelled(
        grid.table.take(chosen),
        grid.person[chosen],
        label.astype(np.float64),
        _weights(grid, chosen, window, settings),
    )


def _hazard(grid: Grid, activity: Activity, window: Window, settings: FitSettings) -> _Labelled:
    """Rows of every period that is known; label: active in it."""
    chosen = _known(
        grid, activity, np.ones(len(grid.moment), bool), grid.period, grid.period, settings
    )
    label = _counts(grid, activity, chosen, 0, grid.period) > 0
    return _Labelled(
        grid.table.take(chosen),
        grid.person[chosen],
        label.astype(np.float64),
        _weights(grid, chosen, window, settings),
    )


def _counted(grid: Grid, activity: Activity, window: Window, settings: FitSettings) -> _Labelled:
    """Rows of origins of whose window at least a period is known; label: purchases for a whole
    window, weight: the part known.
    """
    chosen = _known(
        grid, activity, grid.origin, window.gap + grid.period, window.gap + window.length, settings
    )
    label, weight = np.zeros(len(chosen)), np.zeros(len(chosen))
    for moment in np.unique(grid.moment[chosen]).tolist():
        rows = np.flatnonzero(grid.moment[chosen] == moment)
        length = min(window.length, activity.known - moment - window.gap)
        start = moment + window.gap
        weight[rows] = length / window.length
        label[rows] = activity.counts(grid.person[chosen[rows]], start, start + length) * (
            window.length / length
        )
    return _Labelled(grid.table.take(chosen), grid.person[chosen], label, weight)


def _weights(grid: Grid, chosen: Ints, window: Window, settings: FitSettings) -> Floats:
    """What each row counts: the older, the less."""
    if not settings.half_life:
        return np.ones(len(chosen))
    return 0.5 ** ((window.origin - grid.moment[chosen]) / (settings.half_life * window.length))


def _counts(grid: Grid, activity: Activity, chosen: Ints, gap: int, length: int) -> Floats:
    counts = np.zeros(len(chosen))
    for moment in np.unique(grid.moment[chosen]).tolist():
        rows = np.flatnonzero(grid.moment[chosen] == moment)
        counts[rows] = activity.counts(
            grid.person[chosen[rows]], moment + gap, moment + gap + length
        )
    return counts


def _known(
    grid: Grid,
    activity: Activity,
    mask: npt.NDArray[np.bool_],
    least: int,
    reach: int,
    settings: FitSettings,
) -> Ints:
    """Rows of a mask of which `least` µs behind their moment are known, thinned; without who was
    merged into another within `reach`.
    """
    rows = np.flatnonzero(mask & (grid.moment + least <= activity.known))
    moment = grid.moment[rows]
    rows = rows[
        ~activity.merged_within(
            grid.person[rows], moment, np.minimum(moment + reach, activity.known)
        )
    ]
    if len(rows) <= settings.rows:
        return rows
    return np.sort(np.random.default_rng(settings.seed).choice(rows, settings.rows, replace=False))


def _trees(
    encoder: Encoder,
    matrix: Matrix,
    sample: _Labelled,
    activity: Activity,
    settings: FitSettings,
    *,
    objective: str = "binary",
) -> Model:
    """Trees that stop by people who taught them nothing: rows of one person resemble each other.
    Who these are goes by their ids alone, so that it stays when others come.
    """
    held = activity.people.keys[sample.person] % HELD == 0
    gbdt = replace(settings.gbdt, objective=objective, seed=settings.seed)
    parts = []
    for rows in (~held, held):
        parts.append(
            Sample(
                np.ascontiguousarray(matrix[rows]), sample.label[rows], weight=sample.weight[rows]
            )
        )
    return fit_gbdt(parts[0], parts[1], encoder.names, gbdt, categorical=encoder.categorical_names)


def _line(
    encoder: Encoder,
    matrix: Matrix,
    sample: _Labelled,
    settings: FitSettings,
    ignore: Sequence[str],
) -> Logistic:
    return fit_logistic(
        matrix,
        sample.label,
        encoder.names,
        weight=sample.weight,
        ignore=ignore,
        penalty=settings.penalty,
    )


def _bg_nbd(
    grid: Grid, encoder: Encoder, activity: Activity, window: Window, rfm: Sequence[str]
) -> BgNbdOfColumns:
    """Fitted to everybody who was ever there, read from the columns."""
    everybody = activity.purchases(activity.present(window.origin), window.origin)
    model = fit_bg_nbd(everybody)
    span = (window.gap + window.length) / DAY
    places = [encoder.names.index(name) for name in rfm[:3]]
    lowest = float(np.quantile(model.returning(everybody, span), 0.01))
    return BgNbdOfColumns(model, encoder.names, places[0], places[1], places[2], span, lowest)


def _pareto_nbd(
    encoder: Encoder, activity: Activity, window: Window, rfm: Sequence[str]
) -> ParetoNbdColumns:
    """Fitted and read likewise."""
    model = fit_pareto_nbd(activity.purchases(activity.present(window.origin), window.origin))
    recency, frequency, age = (encoder.names.index(name) for name in rfm[:3])
    return ParetoNbdColumns(model.r, model.alpha, model.s, model.beta, recency, frequency, age)
