"""The drills of load: more questions than a server can answer, and senders that never come to an
end.

The server of the overload has a core of its own, and so has who asks; both are shared with whatever
else the machine does. Held against each other are therefore answers for each second of the server's
CPU; those for each second that passed are told beside.
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
from tests.faults.drills.judging import Found, Span, judged, span
from tests.faults.drills.scenes import count_events
from tests.faults.drills.site import RATE, ROOT, Asking, Site, pause, site

GOODPUT = 0.9  # of the peak
FACTORS = (2, 10)
ROUNDS = 5
RECOVERED_S = 10.0
REFUSED_AT_PEAK = 0.01
WANTED_MS = 1_000.0  # an answer that comes later counts for nothing
AT_ONCE = 8  # of the closed loop that finds the peak
SERVER_CPU, ASKER_CPU = 0, 1
SENDERS = 1_000
SENDERS_STAY_S = 25.0  # ten of which they take to come
UNMOVED = 1.2  # times the p99 without slow senders, and a few milliseconds
UNMOVED_MS = 5.0


@dataclass
class Phase:
    """What came of asking for a while. `good`: answered with items and soon enough; `cpu_s`: of the
    server, meanwhile.
    """

    tally: dict
    good: int
    cpu_s: float
    good_per_s: float
    ms: np.ndarray  # of the good ones


def overload(folder: Path, requests: int) -> Found:
    """The peak and an overload in turn, so that both have the machine alike; `requests` is about
    how many are asked if it is free.
    """
    seconds = max(3.0, requests / 1_200 / ROUNDS)
    with site(folder, servers=1, cpu=SERVER_CPU) as here:
        usual_ms = float(np.median([timed_ms(here) for _ in range(50)]))
        found = Found(
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
                peaks.append(asked(here, seconds, at_once=AT_ONCE))
                overs.append(asked(here, seconds, rate=factor * peaks[-1].good_per_s))
                recovered = max(recovered, recovery_s(here, within_ms=max(50.0, 5 * usual_ms)))
            compare(found, factor, peaks, overs)
            found.more[f"recovery_s_{factor}x"] = recovered
            if recovered > RECOVERED_S:
                found.missed.append(f"recovery {recovered:.0f} s after {factor} times")
            phases += [each for pair in zip(peaks, overs, strict=True) for each in pair]
        return summed_up(found, phases)


def compare(found: Found, factor: int, peaks: Sequence[Phase], overs: Sequence[Phase]) -> None:
    """The answers of an overload beside those of the peak: for each second of the server's CPU, and
    by the clock.
    """
    by_cpu, by_clock = (
        [
            sum(phase.good for phase in of) / max(sum(phase.cpu_s for phase in of), 0.01)
            for of in (overs, peaks)
        ],
        [float(np.mean([phase.good_per_s for phase in of])) for of in (overs, peaks)],
    )
    goodput, refused = (
        by_cpu[0] / by_cpu[1],
        sum(phase.tally["status"].count(503) for phase in overs),
    )
    spent_on_refusals = (
        sum(phase.cpu_s for phase in overs) - sum(phase.good for phase in overs) / by_cpu[1]
    )
    over_ms, peak_ms = (np.concatenate([phase.ms for phase in of]) for of in (overs, peaks))
    found.more |= {
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
        found.missed.append(f"goodput {goodput:.2f} of the peak at {factor} times")


def summed_up(found: Found, phases: Sequence[Phase]) -> Found:
    """The requests of all phases: those of the peaks, which must all be answered, and those of the
    overload.
    """
    statuses = Counter(status for phase in phases for status in phase.tally["status"])
    found.requests, found.answered = (
        sum(statuses.values()),
        statuses[200] - sum(phase.tally["empty"] for phase in phases),
    )
    found.failures = {
        f"it answered {status}" if status else "no answer": count
        for status, count in statuses.items()
        if status != 200
    }
    for phase in phases:
        for codes, count in phase.tally["lacked"].items():
            name = "+".join(codes.replace('"', "").split(",")) or "nothing"
            found.lacked[name] = found.lacked.get(name, 0) + count
    found.faults = len(phases) // 2
    found.requests_in_fault = sum(len(phase.tally["status"]) for phase in phases[1::2])
    found.labelled_in_fault = 0
    for part, of in (("rest", phases[::2]), ("fault", phases[1::2])):
        good = np.concatenate(
            [np.array(phase.tally["ms"])[np.array(phase.tally["status"]) == 200] for phase in of]
        )
        setattr(found, f"p50_ms_{part}", float(np.quantile(good, 0.5)))
        setattr(found, f"p99_ms_{part}", float(np.quantile(good, 0.99)))
    found.more["not_sent"] = sum(phase.tally["unsent"] for phase in phases)
    at_peak = Counter(status for phase in phases[::2] for status in phase.tally["status"])
    found.more["refused_at_peak"] = at_peak[
        503
    ]  # eight at once are too many where the machine gives the server next to nothing
    if at_peak.total() - at_peak[200] > REFUSED_AT_PEAK * at_peak.total():
        found.missed.append(
            f"{at_peak.total() - at_peak[200]} of {at_peak.total()} not answered without overload"
        )
    if vague := sum(phase.tally["without_retry_after"] for phase in phases):
        found.missed.append(f"{vague} refused without a word on when to come again")
    return found


def asked(here: Site, seconds: float, *, at_once: int = 0, rate: float = 0.0) -> Phase:
    """Ask the first server for so long, in a closed loop or at a rate."""
    out, server = here.folder / f"flood-{time.monotonic_ns()}.json", here.servers[0].process.pid
    command = [
        sys.executable,
        "-m",
        "tests.faults.drills.flood",
        here.urls[0],
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
    began, ms, status = (np.array(tally[name]) for name in ("began", "ms", "status"))
    ended, good = began + ms / 1_000, (status == 200) & (ms <= WANTED_MS)
    # By the clock: of what was answered in the middle, so that neither the beginning nor the
    # backlog at the end counts.
    start = began.min() + 1.0
    within = good & (ended >= start) & (ended < start + seconds - 1.0)
    return Phase(
        tally,
        int(good.sum()),
        tally["cpu_s"],
        float(within.sum()) / (seconds - 1.0),
        ms[good] if good.any() else ms,
    )


def recovery_s(here: Site, within_ms: float) -> float:
    """How long until ten requests in a row are answered with items in that time; a minute at most."""
    began, row = time.monotonic(), 0
    while row < 10 and time.monotonic() - began < 60:
        row = row + 1 if timed_ms(here) < within_ms else 0
    return time.monotonic() - began


def timed_ms(here: Site) -> float:
    """How long an answer takes; without end, if it is none."""
    began = time.monotonic()
    return (time.monotonic() - began) * 1_000 if here.ask(here.urls[0])["items"] else float("inf")


class Swarm:
    """Connections that announce a body and bring a byte of it; who is closed for that is replaced.
    Opened at a pace, not all at once.
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
            stay = [peer for peer in self.peers if not ended(peer)]
            self.closed += len(self.peers) - len(stay)
            self.peers = stay + slow_senders(
                self._port, min(self._count // 80, self._count - len(stay))
            )


def ended(peer: socket.socket) -> bool:
    """Whether the server has answered or closed; it is closed here too then."""
    try:
        peer.recv(1_000)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    peer.close()
    return True


def slow(folder: Path, requests: int) -> Found:
    """In turn: a thousand connections that announce a body and bring a byte of it, and none."""
    spans: list[Span] = []
    stay_s = min(SENDERS_STAY_S, requests / RATE / 4)
    with site(folder, servers=1) as here:
        asking, closed, port = Asking(here, requests), 0, int(here.urls[0].rpartition(":")[2])
        at_once: list[int] = []
        while not asking.over():
            pause(stay_s, asking.over)
            with span(spans), Swarm(port, SENDERS) as swarm:
                pause(stay_s, asking.over)
                at_once.append(len(swarm.peers))
            closed += swarm.closed
        found = judged(
            "slow",
            "a thousand senders that never bring their body, and nobody else, in turn",
            asking.found(),
            spans,
        )
        found.more |= {"senders_at_once": max(at_once), "closed_by_the_server": closed}
        usual, beside = found.p99_ms_rest, found.p99_ms_fault
        if usual is not None and beside is not None and beside > UNMOVED * usual + UNMOVED_MS:
            found.missed.append(f"p99 of the others went from {usual:.0f} to {beside:.0f} ms")
        return count_events(here, found, asking)
