"""The drills of load: more requests than a server can answer, and endless senders.

The server of the overload has a core of its own, and so has the client; both are shared with other
load on the machine. So responses per second of the server's CPU are compared; those per second of
wall time are reported beside them.
"""

import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tests.faults.chaos.overloaded import slow_senders
from tests.faults.drills.judging import DrillResult, Span, judge, span
from tests.faults.drills.scenes import count_events
from tests.faults.drills.site import RATE, ROOT, Asking, Site, pause, site

GOODPUT = 0.9  # of the peak
FACTORS = (2, 10)
ROUNDS = 5
RECOVERED_S = 10.0
REFUSED_AT_PEAK = 0.01
LIMIT_MS = 1_000.0  # later responses do not count
AT_ONCE = 8  # of the closed loop that finds the peak
SERVER_CPU, ASKER_CPU = 0, 1
SENDERS = 1_000
SENDERS_STAY_S = 25.0  # ten of which they take to come
UNMOVED = 1.2  # times the p99 without slow senders, and a few milliseconds
UNMOVED_MS = 5.0


@dataclass
class Phase:
    """The result of a phase of requests.

    `good`: answered with items and soon enough; `cpu_s`: of the server, meanwhile.
    """

    tally: dict
    good: int
    cpu_s: float
    good_per_s: float
    ms: np.ndarray  # of the good ones


def overload(folder: Path, requests: int) -> DrillResult:
    """Alternate the peak and an overload, so that both meet the same machine.

    `requests` is about how many are sent if the machine is free.
    """
    seconds = max(3.0, requests / 1_200 / ROUNDS)
    with site(folder, servers=1, cpu=SERVER_CPU) as site_:
        usual_ms = float(np.median([measure_response_ms(site_) for _ in range(50)]))
        result = DrillResult(
            "overload",
            f"an open loop at {FACTORS[0]} and {FACTORS[1]} times what a closed loop of "
            f"{AT_ONCE} gets answered",
        )
        phases: list[Phase] = []
        for factor in FACTORS:
            peaks: list[Phase] = []
            overs: list[Phase] = []
            recovered = 0.0
            for _ in range(ROUNDS):
                peaks.append(run_flood(site_, seconds, at_once=AT_ONCE))
                overs.append(run_flood(site_, seconds, rate=factor * peaks[-1].good_per_s))
                recovered = max(recovered, recovery_s(site_, limit_ms=max(50.0, 5 * usual_ms)))
            compare(result, factor, peaks, overs)
            result.more[f"recovery_s_{factor}x"] = recovered
            if recovered > RECOVERED_S:
                result.missed.append(f"recovery {recovered:.0f} s after {factor} times")
            phases += [each for pair in zip(peaks, overs, strict=True) for each in pair]
        return sum_phases(result, phases)


def compare(
    result: DrillResult, factor: int, peaks: Sequence[Phase], overs: Sequence[Phase]
) -> None:
    """Compare an overload with the peak, per second of the server's CPU and per second."""
    by_cpu, by_clock = (
        [
            sum(phase.good for phase in phases_) / max(sum(phase.cpu_s for phase in phases_), 0.01)
            for phases_ in (overs, peaks)
        ],
        [float(np.mean([phase.good_per_s for phase in phases_])) for phases_ in (overs, peaks)],
    )
    goodput, refused = (
        by_cpu[0] / by_cpu[1],
        sum(phase.tally["status"].count(503) for phase in overs),
    )
    spent_on_refusals = (
        sum(phase.cpu_s for phase in overs) - sum(phase.good for phase in overs) / by_cpu[1]
    )
    over_ms, peak_ms = (
        np.concatenate([phase.ms for phase in phases_]) for phases_ in (overs, peaks)
    )
    result.more |= {
        f"peak_per_s_{factor}x": by_clock[1],
        f"offered_per_s_{factor}x": factor * by_clock[1],
        f"answer_cpu_us_{factor}x": 1e6 / by_cpu[1],
        f"refusal_cpu_us_{factor}x": 1e6 * spent_on_refusals / max(1, refused),
        f"goodput_{factor}x": goodput,
        f"goodput_by_clock_{factor}x": by_clock[0] / by_clock[1],
        f"p99_ms_peak_{factor}x": float(np.quantile(peak_ms, 0.99)),
        f"p50_ms_{factor}x": float(np.quantile(over_ms, 0.5)),
        f"p99_ms_{factor}x": float(np.quantile(over_ms, 0.99)),
    }
    if goodput < GOODPUT:
        result.missed.append(f"goodput {goodput:.2f} of the peak at {factor} times")


def sum_phases(result: DrillResult, phases: Sequence[Phase]) -> DrillResult:
    """Sum the requests of all phases: those of the peaks must all be answered."""
    statuses = Counter(status for phase in phases for status in phase.tally["status"])
    result.requests, result.answered = (
        sum(statuses.values()),
        statuses[200] - sum(phase.tally["empty"] for phase in phases),
    )
    result.failures = {
        f"it answered {status}" if status else "no answer": count
        for status, count in statuses.items()
        if status != 200
    }
    for phase in phases:
        for codes, count in phase.tally["lacked"].items():
            name = "+".join(codes.replace('"', "").split(",")) or "nothing"
            result.lacked[name] = result.lacked.get(name, 0) + count
    result.faults = len(phases) // 2
    result.requests_in_fault = sum(len(phase.tally["status"]) for phase in phases[1::2])
    result.labelled_in_fault = 0
    for part, phases_ in (("rest", phases[::2]), ("fault", phases[1::2])):
        good = np.concatenate(
            [
                np.array(phase.tally["ms"])[np.array(phase.tally["status"]) == 200]
                for phase in phases_
            ]
        )
        setattr(result, f"p50_ms_{part}", float(np.quantile(good, 0.5)))
        setattr(result, f"p99_ms_{part}", float(np.quantile(good, 0.99)))
    result.more["not_sent"] = sum(phase.tally["unsent"] for phase in phases)
    at_peak = Counter(status for phase in phases[::2] for status in phase.tally["status"])
    result.more["refused_at_peak"] = at_peak[503]  # eight at once may be too many on a busy machine
    if at_peak.total() - at_peak[200] > REFUSED_AT_PEAK * at_peak.total():
        result.missed.append(
            f"{at_peak.total() - at_peak[200]} of {at_peak.total()} not answered without overload"
        )
    if without_retry_after := sum(phase.tally["without_retry_after"] for phase in phases):
        result.missed.append(f"{without_retry_after} refused without a word on when to come again")
    return result


def run_flood(site_: Site, seconds: float, *, at_once: int = 0, rate: float = 0.0) -> Phase:
    """Send requests to the first server for so long, in a closed loop or at a rate."""
    out, server = site_.folder / f"flood-{time.monotonic_ns()}.json", site_.servers[0].process.pid
    command = [
        sys.executable,
        "-m",
        "tests.faults.drills.flood",
        site_.urls[0],
        "--cpu",
        str(ASKER_CPU),
        "--seconds",
        str(seconds),
    ]
    command += [
        "--pid",
        str(server),
        "--at-once",
        str(at_once),
        "--rate",
        str(rate),
        "--out",
        str(out),
    ]
    subprocess.run(command, check=True, cwd=ROOT, timeout=300)
    tally = json.loads(out.read_text())
    due, ms, status = (np.array(tally[name]) for name in ("began", "ms", "status"))
    ended, good = due + ms / 1_000, (status == 200) & (ms <= LIMIT_MS)
    # Only responses in the middle count, so that neither the start nor the backlog at the end does.
    start = due.min() + 1.0
    within = good & (ended >= start) & (ended < start + seconds - 1.0)
    return Phase(
        tally,
        int(good.sum()),
        tally["cpu_s"],
        float(within.sum()) / (seconds - 1.0),
        ms[good] if good.any() else ms,
    )


def recovery_s(site_: Site, limit_ms: float) -> float:
    """Return the seconds until ten requests in a row have items in time; at most a minute."""
    started, good_in_row = time.monotonic(), 0
    while good_in_row < 10 and time.monotonic() - started < 60:
        good_in_row = good_in_row + 1 if measure_response_ms(site_) < limit_ms else 0
    return time.monotonic() - started


def measure_response_ms(site_: Site) -> float:
    """Measure the latency of a response; infinite without one."""
    started = time.monotonic()
    return (
        (time.monotonic() - started) * 1_000 if site_.ask(site_.urls[0])["items"] else float("inf")
    )


class Swarm:
    """Connections that announce a body and send a byte of it; closed ones are replaced.

    They are opened at a pace, not all at once.
    """

    def __init__(self, port: int, count: int) -> None:
        self._port, self._count = port, count
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peers: list[socket.socket] = []
        self.closed = 0  # by the server

    def __enter__(self) -> "Swarm":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for peer in self.peers:
            peer.close()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            stay = [peer for peer in self.peers if not is_closed(peer)]
            self.closed += len(self.peers) - len(stay)
            self.peers = stay + slow_senders(
                self._port, min(self._count // 80, self._count - len(stay))
            )


def is_closed(peer: socket.socket) -> bool:
    """Return True if the server has answered or closed; it is closed here too then."""
    try:
        peer.recv(1_000)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    peer.close()
    return True


def slow(folder: Path, requests: int) -> DrillResult:
    """Alternate a thousand connections that announce a body and send a byte of it, and none."""
    spans: list[Span] = []
    stay_s = min(SENDERS_STAY_S, requests / RATE / 4)
    with site(folder, servers=1) as site_:
        asking, closed, port = Asking(site_, requests), 0, int(site_.urls[0].rpartition(":")[2])
        at_once: list[int] = []
        while not asking.over():
            pause(stay_s, asking.over)
            with span(spans), Swarm(port, SENDERS) as swarm:
                pause(stay_s, asking.over)
                at_once.append(len(swarm.peers))
            closed += swarm.closed
        result = judge(
            "slow",
            "a thousand senders that never bring their body, and nobody else, in turn",
            asking.tally(),
            spans,
        )
        result.more |= {"senders_at_once": max(at_once), "closed_by_the_server": closed}
        usual, p99_ms = result.p99_ms_rest, result.p99_ms_fault
        if usual is not None and p99_ms is not None and p99_ms > UNMOVED * usual + UNMOVED_MS:
            result.missed.append(f"p99 of the others went from {usual:.0f} to {p99_ms:.0f} ms")
        return count_events(site_, result, asking)
