"""Results of a drill, from the client's tally and the times of the fault."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

AVAILABLE = 0.9999

Span = tuple[float, float]  # from when to when, monotonic


@dataclass
class DrillResult:
    """The result of a drill.

    `rest` is outside the fault, `fault` within it; times are in milliseconds, None if there were no
    requests then.
    """

    name: str
    what: str
    requests: int = 0
    answered: int = 0
    retried: int = 0
    per_s: float = 0.0
    lacked: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    faults: int = 0  # how often the fault took place
    fault_s: float = 0.0
    requests_in_fault: int = 0
    labelled_in_fault: int = 0
    p50_ms_rest: float | None = None
    p99_ms_rest: float | None = None
    p50_ms_fault: float | None = None
    p99_ms_fault: float | None = None
    events: int = 0  # sent besides the requests
    events_lost: int = 0  # of those that a server accepted
    more: dict[str, float] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)  # of what is expected

    @property
    def availability(self) -> float:
        return self.answered / self.requests if self.requests else 0.0


def judge(
    name: str, what: str, tally: dict, spans: Sequence[Span], *, expected_code: str = ""
) -> DrillResult:
    """Sum a tally up.

    `spans`: times of the fault; `expected_code`: the code that some response must show during it.
    """
    due, ms, lacked = np.array(tally["began"]), np.array(tally["ms"]), tally["lacked"]
    ended = due + ms / 1_000
    within = np.zeros(due.size, bool)
    for start, stop in spans:
        within |= (ended >= start) & (due <= stop)
    result = DrillResult(
        name,
        what,
        requests=due.size,
        retried=tally["retry_count"],
        faults=len(spans),
        events=len(tally["clicks"]),
    )
    for codes in lacked:
        if codes.startswith("!"):
            result.failures[codes[1:80]] = result.failures.get(codes[1:80], 0) + 1
        else:
            result.lacked[codes or "nothing"] = result.lacked.get(codes or "nothing", 0) + 1
    result.answered = sum(result.lacked.values())
    result.per_s = float(due.size / max(ended.max() - due.min(), 1e-9))
    result.fault_s = sum(stop - start for start, stop in spans)
    result.requests_in_fault = int(within.sum())
    result.labelled_in_fault = sum(
        1
        for codes, inside in zip(lacked, within.tolist(), strict=True)
        if inside and codes and codes[0] != "!"
    )
    for part, rows in (("rest", ~within), ("fault", within)):
        if rows.any():
            setattr(result, f"p50_ms_{part}", float(np.quantile(ms[rows], 0.5)))
            setattr(result, f"p99_ms_{part}", float(np.quantile(ms[rows], 0.99)))
    if result.availability < AVAILABLE:
        result.missed.append(f"availability {result.availability:.5f}")
    if expected_code and not any(expected_code in codes.split("+") for codes in result.lacked):
        result.missed.append(f"no answer says {expected_code}")
    if tally["unsent"]:
        result.missed.append(f"{tally['unsent']} events still wait in the client")
    return result


@contextmanager
def span(spans: list[Span]) -> Iterator[None]:
    """Record the start and end of a fault."""
    started = time.monotonic()
    yield
    spans.append((started, time.monotonic()))
