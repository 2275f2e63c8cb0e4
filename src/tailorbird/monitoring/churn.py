"""Churn models: how their scores are distributed by day, and how right they were by week.

    data/monitoring/churn/NAME.json    days and weeks, of all people together

Once the window of a week's scores is over, it is known who left. Then a champion that fell is
trained again, and one that is worse than the version before it is rolled back.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.atomic_write import atomic_write
from tailorbird.events import DAY, EPOCH_WEEKDAY, HOUR, to_iso
from tailorbird.monitoring.drift import Signal
from tailorbird.training.evaluation.bootstrap import Bootstrap
from tailorbird.training.evaluation.metrics import log_losses
from tailorbird.training.tasks.churn.evaluation import SortedScores

BIN_COUNT = 20  # of equal width, from 0 to 1
REPLICATE_COUNT = 200
PEOPLE_MIN = 100  # and as many of both outcomes as `OUTCOMES_MIN`, for the figures of a week
OUTCOMES_MIN = 20
FALL_Z = 3.0  # standard errors of a fall; chance alone reaches it in one week of 740
AUC_FALL = 0.02  # the smallest fall that matters
CALIBRATION_FALL = 0.05  # the smallest difference of mean score and share of leavers that matters
COMPARED_WEEKS = 4  # after a promotion in which the champion is compared with the one before

Floats = npt.NDArray[np.float64]


class ChurnDay(msgspec.Struct, frozen=True):
    """The scores of a day's beginning: how many people are in each bin."""

    day: int
    version: str
    counts: list[int]


class ChurnWeek(msgspec.Struct, frozen=True):
    """The accuracy of the scores as of a Monday's beginning.

    Attributes:
        known_at: when the outcome was known, microseconds.
        predicted, observed: mean score, and share of the people who left.
        previous: the version before the champion, scored for comparison; "" without one.
        gain: by how much the champion's log loss is lower than that of `previous`.
    """

    week: int
    known_at: int
    version: str
    people: int
    auc: float
    auc_se: float
    brier: float
    predicted: float
    observed: float
    previous: str = ""
    gain: float = 0.0
    gain_se: float = 0.0

    @property
    def calibration(self) -> float:
        """Expected leavers divided by leavers; above 1 the model promises too much."""
        return self.predicted / self.observed

    def describe(self) -> str:
        """Return the figures as a phrase of the status."""
        low, high = (self.auc + sign * 1.96 * self.auc_se for sign in (-1, 1))
        return (
            f"AUC {self.auc:.2f} ({low:.2f} to {high:.2f}), Brier {self.brier:.3f}, calibration "
            f"{self.calibration:.2f} in the week of {to_iso(self.week)[:10]}"
        )


class ChurnRecord(msgspec.Struct, frozen=True):
    """Figures of a churn model, oldest first.

    Attributes:
        weeks_until: the last week that was looked at, microseconds; one with few people has no
            figures.
    """

    days: list[ChurnDay] = []
    weeks: list[ChurnWeek] = []
    weeks_until: int = 0

    def weeks_of_version(self, version: str) -> list[ChurnWeek]:
        """Return the weeks in which a version was the champion."""
        return [week for week in self.weeks if week.version == version]


def read_record(folder: Path, name: str) -> ChurnRecord:
    """Return what is stored of a churn model in `data/monitoring`; empty without anything."""
    try:
        return msgspec.json.decode(_record_path(folder, name).read_bytes(), type=ChurnRecord)
    except (FileNotFoundError, msgspec.MsgspecError):
        return ChurnRecord()  # none yet, or by another version: it is computed again


def store_record(folder: Path, name: str, record: ChurnRecord) -> None:
    """Replace what is stored of a churn model."""
    path = _record_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, msgspec.json.encode(record))


def _record_path(folder: Path, name: str) -> Path:
    return folder / "churn" / f"{name}.json"


def count_scores(probability: Floats) -> list[int]:
    """Return how many scores are in each bin."""
    return np.histogram(probability, BIN_COUNT, (0.0, 1.0))[0].tolist()


def score_signal(
    name: str, days: Sequence[ChurnDay], first_hour: int, hour_count: int
) -> Signal | None:
    """Return the scores as a signal for drift; None if no day is in the time.

    Each day counts in its first hour.

    Args:
        first_hour: the first hour, microseconds.
        hour_count: their number.
    """
    counts = np.zeros((hour_count, BIN_COUNT + 1))
    for churn_day in days:
        if 0 <= (hour := (churn_day.day - first_hour) // HOUR) < hour_count:
            counts[hour, 1:] = churn_day.counts
    if not counts.any():
        return None
    bins = ("missing", *(f"{index / BIN_COUNT:g}" for index in range(BIN_COUNT)))
    return Signal(f"{name} score", counts, False, "score", bins)


def measure_week(
    week: int,
    known_at: int,
    version: str,
    probability: Floats,
    has_left: Floats,
    previous: str = "",
    previous_probability: Floats | None = None,
) -> ChurnWeek | None:
    """Return the figures of a week, None with too few people.

    Args:
        has_left: 1 for people who left, 0 for others, NaN for unknown; shape (n,).
        previous_probability: by the version before, of the same people.
    """
    is_known = np.isfinite(has_left)
    probability = probability[is_known]
    labels = has_left[is_known] > 0
    leavers = int(labels.sum())
    if len(labels) < PEOPLE_MIN or min(leavers, len(labels) - leavers) < OUTCOMES_MIN:
        return None
    bootstrap = Bootstrap(np.arange(len(labels)), replicates=REPLICATE_COUNT)
    scores = SortedScores(probability, labels)
    auc = scores.ranking_metrics(np.ones(len(labels)))[0]
    auc_draws = bootstrap.resample_metrics(lambda weight: [scores.ranking_metrics(weight)[0]])
    gain = gain_se = 0.0
    if previous_probability is not None:
        gains = log_losses(previous_probability[is_known], labels) - log_losses(probability, labels)
        gain = float(gains.mean())
        gain_se = float(gains.std() / math.sqrt(len(gains)))
    return ChurnWeek(
        week,
        known_at=known_at,
        version=version,
        people=len(labels),
        auc=float(auc),
        auc_se=float(np.nanstd(auc_draws)),
        brier=float(np.mean((probability - labels) ** 2)),
        predicted=float(probability.mean()),
        observed=float(labels.mean()),
        previous=previous if previous_probability is not None else "",
        gain=gain,
        gain_se=gain_se,
    )


def explain_fall(week: ChurnWeek, auc: float, auc_se: float) -> str:
    """Return why a champion is to be trained again, or "".

    Args:
        auc, auc_se: of the champion when the gate judged it; NaN if that is not comparable.
    """
    fall = auc - week.auc
    error = math.hypot(auc_se, week.auc_se)
    if fall > AUC_FALL and fall > FALL_Z * error:
        return f"AUC fell from {auc:.2f} at the gate to {week.auc:.2f}, more than chance allows"
    gap = abs(week.predicted - week.observed)
    noise = math.sqrt(week.observed * (1.0 - week.observed) / week.people)
    if gap > CALIBRATION_FALL and gap > FALL_Z * noise:
        return f"{week.observed:.0%} of the people left, while {week.predicted:.0%} were expected"
    return ""


def explain_loss(weeks: Sequence[ChurnWeek], previous: str, false_rollback: float) -> str:
    """Return why a champion is worse than the version before it, or "".

    Args:
        weeks: of the champion, oldest first.
        false_rollback: the chance that one that is as good is found to be worse.
    """
    z = NormalDist().inv_cdf(1.0 - false_rollback / COMPARED_WEEKS)
    for week in weeks[:COMPARED_WEEKS]:
        if week.previous == previous and week.gain < -z * week.gain_se:
            return (
                f"log loss is {-week.gain:.4f} higher than that of {previous} for the same "
                f"{week.people:,} people of the week of {to_iso(week.week)[:10]}"
            )
    return ""


def is_monday(day: int) -> bool:
    """Return whether a day, microseconds, is one."""
    return (day // DAY + EPOCH_WEEKDAY) % 7 == 0
