"""Decisions of each stopping rule on the real tests of ASOS, see `asos-experiments`.

A series is one treatment and metric of a test. Its last day is taken as the planned end, so that
the planned information is known in hindsight. Each rule reads the totals once a day.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from benchmarks.quality.running import share_with_interval
from scipy.special import ndtri

from tailorbird.experiments.analysis.anytime import anytime_bound
from tailorbird.experiments.analysis.estimates import Effect, Estimate, compare
from tailorbird.experiments.analysis.sequential import compute_boundaries, select_stages
from tailorbird.experiments.assign import SPENDING_FUNCTIONS

Floats = npt.NDArray[np.float64]

FOLDER, FILE = "asos-experiments", "experiments.parquet"
STAGES_MIN = 3  # days of a series below which nothing can be stopped early
SERIES = ("experiment_id", "variant_id", "metric_id")


def measure_asos(folder: Path) -> dict[str, Any]:
    """Return decisions, share stopped early, days used, and agreement with the fixed horizon."""
    series = [each for each in read_series(folder / FILE) if len(each) >= STAGES_MIN]
    decisions_by_series = [judge_series(effects) for effects in series]
    fixed = [each["fixed"] for each in decisions_by_series]
    rules = {}
    for rule in decisions_by_series[0]:
        decisions = [each[rule] for each in decisions_by_series]
        decided = [stage for stage, sign in decisions if sign]
        stopped_early_count = sum(
            sign != 0 and stage < len(effects)
            for (stage, sign), effects in zip(decisions, series, strict=True)
        )
        used_shares = [
            stage / len(effects) for (stage, _), effects in zip(decisions, series, strict=True)
        ]
        rules[rule] = {
            "decided": share_with_interval(len(decided), len(decisions)),
            "stopped_early": share_with_interval(stopped_early_count, len(decisions)),
            "agrees": share_with_interval(
                sum(a[1] == b[1] for a, b in zip(decisions, fixed, strict=True)), len(decisions)
            ),
            "days_used": float(np.mean(used_shares)),
        }
    return {
        "series": len(series),
        "days_median": float(np.median([len(each) for each in series])),
        "rules": rules,
    }


def read_series(path: Path) -> list[list[Effect]]:
    """Return the effects at the end of each day of each series, as far as they can be estimated."""
    rows = pq.read_table(path).sort_by(
        [(name, "ascending") for name in (*SERIES, "time_since_start")]
    )
    columns = {name: np.array(rows[name].to_pylist()) for name in rows.column_names}
    _, owner = np.unique(
        np.array(
            ["|".join(map(str, key)) for key in zip(*(columns[n] for n in SERIES), strict=True)]
        ),
        return_inverse=True,
    )
    day = np.ceil(columns["time_since_start"].astype(np.float64)).astype(np.int64)
    is_last = np.append((owner[1:] != owner[:-1]) | (day[1:] != day[:-1]), True)
    series: dict[int, list[Effect]] = {}
    for row in np.flatnonzero(is_last).tolist():
        arms = []
        for arm in "tc":
            count, mean, variance = (
                columns[f"{n}_{arm}"][row] for n in ("count", "mean", "variance")
            )
            if count and variance is not None and np.isfinite(float(variance)):
                units = int(count)
                arms.append(Estimate(float(mean), float(variance) / units, units, units - 1.0))
        effect = compare(*arms) if len(arms) == 2 else None
        if effect is not None:
            series.setdefault(int(owner[row]), []).append(effect)
    return list(series.values())


def judge_series(effects: list[Effect]) -> dict[str, tuple[int, int]]:
    """Return the day of each rule's decision, from 1, and its sign; 0 for no difference."""
    z = np.array([effect.z for effect in effects])
    information = np.array([effect.information for effect in effects])
    planned = float(information[-1])
    end = len(effects) - 1
    bounds = {"fixed": np.full(len(effects), np.inf)}
    bounds["fixed"][end] = ndtri(0.975)
    rows = select_stages(information, planned=planned)
    for spending in SPENDING_FUNCTIONS:
        bound = np.full(len(effects), np.inf)
        bound[rows] = compute_boundaries(
            information[rows], planned=planned, spending=spending, is_final=True
        )
        bounds[spending] = bound
    units = [effect.units for effect in effects]
    bounds["anytime"] = anytime_bound(units, tuned_for_units=units[end] / 2)
    decisions = {}
    for rule, bound in bounds.items():
        crossed_stages = np.flatnonzero(np.abs(z) >= bound)
        stage = int(crossed_stages[0]) if len(crossed_stages) else end
        decisions[rule] = (stage + 1, int(np.sign(z[stage])) if len(crossed_stages) else 0)
    return decisions
