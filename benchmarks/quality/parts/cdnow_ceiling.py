"""Compute the best possible forecast of CDNOW's customers if a model of their purchases were true.

    python -m benchmarks.quality.cdnow --ceiling

    fit BG/NBD or Pareto/NBD → draw as many customers, with the same first days and the same 39
    weeks before and after → evaluate two forecasters:
    posterior     knows the history and the four numbers of the population: the model's own formula,
                  which nobody beats who knows no more
    parameters    also knows each customer's own rate and chance of leaving; only chance is left

Each model is fitted twice: to the period before the origin, and to all 78 weeks, which include the
future. Beside them stands the same formula's result on the real customers. If that is far from the
result in its own world, the model is not true, and its ceiling does not hold for the data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from tailorbird.models.btyd import BgNbd, Purchases, fit_bg_nbd
from tailorbird.training.tasks.churn.evaluation import SortedScores
from tailorbird.training.tasks.churn.pareto import ParetoNbd, fit_pareto_nbd

Floats = npt.NDArray[np.float64]
Figures = dict[str, float]

DAY_US = 86_400_000_000
EXPONENT_MAX = 700.0  # the largest exponent without overflow


@dataclass(frozen=True)
class Population:
    """Customers drawn from a model: their history, later purchases, and expectations.

    Attributes:
        chance: probability of a purchase by the customer's own parameters.
        expected: expected purchases by the customer's own parameters.
    """

    history: Purchases
    later: Floats
    chance: Floats
    expected: Floats


def compute_ceilings(
    folder: Path, *, calibration_days: int, holdout_days: int, populations: int
) -> list[dict[str, Any]]:
    """Return figures for each model and fitting period, on real and on drawn customers."""
    customer, day = _purchase_days(folder)
    early_purchases, all_purchases = (
        _summarise_purchases(customer, day, calibration_days),
        _summarise_purchases(customer, day, calibration_days + holdout_days),
    )
    bought = np.bincount(
        customer[day >= calibration_days], minlength=len(early_purchases.age)
    ).astype(np.float64)
    rows = []
    for name, fit, draw in _MODELS:
        for fitted_to, customers in (("39 weeks", early_purchases), ("78 weeks", all_purchases)):
            model, figures_by_population = fit(customers), []
            for seed in range(populations):
                population = draw(
                    model, early_purchases.age, float(holdout_days), np.random.default_rng(seed)
                )
                posterior_figures = _compute_metrics(
                    model.probability_returning(population.history, holdout_days),
                    model.expected_purchases(population.history, holdout_days),
                    population.later,
                )
                figures_by_population.append(
                    (
                        posterior_figures,
                        _compute_metrics(population.chance, population.expected, population.later),
                    )
                )
            rows.append(
                {
                    "model": name,
                    "fitted_to": fitted_to,
                    "real": _mean_figures(
                        [
                            _compute_metrics(
                                model.probability_returning(early_purchases, holdout_days),
                                model.expected_purchases(early_purchases, holdout_days),
                                bought,
                            )
                        ]
                    ),
                    "posterior": _mean_figures([figures for figures, _ in figures_by_population]),
                    "parameters": _mean_figures([figures for _, figures in figures_by_population]),
                }
            )
    return rows


def format_ceilings(rows: list[dict[str, Any]]) -> str:
    """Format the rows for people."""
    figures = ("auc", "ap", "mae", "bias", "mean", "share")
    lines = [f"{'model, fitted to':24}{'':12}" + "".join(f"{name:>9}" for name in figures)]
    for row in rows:
        for knowledge in ("real", "posterior", "parameters"):
            head = f"{row['model']}, {row['fitted_to']}" if knowledge == "real" else ""
            lines.append(
                f"{head:24}{knowledge:12}"
                + "".join(f"{row[knowledge][name]:9.4f}" for name in figures)
            )
    return "\n".join(lines)


def _purchase_days(folder: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return customer and day of each purchase; several on a day are one.

    Days count from the first purchase in the data.
    """
    table = pq.read_table(folder / "transactions.parquet", columns=["customer_id", "date"])
    day = table["date"].cast("timestamp[us]").cast("int64").to_numpy() // DAY_US
    rows = np.unique(np.stack([table["customer_id"].to_numpy(), day - day.min()], axis=1), axis=0)
    return np.unique(rows[:, 0], return_inverse=True)[1].astype(np.int64), rows[:, 1]


def _summarise_purchases(
    customer: npt.NDArray[np.int64], day: npt.NDArray[np.int64], until: int
) -> Purchases:
    is_before, people = day < until, int(customer.max()) + 1
    first, last = np.full(people, until), np.zeros(people, np.int64)
    np.minimum.at(first, customer[is_before], day[is_before])
    np.maximum.at(last, customer[is_before], day[is_before])
    repeats = np.bincount(customer[is_before], minlength=people).astype(np.float64) - 1
    return Purchases(repeats, (last - first).astype(np.float64), (until - first).astype(np.float64))


def draw_bg_nbd(model: BgNbd, age: Floats, span: float, rng: np.random.Generator) -> Population:
    """Draw customers who may leave after each repeat purchase."""
    people = len(age)
    rate, leaving = rng.gamma(model.r, 1 / model.alpha, people), rng.beta(model.a, model.b, people)
    repeats, last, later, now = (
        np.zeros(people),
        np.zeros(people),
        np.zeros(people),
        np.zeros(people),
    )
    active = np.arange(people)
    while len(active):
        with np.errstate(over="ignore", divide="ignore"):
            now[active] += rng.exponential(1, len(active)) / rate[active]
        active = active[now[active] <= age[active] + span]
        in_history = active[now[active] <= age[active]]
        repeats[in_history] += 1
        last[in_history] = now[in_history]
        later[active[now[active] > age[active]]] += 1
        active = active[rng.random(len(active)) >= leaving[active]]
    odds = (
        leaving
        / np.maximum(1 - leaving, 1e-300)
        * np.exp(np.minimum(rate * (age - last), EXPONENT_MAX))
    )
    alive = np.where(repeats > 0, 1 / (1 + odds), 1.0)
    long_run = -np.expm1(-rate * leaving * span) / np.maximum(leaving, 1e-300)
    return Population(
        Purchases(repeats, last, age),
        later,
        alive * -np.expm1(-rate * span),
        alive * np.where(leaving > 1e-12, long_run, rate * span),
    )


def draw_pareto_nbd(
    model: ParetoNbd, age: Floats, span: float, rng: np.random.Generator
) -> Population:
    """Draw customers who may leave at any time."""
    people = len(age)
    rate, leaving = (
        rng.gamma(model.r, 1 / model.alpha, people),
        rng.gamma(model.s, 1 / model.beta, people),
    )
    with np.errstate(over="ignore", divide="ignore"):
        life = rng.exponential(1, people) / leaving
    observed = np.minimum(life, age)
    repeats = rng.poisson(rate * observed).astype(np.float64)
    later = rng.poisson(rate * np.clip(life - age, 0, span)).astype(np.float64)
    last = np.where(
        repeats > 0, observed * rng.random(people) ** (1 / np.maximum(repeats, 1)), 0.0
    )  # the latest of so many, evenly drawn
    total_rate = np.maximum(rate + leaving, 1e-300)
    alive = 1 / (
        1 + leaving / total_rate * np.expm1(np.minimum(total_rate * (age - last), EXPONENT_MAX))
    )
    expected_life = np.where(
        leaving > 1e-12, -np.expm1(-leaving * span) / np.maximum(leaving, 1e-300), span
    )
    return Population(
        Purchases(repeats, last, age),
        later,
        alive * rate / total_rate * -np.expm1(-total_rate * span),
        alive * rate * expected_life,
    )


_MODELS: tuple[tuple[str, Callable[[Purchases], Any], Callable[..., Population]], ...] = (
    ("BG/NBD", fit_bg_nbd, draw_bg_nbd),
    ("Pareto/NBD", fit_pareto_nbd, draw_pareto_nbd),
)


def _compute_metrics(chance: Floats, expected: Floats, bought: Floats) -> Figures:
    """Return figures as `training.tasks.churn.evaluation` computes them, and the outcome.

    The outcome is the mean number of purchases and the share of customers that bought.
    """
    auc, ap, _ = SortedScores(chance, bought > 0).ranking_metrics(np.ones(len(bought)))
    return {
        "auc": auc,
        "ap": ap,
        "mae": float(np.abs(expected - bought).mean()),
        "bias": float(expected.sum() / bought.sum() - 1),
        "mean": float(bought.mean()),
        "share": float((bought > 0).mean()),
    }


def _mean_figures(by_population: list[Figures]) -> Figures:
    return {
        name: round(float(np.mean([figures[name] for figures in by_population])), 6)
        for name in by_population[0]
    }
