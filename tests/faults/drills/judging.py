"""What a drill came to, from what the asking process wrote down and when the fault was there."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

AVAILABLE = 0.9999

Span = tuple[float, float]  # from when to when, monotonic


@dataclass
class Found:
    """What a drill came to. `rest` is outside the fault, `fault` within it; times in milliseconds,
    None where nobody asked then.
    """

    name: str
    what: str
    requests: int = 0
    answered: int = 0
    retried: int = 0
    per_s: float = 0.0
    lacked: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    faults: int = 0  # times that the fault was there
    fault_s: float = 0.0
    requests_in_fault: int = 0
    labelled_in_fault: int = 0
    p50_ms_rest: float | None = None
    p99_ms_rest: float | None = None
    p50_ms_fault: float | None = None
    p99_ms_fault: float | None = None
    events: int = 0  # that were sent beside
    events_lost: int = 0  # of those that a server has taken
    more: dict[str, float] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)  # of what is expected

    @property
    def availability(self) -> float:
        return self.answered / self.requests if self.requests else 0.0


def judged(name: str, what: str, told: dict, spans: Sequence[Span], *, lacks: str = "") -> Found:
    """Sum a tally up. `spans`: when the fault was there; `lacks`: the code that answers must show
    at some time of it.
    """
    began, ms, lacked = np.array(told["began"]), np.array(told["ms"]), told["lacked"]
    ended = began + ms / 1_000
    within = np.zeros(began.size, bool)
    for start, stop in spans:
        within |= (ended >= start) & (began <= stop)
    found = Found(
        name,
        what,
        requests=began.size,
        retried=told["retried"],
        faults=len(spans),
        events=len(told["clicks"]),
    )
    for each in lacked:
        if each.startswith("!"):
            found.failures[each[1:80]] = found.failures.get(each[1:80], 0) + 1
        else:
            found.lacked[each or "nothing"] = found.lacked.get(each or "nothing", 0) + 1
    found.answered = sum(found.lacked.values())
    found.per_s = float(began.size / max(ended.max() - began.min(), 1e-9))
    found.fault_s = sum(stop - start for start, stop in spans)
    found.requests_in_fault = int(within.sum())
    found.labelled_in_fault = sum(
        1
        for each, inside in zip(lacked, within.tolist(), strict=True)
        if inside and each and each[0] != "!"
    )
    for part, rows in (("rest", ~within), ("fault", within)):
        if rows.any():
            setattr(found, f"p50_ms_{part}", float(np.quantile(ms[rows], 0.5)))
            setattr(found, f"p99_ms_{part}", float(np.quantile(ms[rows], 0.99)))
    if found.availability < AVAILABLE:
        found.missed.append(f"availability {found.availability:.5f}")
    if lacks and not any(lacks in each.split("+") for each in found.lacked):
        found.missed.append(f"no answer says {lacks}")
    if told["unsent"]:
        found.missed.append(f"{told['unsent']} events still wait in the client")
    return found


@contextmanager
def span(spans: list[Span]) -> Iterator[None]:
    """A fault is there: from when to when."""
    began = time.monotonic()
    yield
    spans.append((began, time.monotonic()))
