"""Fixed and sequential tests of tea-tasting, GrowthBook (gbstats) and confseq.

    .peers/statistics/bin/python significance.py FOLDER

    FOLDER/job.json      {"kinds": {name: "mean" | "ratio" | "covariate"}, "alpha", "tuned_for_units"}
    FOLDER/totals.npz    by name (cases, 2, 6): of control and treatment, units, Σx, Σy, Σx², Σy²
                         and Σxy; y is the denominator of a ratio, or a covariate
    FOLDER/said.npz      by `name.peer.figure` (cases,)
    FOLDER/said.json     {"versions": {package: version}, "missing": {package: reason}}

Effects are relative to the control. Imports nothing of ours.
"""

import json
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    totals = dict(np.load(folder / "totals.npz"))
    said: dict[str, np.ndarray] = {}
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for package, module, ask in (
        ("tea-tasting", "tea_tasting", ask_tea_tasting),
        ("gbstats", "gbstats.frequentist.tests", ask_gbstats),
        ("confseq", "confseq.boundaries", ask_confseq),
    ):
        try:
            import_module(module)
        except ImportError as error:
            missing[package] = str(error)
            continue
        versions[package] = version(package)
        for name, kind in job["kinds"].items():
            columns = ask(totals[name], kind, job)
            said |= {f"{name}.{figure}": values for figure, values in columns.items()}
    np.savez(folder / "said.npz", **said)  # type: ignore[arg-type]
    (folder / "said.json").write_text(json.dumps({"versions": versions, "missing": missing}))


def ask_tea_tasting(totals: np.ndarray, kind: str, job: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the relative effect with interval, and the p-value of the absolute one."""
    import tea_tasting as tt
    from tea_tasting.aggr import Aggregates

    options = {"confidence_level": 1 - job["alpha"]}
    metric: Any = {
        "mean": lambda: tt.Mean("x", **options),
        "ratio": lambda: tt.RatioOfMeans("x", "y", **options),
        "covariate": lambda: tt.Mean("x", "y", **options),
    }[kind]()
    rows = []
    for case in totals:
        arms = {}
        for number, (n, x, y, xx, yy, xy) in enumerate(case.tolist()):
            arms[number] = Aggregates(
                count_=int(n),
                mean_={"x": x / n, "y": y / n},
                var_={"x": (xx - x * x / n) / (n - 1), "y": (yy - y * y / n) / (n - 1)},
                cov_={("x", "y"): (xy - x * y / n) / (n - 1)},
            )
        result = metric.analyze(arms, 0, 1)
        rows.append(
            (
                result.rel_effect_size,
                result.rel_effect_size_ci_lower,
                result.rel_effect_size_ci_upper,
                result.effect_size,
                result.pvalue,
            )
        )
    names = ("value", "low", "high", "difference", "p")
    return {
        f"tea_tasting.{name}": values
        for name, values in zip(names, np.array(rows, np.float64).T, strict=True)
    }


def ask_gbstats(totals: np.ndarray, kind: str, job: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the relative effect, error and p-value, and the sequential interval."""
    from gbstats.frequentist.tests import (
        FrequentistConfig,
        SequentialConfig,
        SequentialTwoSidedTTest,
        TwoSidedTTest,
    )

    alpha, tuned_for_units = job["alpha"], job["tuned_for_units"]
    rows = []
    for case in totals:
        control, treatment = _gbstats_arms(case, kind)
        fixed = TwoSidedTTest(control, treatment, FrequentistConfig(alpha=alpha)).compute_result()
        config = SequentialConfig(alpha=alpha, sequential_tuning_parameter=tuned_for_units)
        anytime = SequentialTwoSidedTTest(control, treatment, config).compute_result()
        rows.append((fixed.expected, fixed.uplift.stddev, fixed.p_value, *anytime.ci))
    names = ("value", "error", "p", "sequential_low", "sequential_high")
    return {
        f"gbstats.{name}": values
        for name, values in zip(names, np.array(rows, np.float64).T, strict=True)
    }


def _gbstats_arms(case: np.ndarray, kind: str) -> tuple[Any, Any]:
    from gbstats.models.statistics import (
        RatioStatistic,
        RegressionAdjustedStatistic,
        SampleMeanStatistic,
        compute_theta,
    )

    def make(row: list[float], theta: float) -> Any:
        n, x, y, xx, yy, xy = row
        first = SampleMeanStatistic(n=int(n), sum=x, sum_squares=xx)
        if kind == "mean":
            return first
        second = SampleMeanStatistic(n=int(n), sum=y, sum_squares=yy)
        if kind == "ratio":
            return RatioStatistic(
                n=int(n), m_statistic=first, d_statistic=second, m_d_sum_of_products=xy
            )
        return RegressionAdjustedStatistic(
            n=int(n),
            post_statistic=first,
            pre_statistic=second,
            post_pre_sum_of_products=xy,
            theta=theta,
        )

    control, treatment = (make(row, 0.0) for row in case.tolist())
    if kind != "covariate":
        return control, treatment
    theta = compute_theta(control, treatment)
    control, treatment = (make(row, theta) for row in case.tolist())
    return control, treatment


def ask_confseq(totals: np.ndarray, kind: str, job: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the bound of |Z| by the two-sided normal mixture, for the units of both arms."""
    from confseq.boundaries import normal_mixture_bound

    units, alpha = totals[:, :, 0].sum(axis=1), job["alpha"]
    bound = normal_mixture_bound(units, alpha, job["tuned_for_units"], alpha, False)
    return {"confseq.bound": bound / np.sqrt(units)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
