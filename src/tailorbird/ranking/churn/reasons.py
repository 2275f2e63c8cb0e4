"""Reasons for a churn score, in words: the columns that move it most."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailorbird.ranking.churn.bundle import USER_VECTOR_PREFIX, ChurnBundle, to_log_odds
from tailorbird.ranking.churn.columns import duration_columns
from tailorbird.ranking.encode.encoder import Keys
from tailorbird.ranking.encode.rows import Matrix

EFFECT_MIN = 0.05  # minimum effect in log-odds
DIGITS_MAX = 5  # maximum decimals of a percentage
_DURATION_UNITS = (
    (2 * 86_400, 86_400, "day"),
    (2 * 3_600, 3_600, "h"),
    (2 * 60, 60, "min"),
    (0, 1, "s"),
)  # from, unit, name


@dataclass(frozen=True)
class ChurnReason:
    """A column that speaks for leaving or staying.

    `effect` is in log-odds, above 0 for leaving.
    """

    column: str
    effect: float
    text: str


def churn_reasons(
    bundle: ChurnBundle, columns_by_time: Sequence[tuple[Matrix, Keys]], limit: int = 3
) -> list[list[ChurnReason]]:
    """Return the columns that move each user's score most, strongest first.

    Args:
        columns_by_time: as for `ChurnBundle.score`.
    """
    effects = bundle.effects(columns_by_time)
    matrix = bundle.encoder.encode_people(*columns_by_time[0])
    churn_probability = bundle.score(columns_by_time).churn_probability
    without_column = 1 / (
        1 + np.exp(effects - to_log_odds(churn_probability)[:, None])
    )  # P(churn) without the column's effect
    names = bundle.encoder.names
    categorical_names = set(bundle.encoder.categorical_names)
    duration_names = duration_columns(bundle.features)
    vector_positions = {
        column for column, name in enumerate(names) if name.startswith(USER_VECTOR_PREFIX)
    }  # single coordinates of a vector have no meaning
    reasons_by_user = []
    for user_effects, user_values, counterfactuals, probability in zip(
        effects, matrix, without_column, churn_probability, strict=True
    ):
        strongest_columns = [
            column
            for column in np.argsort(-np.abs(user_effects), kind="stable").tolist()
            if column not in vector_positions
        ][:limit]
        reasons = []
        for column in (
            column for column in strongest_columns if abs(user_effects[column]) >= EFFECT_MIN
        ):
            name = names[column]
            subject = (
                name
                if name in categorical_names
                else f"{name} is {format_column_value(float(user_values[column]), is_duration=name in duration_names)}"
            )
            reasons.append(
                ChurnReason(
                    name,
                    float(user_effects[column]),
                    f"{subject}: {_describe_change(float(counterfactuals[column]), float(probability))}",
                )
            )
        reasons_by_user.append(reasons)
    return reasons_by_user


def format_column_value(value: float, *, is_duration: bool, digits: int = 0) -> str:
    """Format the value of a column; a duration in a suitable unit.

    Args:
        digits: additional digits, to distinguish close values.

    >>> format_column_value(8_100_000, is_duration=True)
    '94 days'
    >>> format_column_value(12_345, is_duration=False)
    '12,345'
    """
    if np.isnan(value):
        return "missing"
    if not is_duration:
        return f"{value:,.{digits}f}" if abs(value) >= 1_000 else f"{value:.{4 + digits}g}"
    unit, name = next((unit, name) for least, unit, name in _DURATION_UNITS if abs(value) >= least)
    number = f"{value / unit:,.{digits + (abs(value) < 10 * unit)}f}"
    number = number.rstrip("0").rstrip(".") if "." in number else number
    return f"{number} {name}{'s' if name == 'day' else ''}"


def _describe_change(without_column: float, chance: float) -> str:
    """Describe the change of the churn probability with as many digits as it takes to see it."""
    for digits in range(DIGITS_MAX + 1):
        old_text, new_text = (f"{p:.{digits}%}" for p in (without_column, chance))
        if old_text != new_text and not {old_text, new_text} & {
            f"{p:.{digits}%}" for p in (0.0, 1.0)
        }:
            break
    return f"{'raises' if chance > without_column else 'lowers'} the chance of leaving from {old_text} to {new_text}"
