"""Writes docs/reference/drills.md from docs/drills.json, which `make drills` writes: python
docs/drills_page.py.
"""

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
OVERLOAD = "overload"
PAGE, FOUND = DOCS / "reference" / "drills.md", DOCS / "drills.json"

_HEAD = """# Drills

<!-- Made by docs/drills_page.py from what `make drills` found (docs/drills.json); edit that, not this page. -->

Parts die while somebody asks: two serve processes, features in a Valkey, a registry of models, and the client that applications use, which
tries a request once more where it fails. An answer counts if it has items. What the codes mean: [what an answer lacks](degraded.md).

Expected: 99.99 % of the requests are answered with items, what is missing is named, and no event that a server took is lost; of a swap
none fails, and it takes less than a second; beside a thousand slow senders the 99th percentile of the others moves by no more than a fifth
and 5 ms; at twice and ten times the peak nine tenths of the peak are answered, and ten seconds later all is as before.

Requests are due at fixed times, 150 a second (75 where servers die, and the other one does their work), and latency counts from then, the
second try included: a stall is felt by all who would have asked meanwhile. Eight are under way at once, at most. A tenth of them brings a
click, which the client sends in the background until it is taken. All processes of a drill, and whatever else the machine does, share
its cores; `load` says how many wanted one, and times are those of such a machine: what was not answered in time makes all that are due
behind it late. Those of a server with a core of its own are in [the benchmarks](../benchmarks.md). A version that is refused (`model`,
`index`) changes nothing but the alarm: the one before answers as well as it did, and its answers lack nothing.

`make drills` asks 30,000 times in each drill; how often was asked for this page stands in the table. Of n requests without a failure, at
most a share of 3 / n fails, at 95 %. Drills that are not in the table have not been played whole on the machine that made this page.

| drill | what dies | requests | answered | retried | p50, p99 | faults | in them | asked in them | with a code | events lost | verdict |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|
"""
LOAD = """
## More than it can answer

Bare connections ask one server with one core, from another core: first as fast as eight at once get answers, which is the peak, then at
fixed times, as many times that. A refusal is 503 with `Retry-After`. Goodput is answers with items within a second of when they were
due, for each second of the server's CPU, since the machine does other things too; by the clock beside it.

| load | peak, a second | offered, a second | goodput | by the clock | p99 at the peak | p50, p99 of answers | as before after |
|---|---:|---:|---:|---:|---:|---:|---:|
"""


def row(found: dict[str, Any]) -> str:
    """A drill as a line of the table."""
    cells = (
        found["name"],
        found["what"],
        f"{found['requests']:,}",
        f"{found['availability']:.4%}",
        f"{found['retried']:,}",
        times(found, "rest"),
        f"{found['faults']:,}",
        times(found, "fault"),
        f"{found['requests_in_fault']:,}",
        f"{found['labelled_in_fault']:,}",
        f"{found['events_lost']:,} of {found['events']:,}",
        verdict(found),
    )
    return f"| {' | '.join(cells)} |"


def times(found: dict[str, Any], part: str) -> str:
    """Median and 99th percentile; a dash where nobody asked."""
    p50, p99 = found[f"p50_ms_{part}"], found[f"p99_ms_{part}"]
    return "–" if p50 is None else f"{p50:.0f}, {p99:.0f} ms"


def verdict(found: dict[str, Any]) -> str:
    missed = "**missed**: " + "; ".join(found["missed"]) if found["missed"] else "as expected"
    return f"{missed} ({found['cause']})" if found.get("cause") else missed


def load_row(more: dict[str, float], factor: int) -> str:
    """What came of so many times the peak."""

    def of(name: str) -> float:
        return more[f"{name}_{factor}x"]

    cells = (
        f"{factor} times the peak",
        f"{of('peak_per_s'):,.0f}",
        f"{of('offered_per_s'):,.0f}",
        f"{of('goodput'):.2f}",
        f"{of('goodput_by_clock'):.2f}",
        f"{of('p99_ms_peak'):.0f} ms",
        f"{of('p50_ms'):.0f}, {of('p99_ms'):.0f} ms",
        f"{of('recovery_s'):.1f} s",
    )
    return f"| {' | '.join(cells)} |"


def load_section(found: dict[str, Any]) -> list[str]:
    """The overload, whose requests are meant to be refused."""
    refused, more = sum(found["failures"].values()), found["more"]
    cost = ""
    if "answer_cpu_us_10x" in more:
        cost = (
            f"Of the server's CPU an answer took {more['answer_cpu_us_10x']:,.0f} µs, a "
            f"refusal {more['refusal_cpu_us_10x']:,.0f}. "
        )
    said = verdict(found)
    end = (
        f"Of {found['requests']:,} requests {refused:,} were refused. "
        f"{cost}{said[:1].upper()}{said[1:]}. {where(found)}"
    )
    return [LOAD.rstrip("\n"), *(load_row(found["more"], factor) for factor in (2, 10)), "", end]


def where(found: dict[str, Any]) -> str:
    return f"({found['at']}, {found['revision']}, {found['machine']}, load {found['load']:.0f})"


def details(found: dict[str, Any]) -> str:
    """What else a drill told."""
    lacked = ", ".join(
        f"{name} {count:,}"
        for name, count in sorted(found["lacked"].items(), key=lambda each: -each[1])
    )
    failed = "; ".join(f"{why}: {count}" for why, count in found["failures"].items()) or "none"
    more = ", ".join(f"{name} {value:,.0f}" for name, value in found["more"].items())
    told = (
        f"- **{found['name']}** {where(found)}: {found['per_s']:.0f} requests a second; "
        f"answers lacked {lacked}; "
    )
    beside = (
        f" Played while `{found['beside']}` was, on the same cores." if found.get("beside") else ""
    )
    return f"{told}without an answer: {failed}{'; ' + more if more else ''}.{beside}"


def page(told: dict[str, Any]) -> str:
    """The page of what all drills found."""
    played = [found for name, found in told.items() if name != OVERLOAD]
    load = load_section(told[OVERLOAD]) if OVERLOAD in told else []
    lines = [
        _HEAD.rstrip("\n"),
        *(row(found) for found in played),
        "",
        *(details(found) for found in played),
        *load,
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    PAGE.write_text(page(json.loads(FOUND.read_text())))


if __name__ == "__main__":
    main()
