"""Writes docs/reference/drills.md from docs/drills.json, which `make drills` writes.

python docs/drills_page.py
"""

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
OVERLOAD = "overload"
PAGE, RESULTS = DOCS / "reference" / "drills.md", DOCS / "drills.json"

_HEAD = """# Drills

<!-- Made by docs/drills_page.py from what `make drills` found (docs/drills.json); edit that, not this page. -->

Parts die while somebody asks two serve processes, with features in a Valkey and a registry of
models. The client is that of applications, and tries a failed request once more. A request is
answered if it gets items. [What an answer lacks](degraded.md) explains the codes.

Expected:

- 99.99 % of the requests are answered. What is missing is named. No acknowledged event is lost.
- No request fails by a swap, which takes less than a second.
- Beside a thousand slow senders, the 99th percentile of the others moves by at most a fifth and 5
  ms.
- At twice and ten times the peak, nine tenths of the peak are answered. Ten seconds later all is as
  before.

Requests are due at fixed times, 150 a second (75 where servers die), at most eight at once. Latency
counts from then, with the second try, so a stall is felt by all who would have asked meanwhile. A
tenth of them brings a click, which the client sends in the background. All processes share the
machine's cores; `load` says how many wanted one. [Benchmarks](../benchmarks.md) has times of a
server with a core of its own. A version that is refused (`model`, `index`) changes nothing but the
alarm.

`make drills` asks 30,000 times in each drill. Of n requests without a failure, at most a share of 3
/ n fails, at 95 %. Drills that are not in the table have not been played whole on this machine.

| drill | what dies | requests | answered | retried | p50, p99 | faults | in them | asked in them | with a code | events lost | verdict |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|
"""
LOAD = """
## More than it can answer

Bare connections ask one server with one core, from another core. Eight at once find the peak. Then
requests are due at fixed times, at multiples of it. A refusal is 503 with `Retry-After`. Goodput is
answers with items within a second of when they were due, for each second of the server's CPU; by
the clock beside it.

| load | peak, a second | offered, a second | goodput | by the clock | p99 at the peak | p50, p99 of answers | as before after |
|---|---:|---:|---:|---:|---:|---:|---:|
"""


def format_row(result: dict[str, Any]) -> str:
    """Return a drill as a line of the table."""
    cells = (
        result["name"],
        result["what"],
        f"{result['requests']:,}",
        f"{result['availability']:.4%}",
        f"{result['retried']:,}",
        format_times(result, "rest"),
        f"{result['faults']:,}",
        format_times(result, "fault"),
        f"{result['requests_in_fault']:,}",
        f"{result['labelled_in_fault']:,}",
        f"{result['events_lost']:,} of {result['events']:,}",
        format_verdict(result),
    )
    return f"| {' | '.join(cells)} |"


def format_times(result: dict[str, Any], part: str) -> str:
    """Return median and 99th percentile; a dash if there were no requests."""
    p50, p99 = result[f"p50_ms_{part}"], result[f"p99_ms_{part}"]
    return "–" if p50 is None else f"{p50:.0f}, {p99:.0f} ms"


def format_verdict(result: dict[str, Any]) -> str:
    missed = "**missed**: " + "; ".join(result["missed"]) if result["missed"] else "as expected"
    return f"{missed} ({result['cause']})" if result.get("cause") else missed


def format_load_row(figures: dict[str, float], factor: int) -> str:
    """Return the line of a multiple of the peak."""

    def figure(name: str) -> float:
        return figures[f"{name}_{factor}x"]

    cells = (
        f"{factor} times the peak",
        f"{figure('peak_per_s'):,.0f}",
        f"{figure('offered_per_s'):,.0f}",
        f"{figure('goodput'):.2f}",
        f"{figure('goodput_by_clock'):.2f}",
        f"{figure('p99_ms_peak'):.0f} ms",
        f"{figure('p50_ms'):.0f}, {figure('p99_ms'):.0f} ms",
        f"{figure('recovery_s'):.1f} s",
    )
    return f"| {' | '.join(cells)} |"


def format_load_section(result: dict[str, Any]) -> list[str]:
    """Return the section of the overload, whose requests are meant to be refused."""
    refused, figures = sum(result["failures"].values()), result["more"]
    cost = ""
    if "answer_cpu_us_10x" in figures:
        cost = (
            f"Of the server's CPU an answer took {figures['answer_cpu_us_10x']:,.0f} µs, a "
            f"refusal {figures['refusal_cpu_us_10x']:,.0f}. "
        )
    verdict_text = format_verdict(result)
    summary = (
        f"Of {result['requests']:,} requests {refused:,} were refused. "
        f"{cost}{verdict_text[:1].upper()}{verdict_text[1:]}. {format_provenance(result)}"
    )
    return [
        LOAD.rstrip("\n"),
        *(format_load_row(result["more"], factor) for factor in (2, 10)),
        "",
        summary,
    ]


def format_provenance(result: dict[str, Any]) -> str:
    return f"({result['at']}, {result['revision']}, {result['machine']}, load {result['load']:.0f})"


def format_details(result: dict[str, Any]) -> str:
    """Return further facts about a drill."""
    lacked = ", ".join(
        f"{name} {count:,}"
        for name, count in sorted(result["lacked"].items(), key=lambda each: -each[1])
    )
    failed = (
        "; ".join(f"{reason}: {count}" for reason, count in result["failures"].items()) or "none"
    )
    more = ", ".join(f"{name} {value:,.0f}" for name, value in result["more"].items())
    summary = (
        f"- **{result['name']}** {format_provenance(result)}: {result['per_s']:.0f} requests a second; "
        f"answers lacked {lacked}; "
    )
    parallel = (
        f" Played while `{result['beside']}` was, on the same cores."
        if result.get("beside")
        else ""
    )
    return f"{summary}without an answer: {failed}{'; ' + more if more else ''}.{parallel}"


def page(results: dict[str, Any]) -> str:
    """Return the page of the results of all drills."""
    played = [result for name, result in results.items() if name != OVERLOAD]
    load = format_load_section(results[OVERLOAD]) if OVERLOAD in results else []
    lines = [
        _HEAD.rstrip("\n"),
        *(format_row(result) for result in played),
        "",
        *(format_details(result) for result in played),
        *load,
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    PAGE.write_text(page(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
