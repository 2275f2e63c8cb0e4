"""The section of `docs/results.md` about the sequence model, from the JSON of `rectools`."""

from typing import Any

from benchmarks.quality.pages.product_page import cell, format_gain, format_machine

OURS, PEER = "tailorbird", "esasrec"
SHOWN = {
    "ndcg_10": "NDCG@10",
    "hr_20": "HR@20",
    "mrr": "MRR",
    "ndcg_10_with_past": "NDCG@10 with a past",
}


def is_rectools(result: dict[str, Any]) -> bool:
    """Return True if figures are of the sequence model beside eSASRec."""
    return result["benchmark"] == "rectools"


def section(result: dict[str, Any]) -> str:
    """Return a table for each set, with the paired gain and the seconds of fitting."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    seeds = (
        f"Means over {result['seeds']} trainings." if result["seeds"] > 1 else "One training each."
    )
    parts = [
        "## rectools",
        "The sequence model beside RecTools' eSASRec: which item comes next?",
        f"`{result['command']}`",
    ]
    for name, case in result["cases"].items():
        table = [
            f"| | {' | '.join(SHOWN.values())} | CPU seconds of fitting |",
            "|---" * (len(SHOWN) + 2) + "|",
        ]
        for entry, row in case["results"].items():
            mark = "**" if entry == OURS else ""
            table.append(
                f"| {mark}{entry}{mark} | {' | '.join(cell(row, figure) for figure in SHOWN)} | "
                f"{row['seconds_fit']:.0f} |"
            )
        gains = ", ".join(
            f"{label} {format_gain(case['gain'], figure)}"
            for figure, label in SHOWN.items()
            if figure in case["gain"]
        )
        size_text = (
            f"{case['train_rows']:,} rows learned from, {case['questions']:,} questions of "
            f"{case['people']:,} people, cut `{case['cut']}`"
        )
        latency = f"An answer of ours takes {case['results'][OURS]['us']:,.0f} µs."
        settings = ", ".join(f"{key} {value}" for key, value in case[PEER]["settings"].items())
        parts += [
            f"### rectools on {name}",
            f"{size_text}. {seeds} {latency}",
            "\n".join(table),
            f"Gain of ours, paired: {gains}.",
        ]
        parts.append(f"eSASRec: {case[PEER]['epochs']} epochs, {settings}.")
    parts += [
        "\n".join(f"- {sentence}" for sentence in result["protocol"]),
        f"{format_machine(result)} {versions}.",
    ]
    return "\n\n".join(parts) + "\n"
