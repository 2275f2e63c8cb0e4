"""Why somebody is likely to leave, in words: the columns that move a churn score most."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailorbird.ranking.churn_bundle import VECTOR, ChurnBundle
from tailorbird.ranking.encoders import Keys, Matrix

LEAST = 0.05  # of log-odds: what moves them less is no reason


@dataclass(frozen=True)
class ChurnReason:
    """A column that speaks for leaving or for staying. `effect` is in log-odds, above 0 for leaving."""

    column: str
    effect: float
    text: str


def churn_reasons(bundle: ChurnBundle, rows: Sequence[tuple[Matrix, Keys]], most: int = 3) -> list[list[ChurnReason]]:
    """For each person the columns that move the score most, the strongest first.

    Args:
        rows: as for `ChurnBundle.score`.
    """
    effects, matrix = bundle.effects(rows), bundle.encoder.encode_people(*rows[0])
    names, codes = bundle.encoder.names, set(bundle.encoder.categorical_names)
    unsaid = {at for at, name in enumerate(names) if name.startswith(VECTOR)}  # a coordinate says nothing to anybody
    told = []
    for row, values in zip(effects, matrix, strict=True):
        strongest = [at for at in np.argsort(-np.abs(row), kind="stable").tolist() if at not in unsaid][:most]
        reasons = [_reason(names[at], float(row[at]), float(values[at]), names[at] in codes) for at in strongest if abs(row[at]) >= LEAST]
        told.append(reasons)
    return told


def _reason(name: str, effect: float, value: float, is_code: bool) -> ChurnReason:
    said = name if is_code else f"{name} is missing" if np.isnan(value) else f"{name} is {value:,.4g}"
    factor = float(np.exp(abs(effect)))
    return ChurnReason(name, effect, f"{said}: {factor:.1f} times {'likelier to leave' if effect > 0 else 'likelier to stay'}")
