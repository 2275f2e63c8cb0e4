"""How well anybody could foretell CDNOW's customers, were a model of their purchases true: `python
-m benchmarks.quality.cdnow --ceiling`.

    fit BG/NBD or Pareto/NBD → draw as many customers, with the same first days and the same 39 weeks before and after → judge two of them:
    posterior     is told the history and the four numbers of the population: the model's own formula, which nobody beats who knows no more
    parameters    is told each customer's own rate and chance of leaving, too, and has only chance against them

Each model is fitted twice: to what is known at the origin, and to all 78 weeks, which is told what
comes. Beside them stands what the same formula says of the real customers. Where that is far from
its own world's, the model is not true, and its ceiling is none of the data's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from tailorbird.models.btyd import BgNbd, Purchases, fit_bg_nbd
from tailorbird.training.churn.judge import SortedScores
from tailorbird.training.churn.pareto import ParetoNbd, fit_pareto_nbd

Floats = npt.NDArray[np.float64]
Figures = dict[str, float]

DAY_US = 86_400_000_000
LARGEST = 700.0  # whose exponential is a number


@dataclass(frozen=True)
class Drawn:
    """Customers of a population: what is known of them, what they bought later, and P(a purchase)
    and expectation by their own numbers.
    """

    known: Purchases
    later: Floats
    chance: Floats
    expected: Floats


def ceiling(
    folder: Path, *, known_days: int, held_days: int, populations: int
) -> list[dict[str, Any]]:
    """A row for each model and what it was fitted to: figures of the real customers, and means over
    drawn populations.
    """
    customer, day = _purchase_days(folder)
    before, whole = (
        _summary(customer, day, known_days),
        _summary(customer, day, known_days + held_days),
    )
    bought = np.bincount(customer[day >= known_days], minlength=len(before.age)).astype(np.float64)
    rows = []
    for name, fit, draw in _MODELS:
        for fitted_to, customers in (("39 weeks", before), ("78 weeks", whole)):
            model, found = fit(customers), []
            for seed in range(populations):
                one = draw(model, before.age, float(held_days), np.random.default_rng(seed))
                told = _judged(
                    model.returning(one.known, held_days),
                    model.purchases(one.known, held_days),
                    one.later,
                )
                found.append((told, _judged(one.chance, one.expected, one.later)))
            rows.append(
                {
                    "model": name,
                    "fitted_to": fitted_to,
                    "real": _mean(
                        [
                            _judged(
                                model.returning(before, held_days),
                                model.purchases(before, held_days),
                                bought,
                            )
                        ]
                    ),
                    "posterior": _mean([each for each, _ in found]),
                    "parameters": _mean([each for _, each in found]),
                }
            )
    return rows


def told(rows: list[dict[str, Any]]) -> str:
    """The rows for people."""
    figures = ("auc", "ap", "mae", "bias", "mean", "share")
    lines = [f"{'model, fitted to':24}{'':12}" + "".join(f"{name:>9}" for name in figures)]
    for row in rows:
        for who in ("real", "posterior", "parameters"):
            head = f"{row['model']}, {row['fitted_to']}" if who == "real" else ""
            lines.append(
                f"{head:24}{who:12}" + "".join(f"{row[who][name]:9.4f}" for name in figures)
            )
    return "\n".join(lines)


def _purchase_days(folder: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Customer and day of each purchase, days from the first one; several of a day are one."""
    table = pq.read_table(folder / "transactions.parquet", columns=["customer_id", "date"])
    day = table["date"].cast("timestamp[us]").cast("int64").to_numpy() // DAY_US
    rows = np.unique(np.stack([table["customer_id"].to_numpy(), day - day.min()], axis=1), axis=0)
    return np.unique(rows[:, 0], return_inverse=True)[1].astype(np.int64), rows[:, 1]


def _summary(customer: npt.NDArray[np.int64], day: npt.NDArray[np.int64], until: int) -> Purchases:
    kept, people = day < until, int(customer.max()) + 1
    first, last = np.full(people, until), np.zeros(people, np.int64)
    np.minimum.at(first, customer[kept], day[kept])
    np.maximum.at(last, customer[kept], day[kept])
    repeats = np.bincount(customer[kept], minlength=people).astype(np.float64) - 1
    return Purchases(repeats, (last - first).astype(np.float64), (until - first).astype(np.float64))


def draw_bg_nbd(model: BgNbd, age: Floats, span: float, rng: np.random.Generator) -> Drawn:
    """Customers who may leave after each repeat purchase."""
    people = len(age)
    rate, leaving = rng.gamma(model.r, 1 / model.alpha, people), rng.beta(model.a, model.b, people)
    repeats, last, later, now = (
        np.zeros(people),
        np.zeros(people),
        np.zeros(people),
        np.zeros(people),
    )
    there = np.arange(people)
    while len(there):
        with np.errstate(over="ignore", divide="ignore"):
            now[there] += rng.exponential(1, len(there)) / rate[there]
        there = there[now[there] <= age[there] + span]
        seen = there[now[there] <= age[there]]
        repeats[seen] += 1
        last[seen] = now[seen]
        later[there[now[there] > age[there]]] += 1
        there = there[rng.random(len(there)) >= leaving[there]]
    odds = (
        leaving / np.maximum(1 - leaving, 1e-300) * np.exp(np.minimum(rate * (age - last), LARGEST))
    )
    alive = np.where(repeats > 0, 1 / (1 + odds), 1.0)
    each = -np.expm1(-rate * leaving * span) / np.maximum(leaving, 1e-300)
    return Drawn(
        Purchases(repeats, last, age),
        later,
        alive * -np.expm1(-rate * span),
        alive * np.where(leaving > 1e-12, each, rate * span),
    )


def draw_pareto_nbd(model: ParetoNbd, age: Floats, span: float, rng: np.random.Generator) -> Drawn:
    """Customers who may leave at any time."""
    people = len(age)
    rate, leaving = (
        rng.gamma(model.r, 1 / model.alpha, people),
        rng.gamma(model.s, 1 / model.beta, people),
    )
    with np.errstate(over="ignore", divide="ignore"):
        life = rng.exponential(1, people) / leaving
    seen = np.minimum(life, age)
    repeats = rng.poisson(rate * seen).astype(np.float64)
    later = rng.poisson(rate * np.clip(life - age, 0, span)).astype(np.float64)
    last = np.where(
        repeats > 0, seen * rng.random(people) ** (1 / np.maximum(repeats, 1)), 0.0
    )  # the latest of so many, evenly drawn
    both = np.maximum(rate + leaving, 1e-300)
    alive = 1 / (1 + leaving / both * np.expm1(np.minimum(both * (age - last), LARGEST)))
    lasting = np.where(
        leaving > 1e-12, -np.expm1(-leaving * span) / np.maximum(leaving, 1e-300), span
    )
    return Drawn(
        Purchases(repeats, last, age),
        later,
        alive * rate / both * -np.expm1(-both * span),
        alive * rate * lasting,
    )


_MODELS: tuple[tuple[str, Callable[[Purchases], Any], Callable[..., Drawn]], ...] = (
    ("BG/NBD", fit_bg_nbd, draw_bg_nbd),
    ("Pareto/NBD", fit_pareto_nbd, draw_pareto_nbd),
)


def _judged(chance: Floats, expected: Floats, bought: Floats) -> Figures:
    """Figures of who buys again, as `training.churn.judge` has them, and what came: the mean, and
    the share that bought.
    """
    auc, ap, _ = SortedScores(chance, bought > 0).figures(np.ones(len(bought)))
    return {
        "auc": auc,
        "ap": ap,
        "mae": float(np.abs(expected - bought).mean()),
        "bias": float(expected.sum() / bought.sum() - 1),
        "mean": float(bought.mean()),
        "share": float((bought > 0).mean()),
    }


def _mean(each: list[Figures]) -> Figures:
    return {name: round(float(np.mean([figures[name] for figures in each])), 6) for name in each[0]}
