"""BG/NBD ("buy till you die"): repeat purchases of customers, fitted by maximum likelihood.

A customer without a contract buys at a rate λ, and after each purchase leaves for good with
probability p. λ is gamma distributed over customers (r, alpha), p is beta distributed (a, b).
Source: Fader, Hardie, Lee, "Counting Your Customers the Easy Way", Marketing Science 24 (2005),
whose equation numbers are used.

It is a baseline, and a strong one for counts. Its probability of being alive is no churn score: a
customer who bought once cannot have left after a repeat purchase, so it is 1, however long ago that
was. Compare models with `returning`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, checker, helper, numpy_helper
from scipy.optimize import minimize
from scipy.special import gammaln

from tailorbird.errors import NotReadyError
from tailorbird.models.export import INPUT, OPSET, OUTPUT
from tailorbird.ranking.churn.bg_nbd import expected_purchases, odds_of_having_left

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

CUSTOMERS_MIN = 20
SECONDS_PER_DAY = 86_400.0
IR_VERSION = 8


@dataclass(frozen=True)
class Purchases:
    """Sufficient statistics of customers, one entry each; times in any one unit.

    Attributes:
        repeats: x, purchases after the first.
        recency: t_x, from the first purchase to the last; 0 without a repeat.
        age: T, from the first purchase to now.
    """

    repeats: Floats
    recency: Floats
    age: Floats


@dataclass(frozen=True)
class BgNbd:
    """Parameters, named as in the paper, and their log-likelihood."""

    r: float
    alpha: float
    a: float
    b: float
    log_likelihood: float

    def probability_alive(self, customers: Purchases) -> Floats:
        """Return P(still a customer), shape (n,); 1 without a repeat purchase."""
        return 1 / (1 + odds_of_having_left(*self._arguments(customers)))

    def probability_returning(self, customers: Purchases, span: float) -> Floats:
        """Return P(at least one purchase within `span` from now), shape (n,).

        The rate of a customer who is alive is gamma (r + x, alpha + T).
        """
        x = customers.repeats
        age = customers.age
        p_none = ((self.alpha + age) / (self.alpha + age + span)) ** (self.r + x)
        return self.probability_alive(customers) * (1 - p_none)

    def expected_purchases(self, customers: Purchases, span: float) -> Floats:
        """Return expected purchases within `span` from now, shape (n,)."""
        return expected_purchases(*self._arguments(customers), span)

    def _arguments(
        self, customers: Purchases
    ) -> tuple[Floats, Floats, Floats, float, float, float, float]:
        history = customers.repeats, customers.recency, customers.age
        return *history, self.r, self.alpha, self.a, self.b


def fit_bg_nbd(customers: Purchases) -> BgNbd:
    """Return the maximum-likelihood parameters (equation 6), by L-BFGS-B from two starts.

    Raises:
        NotReadyError: too few customers, or none with a repeat purchase.
    """
    log_parameters, time_unit, log_likelihood = maximize_likelihood(
        "BG/NBD",
        customers,
        _log_likelihoods,
        (np.zeros(4), np.log([0.5, 0.5, 1.5, 3.0])),
        count_distinct,
    )
    r, alpha, a, b = np.exp(log_parameters).tolist()
    return BgNbd(r, alpha * time_unit, a if a != 1 else a + 1e-9, b, log_likelihood)


def maximize_likelihood(
    model: str,
    customers: Purchases,
    log_likelihoods: Callable[..., Floats],
    start_points: Sequence[Floats],
    reduce_customers: Callable[[Purchases], tuple[Purchases, Floats]],
) -> tuple[Floats, float, float]:
    """Return the best logarithms of four parameters, the unit of time, and the log-likelihood.

    Args:
        log_likelihoods: of customers, shape (n,), given the four parameters.
        start_points: logarithms of parameters to search from, by L-BFGS-B.
        reduce_customers: gives the distinct customers and their counts, or a sample of them.

    Raises:
        NotReadyError: too few customers, or none with a repeat purchase.
    """
    if len(customers.age) < CUSTOMERS_MIN or not np.any(customers.repeats > 0):
        raise NotReadyError(
            f"{model} needs at least {CUSTOMERS_MIN} customers and one repeat purchase"
        )
    time_unit = float(np.mean(customers.age)) or 1.0  # scales times to about 1 whatever the unit
    scaled_customers = Purchases(
        customers.repeats, customers.recency / time_unit, customers.age / time_unit
    )
    distinct_customers, customer_counts = reduce_customers(scaled_customers)

    def loss(log_parameters: Floats) -> float:
        mean_loss = -float(
            customer_counts @ log_likelihoods(distinct_customers, *np.exp(log_parameters))
        ) / len(customers.age)
        return mean_loss if np.isfinite(mean_loss) else 1e10

    bounds = [(-12.0, 12.0)] * 4
    optimum = min(
        (minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in start_points),
        key=lambda result: result.fun,
    )
    total_repeats = float(customers.repeats.sum())
    return (
        optimum.x,
        time_unit,
        float(-optimum.fun * len(customers.age) - total_repeats * np.log(time_unit)),
    )


def count_distinct(customers: Purchases) -> tuple[Purchases, Floats]:
    """Return the distinct customers and their counts; times in days leave few of them."""
    customer_rows = np.column_stack([customers.repeats, customers.recency, customers.age])
    distinct_rows, counts = np.unique(customer_rows, axis=0, return_counts=True)
    return Purchases(distinct_rows[:, 0], distinct_rows[:, 1], distinct_rows[:, 2]), counts.astype(
        np.float64
    )


def _log_likelihoods(customers: Purchases, r: float, alpha: float, a: float, b: float) -> Floats:
    x = customers.repeats
    recency = customers.recency
    age = customers.age
    log_bought = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
    log_stayed = gammaln(a + b) + gammaln(b + x) - gammaln(b) - gammaln(a + b + x)
    log_alive = -(r + x) * np.log(alpha + age)
    log_left = np.log(a) - np.log(b + np.maximum(x, 1) - 1) - (r + x) * np.log(alpha + recency)
    return log_bought + log_stayed + np.where(x > 0, np.logaddexp(log_alive, log_left), log_alive)


@dataclass(frozen=True)
class ColumnBgNbd:
    """BG/NBD over a model's matrix: P(at least one purchase within a span) from three columns.

    Attributes:
        model: fitted with days as the unit of time.
        columns: names of the matrix's columns, in order.
        recency_index, frequency_index, age_index: of the columns with seconds since the last
            purchase, purchases, and seconds since the first.
        span: days.
        lost_probability: probability of customers whose last purchase has expired from the columns.
    """

    model: BgNbd
    columns: tuple[str, ...]
    recency_index: int
    frequency_index: int
    age_index: int
    span: float
    lost_probability: float

    def score(self, matrix: Matrix) -> Floats:
        """Return P(at least one purchase), shape (n,)."""
        recency, frequency, age = (
            matrix[:, index].astype(np.float64)
            for index in (self.recency_index, self.frequency_index, self.age_index)
        )
        is_complete = np.isfinite(recency) & np.isfinite(age) & np.isfinite(frequency)
        recency, frequency, age = (
            np.where(is_complete, column, 0.0) for column in (recency, frequency, age)
        )
        customers = Purchases(
            np.maximum(frequency - 1, 0),
            np.maximum(age - recency, 0) / SECONDS_PER_DAY,
            age / SECONDS_PER_DAY,
        )
        return np.where(
            is_complete,
            self.model.probability_returning(customers, self.span),
            self.lost_probability,
        )

    def importance(self) -> dict[str, float]:
        """Return equal shares of the three columns."""
        return {
            self.columns[index]: 1 / 3
            for index in (self.recency_index, self.frequency_index, self.age_index)
        }


def bg_nbd_to_onnx(column_model: ColumnBgNbd) -> bytes:
    """Export the model as a self-contained ONNX file of standard operators.

    It computes in doubles, because with hundreds of purchases a float's rounding error is raised to
    that power.
    """
    parameters = column_model.model
    constants = {
        "r": parameters.r,
        "alpha": parameters.alpha,
        "a": parameters.a,
        "b1": parameters.b - 1,
        "span": parameters.alpha + column_model.span,
        "lost": column_model.lost_probability,
        "zero": 0.0,
        "one": 1.0,
        "day": SECONDS_PER_DAY,
    }
    tensors = {name: np.array(value, np.float64) for name, value in constants.items()}
    tensors |= {
        f"at_{name}": np.array(column_index, np.int64)
        for name, column_index in _column_indices(column_model)
    }
    # As in `ColumnBgNbd.score` and `odds_of_having_left`: alive = 1 / (1 + odds),
    # odds = start · grown = a / (b + repeats − 1) · (now / then)^shape,
    # any = 1 − (now / end)^shape.
    steps = [
        ("Cast", [INPUT], "columns"),
        *(("Gather", ["columns", f"at_{name}"], name) for name, _ in _column_indices(column_model)),
        ("Add", ["since", "frequency"], "some"),
        ("Add", ["some", "age"], "every"),
        ("IsNaN", ["every"], "gap"),
        *(
            ("Where", ["gap", "zero", name], f"{name}_known")
            for name, _ in _column_indices(column_model)
        ),
        ("Sub", ["frequency_known", "one"], "less"),
        ("Max", ["less", "zero"], "x"),
        ("Sub", ["age_known", "since_known"], "between"),
        ("Max", ["between", "zero"], "between_known"),
        ("Div", ["between_known", "day"], "recency"),
        ("Div", ["age_known", "day"], "T"),
        ("Add", ["T", "alpha"], "now"),
        ("Add", ["recency", "alpha"], "then"),
        ("Add", ["T", "span"], "end"),
        ("Log", ["now"], "log_now"),
        ("Log", ["then"], "log_then"),
        ("Log", ["end"], "log_end"),
        ("Add", ["x", "r"], "shape"),
        ("Sub", ["log_now", "log_then"], "away"),
        ("Mul", ["shape", "away"], "raised"),
        ("Exp", ["raised"], "grown"),
        ("Max", ["x", "one"], "repeats"),
        ("Add", ["repeats", "b1"], "below"),
        ("Div", ["a", "below"], "start"),
        ("Mul", ["start", "grown"], "odds"),
        ("Add", ["odds", "one"], "whole"),
        ("Div", ["one", "whole"], "alive_repeating"),
        ("Greater", ["x", "zero"], "repeating"),
        ("Where", ["repeating", "alive_repeating", "one"], "alive"),
        ("Sub", ["log_now", "log_end"], "ahead"),
        ("Mul", ["shape", "ahead"], "lowered"),
        ("Exp", ["lowered"], "none"),
        ("Sub", ["one", "none"], "any"),
        ("Mul", ["alive", "any"], "chance"),
        ("Where", ["gap", "lost", "chance"], "said"),
        ("Cast", ["said"], OUTPUT),
    ]
    nodes = [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps]
    for node in nodes:
        if node.op_type == "Gather":
            node.attribute.append(helper.make_attribute("axis", 1))
        if node.op_type == "Cast":
            kind = TensorProto.FLOAT if node.output[0] == OUTPUT else TensorProto.DOUBLE
            node.attribute.append(helper.make_attribute("to", kind))
    graph = helper.make_graph(
        nodes,
        "head",
        [
            helper.make_tensor_value_info(
                INPUT, TensorProto.FLOAT, [None, len(column_model.columns)]
            )
        ],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    onnx_model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    checker.check_model(onnx_model)
    return onnx_model.SerializeToString(deterministic=True)


def _column_indices(column_model: ColumnBgNbd) -> tuple[tuple[str, int], ...]:
    return (
        ("since", column_model.recency_index),
        ("frequency", column_model.frequency_index),
        ("age", column_model.age_index),
    )
