"""BG/NBD: how often customers without a contract buy again, from how often and how recently they
did, by maximum likelihood.

A customer buys at a rate λ, and after each purchase stays away for good with probability p; λ is
gamma distributed over customers (r, alpha), p is beta distributed (a, b). Source: Fader, Hardie,
Lee, "Counting Your Customers the Easy Way", Marketing Science 24 (2005); equation numbers are
theirs.

A baseline, and a hard one for counts. Its probability of being alive is no churn score: a customer
who bought once cannot have stayed away after a repeat purchase, so it is 1, however long ago that
was. `returning` is what can be held against a model.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, checker, helper, numpy_helper
from scipy.optimize import minimize
from scipy.special import betaincinv, gammaln, hyp2f1

from tailorbird.errors import NotReadyError
from tailorbird.models.export import INPUT, OPSET, OUTPUT

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

CUSTOMERS_MIN = 20
SECONDS = 86_400.0  # of a day, the unit of what is read from columns
IR_VERSION = 8
# Of a chance, where the series overflows: close together at 0, as a few who hardly ever stay away
# may buy most of all.
QUANTILES = np.concatenate([[0.0], np.geomspace(1e-12, 1e-2, 500), np.linspace(1e-2, 1, 1_000)[1:]])


@dataclass(frozen=True)
class Purchases:
    """What is known of customers: one entry each, times in one unit of one's choice, such as weeks.

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
    """Parameters as the paper names them, and the log-likelihood that they reach."""

    r: float
    alpha: float
    a: float
    b: float
    log_likelihood: float

    def alive(self, customers: Purchases) -> Floats:
        """P(still a customer), shape (n,); 1 for everybody without a repeat purchase."""
        x, recency, age = customers.repeats, customers.recency, customers.age
        with np.errstate(over="ignore"):  # of many purchases and none for long: gone for certain
            odds = (
                self.a
                / (self.b + np.maximum(x, 1) - 1)
                * ((self.alpha + age) / (self.alpha + recency)) ** (self.r + x)
            )
        return np.where(x > 0, 1 / (1 + odds), 1.0)

    def returning(self, customers: Purchases, span: float) -> Floats:
        """P(at least one purchase within `span` from now), shape (n,): of one who is alive, whose
        rate is gamma (r + x, alpha + T).
        """
        x, age = customers.repeats, customers.age
        none = ((self.alpha + age) / (self.alpha + age + span)) ** (self.r + x)
        return self.alive(customers) * (1 - none)

    def purchases(self, customers: Purchases, span: float) -> Floats:
        """Expected purchases within `span` from now, shape (n,); equation 10, its series after
        Euler's transformation.

        As printed, the series overflows for thousands of purchases: (1 − z)^(r + x) F(r + x, b + x;
        c; z) is (1 − z)^(a − 1) F(a − 1, a + b − 1 − r; c; z).
        """
        x, recency, age = customers.repeats, customers.recency, customers.age
        r, alpha, a, b = self.r, self.alpha, self.a, self.b
        z = span / (alpha + age + span)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            grown = (
                (a + b + x - 1)
                / (a - 1)
                * (1 - (1 - z) ** (a - 1) * hyp2f1(a - 1, a + b - 1 - r, a + b + x - 1, z))
            )
        rate = (r + x) / (alpha + age)
        if (
            lost := ~((grown >= 0) & (grown <= rate * span * (1 + 1e-6)))
        ).any():  # at the ends of what is fitted the series overflows
            grown[lost] = _by_quantiles((r + x)[lost], (alpha + age)[lost], a, (b + x)[lost], span)
        with np.errstate(over="ignore"):
            odds = np.where(
                x > 0,
                a / (b + np.maximum(x, 1) - 1) * ((alpha + age) / (alpha + recency)) ** (r + x),
                0.0,
            )
        return grown / (1 + odds)


def _by_quantiles(shape: Floats, scale: Floats, a: float, b: Floats, span: float) -> Floats:
    """Expected purchases of those who are alive: the mean over quantiles of the chance of staying
    away after one, which is beta (a, b).
    """
    total, per = np.zeros(len(shape)), span / scale
    kinds, of = np.unique(b, return_inverse=True)
    for low, high in pairwise(QUANTILES.tolist()):
        p = betaincinv(a, kinds, (low + high) / 2)[of]
        with np.errstate(divide="ignore", invalid="ignore"):
            total += (high - low) * np.where(
                p > 1e-200, -np.expm1(-shape * np.log1p(p * per)) / p, shape * per
            )
    return total


def fit_bg_nbd(customers: Purchases) -> BgNbd:
    """The parameters of most likelihood (equation 6), by L-BFGS-B over their logarithms from two
    beginnings.

    Raises:
        NotReadyError: too few customers, or none that ever came back.
    """
    if len(customers.age) < CUSTOMERS_MIN or not np.any(customers.repeats > 0):
        raise NotReadyError(
            f"BG/NBD needs at least {CUSTOMERS_MIN} customers and one repeat purchase"
        )
    scale = float(np.mean(customers.age)) or 1.0  # so that alpha is about 1 whatever the unit
    scaled = Purchases(customers.repeats, customers.recency / scale, customers.age / scale)
    kinds, weight = distinct(scaled)

    def loss(logs: Floats) -> float:
        value = -float(weight @ _log_likelihoods(kinds, *np.exp(logs))) / len(customers.age)
        return value if np.isfinite(value) else 1e10

    bounds = [(-12.0, 12.0)] * 4
    starts = (np.zeros(4), np.log([0.5, 0.5, 1.5, 3.0]))
    found = min(
        (minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts),
        key=lambda each: each.fun,
    )
    r, alpha, a, b = np.exp(found.x).tolist()
    repeats = float(customers.repeats.sum())
    likelihood = -found.fun * len(customers.age) - repeats * np.log(scale)
    return BgNbd(r, alpha * scale, a if a != 1 else a + 1e-9, b, float(likelihood))


def distinct(customers: Purchases) -> tuple[Purchases, Floats]:
    """Each combination once, and how many customers have it: days make few of them."""
    table = np.column_stack([customers.repeats, customers.recency, customers.age])
    kinds, count = np.unique(table, axis=0, return_counts=True)
    return Purchases(kinds[:, 0], kinds[:, 1], kinds[:, 2]), count.astype(np.float64)


def _log_likelihoods(customers: Purchases, r: float, alpha: float, a: float, b: float) -> Floats:
    x, recency, age = customers.repeats, customers.recency, customers.age
    bought = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
    stayed = gammaln(a + b) + gammaln(b + x) - gammaln(b) - gammaln(a + b + x)
    there = -(r + x) * np.log(alpha + age)
    gone = np.log(a) - np.log(b + np.maximum(x, 1) - 1) - (r + x) * np.log(alpha + recency)
    return bought + stayed + np.where(x > 0, np.logaddexp(there, gone), there)


@dataclass(frozen=True)
class BgNbdOfColumns:
    """BG/NBD over a model's matrix: P(at least one purchase within a span) from three of its
    columns.

    Attributes:
        model: fitted with days as the unit of time.
        columns: names of the matrix's columns, in order. recency, frequency, age: the places of:
        seconds since the last purchase, purchases, seconds since the first.
        span: days.
        lost: of those whose last purchase is so long ago that nothing is known of it any more.
    """

    model: BgNbd
    columns: tuple[str, ...]
    recency: int
    frequency: int
    age: int
    span: float
    lost: float

    def score(self, matrix: Matrix) -> Floats:
        """P(at least one purchase), shape (n,)."""
        since, count, age = (
            matrix[:, place].astype(np.float64)
            for place in (self.recency, self.frequency, self.age)
        )
        known = np.isfinite(since) & np.isfinite(age) & np.isfinite(count)
        since, count, age = (np.where(known, column, 0.0) for column in (since, count, age))
        customers = Purchases(
            np.maximum(count - 1, 0), np.maximum(age - since, 0) / SECONDS, age / SECONDS
        )
        return np.where(known, self.model.returning(customers, self.span), self.lost)

    def importance(self) -> dict[str, float]:
        """An even share of its three columns."""
        return {self.columns[place]: 1 / 3 for place in (self.recency, self.frequency, self.age)}


def bg_nbd_to_onnx(found: BgNbdOfColumns) -> bytes:
    """The same as a self-contained ONNX file of plain operators.

    It reckons in doubles: of hundreds of purchases, what a float's last digit is wrong by is raised
    to that power.
    """
    m = found.model
    numbers = {
        "r": m.r,
        "alpha": m.alpha,
        "a": m.a,
        "b1": m.b - 1,
        "span": m.alpha + found.span,
        "lost": found.lost,
        "zero": 0.0,
        "one": 1.0,
        "day": SECONDS,
    }
    tensors = {name: np.array(value, np.float64) for name, value in numbers.items()}
    tensors |= {f"at_{name}": np.array(place, np.int64) for name, place in _places(found)}
    steps = [
        ("Cast", [INPUT], "columns"),
        *(("Gather", ["columns", f"at_{name}"], name) for name, _ in _places(found)),
        ("Add", ["since", "frequency"], "some"),
        ("Add", ["some", "age"], "every"),
        ("IsNaN", ["every"], "gap"),
        *(("Where", ["gap", "zero", name], f"{name}_known") for name, _ in _places(found)),
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
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, len(found.columns)])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    checker.check_model(made)
    return made.SerializeToString(deterministic=True)


def _places(found: BgNbdOfColumns) -> tuple[tuple[str, int], ...]:
    return ("since", found.recency), ("frequency", found.frequency), ("age", found.age)
