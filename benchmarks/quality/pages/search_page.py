"""The section of `docs/results.md` about search, from the JSON of `search`."""

from typing import Any

from benchmarks.quality.pages.product_page import format_revision

OURS = "tailorbird"
WANDS = "WANDS"
PUBLIC = {
    "BM25": 0.541,
    "the best published, with a large language model": 0.617,
}  # NDCG@10 of WANDS in its public variant
LABELS = {
    OURS: "BM25, as served",
    "vectors": "vectors",
    "fused": "fused, reciprocal ranks",
    "blended": "BM25 + 0.1 · cosine",
    "meaning_default": "words and meaning, as served with `search.encoder`",
    "meaning": "words and meaning, weight chosen on other queries",
    "reranked": "re-ranked (folds by query)",
    "reranked_judged": "re-ranked, learned from the judged alone",
}
SHOWN = ("vectors", "fused", "blended", "reranked", "meaning_default")  # of each query
TIE = 0.0005  # figures of queries have three digits


def is_search(result: dict[str, Any]) -> bool:
    """Return True if figures are of search."""
    return result.get("kind") == "search"


def section(result: dict[str, Any]) -> str:
    """Return the tables of each shop, or a note for one without a copy."""
    parts = [
        "## search",
        result["title"],
        "`python -m benchmarks.quality.search --encoder FOLDER` (all-MiniLM-L6-v2, Apache-2.0), and with "
        "`--wands FOLDER` on one's own copy "
        "of WANDS",
    ]
    for name, case in result["cases"].items():
        sizes = case["sizes"]
        judged = (
            f"{sizes['queries']:,} queries, {sizes['judged']:,} products judged for them, "
            f"{sizes['products']:,} in all"
        )
        sizes_text = f"{judged}; what nobody judged counts 0."
        parts += [f"### search on {name}", sizes_text, _table(case)]
        if name == WANDS:
            parts.append(_public_table(case))
        else:
            parts += [
                "Of each query, BM25, and by how much the others are better (+) or worse (−):",
                _query_table(case),
            ]
    if WANDS not in result["cases"]:
        quoted = ", ".join(f"{name} {figure:.3f}" for name, figure in PUBLIC.items())
        parts += [
            f"### search on {WANDS}",
            "No copy was there, so nothing is known: the command was tried on a made-up copy "
            "of its format alone. Published figures are "
            "given in a variant (gain 2^grade − 1 of exact 2, partial 1, else 0; discount "
            "1/rank; ideal of ten exact hits; 480 queries): "
            f"{quoted}. Wanted: .62 within 20 ms a query.",
        ]
    environment = result["environment"]
    machine = (
        f"Measured {environment['day']}, {format_revision(result)}, on {environment['cpu']} ({environment['cores']} cores), "
        f"Tailorbird {environment['tailorbird']}, "
    )
    parts.append(f"{machine}LightGBM {environment['lightgbm']}, on a machine that others used too.")
    return "\n\n".join(parts) + "\n"


def _table(case: dict[str, Any]) -> str:
    lines = [
        "| | NDCG@10 | over BM25 | better / worse on queries | NDCG@10 of the judged alone | "
        "of the top ten judged | ms of processor a query, median (p99) |",
        "|---" * 7 + "|",
    ]
    for name, figures in case["results"].items():
        gain = case["differences"].get(name)
        difference = (
            f"{gain['ndcg_10']:+.4f} ({gain['ndcg_10_low']:+.4f} to {gain['ndcg_10_high']:+.4f})"
            if gain
            else "–"
        )
        wins_and_losses = f"{gain['wins']} / {gain['losses']}" if gain else "–"
        mark = "**" if name == OURS else ""
        milliseconds = f"{figures['ms']['p50']:.1f} ({figures['ms']['p99']:.1f})"
        lines.append(
            f"| {mark}{LABELS[name]}{mark} | {_interval(figures, 'ndcg_10')} | {difference} "
            f"| {wins_and_losses} | "
            f"{_interval(figures, 'judged_alone_ndcg_10')} | {figures['judged_10']:.0%} | "
            f"{milliseconds} |"
        )
    return "\n".join(lines)


def _public_table(case: dict[str, Any]) -> str:
    """Return the table of the public variant, with the published figures."""
    lines = ["| public variant | NDCG@10 |", "|---|---|"]
    lines += [
        f"| {LABELS[name]} | {_interval(figures, 'public_ndcg_10')} |"
        for name, figures in case["results"].items()
    ]
    lines += [f"| {name}, as published | {figure:.3f} |" for name, figure in PUBLIC.items()]
    return "\n".join(lines)


def _query_table(case: dict[str, Any]) -> str:
    lines = [f"| query | judged | BM25 | {' | '.join(SHOWN)} |", "|---" * (3 + len(SHOWN)) + "|"]
    for query_row in case["queries"]:
        cells = [_format_difference(query_row[name], query_row[OURS]) for name in SHOWN]
        ours = "–" if query_row[OURS] is None else f"{query_row[OURS]:.3f}"
        lines.append(
            f"| {query_row['query'].replace('|', ' ')} | {query_row['judged']} | {ours} | "
            f"{' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _format_difference(value: float | None, baseline: float | None) -> str:
    if value is None or baseline is None:
        return "–"
    return "=" if abs(value - baseline) < TIE else f"{value - baseline:+.3f}"


def _interval(figures: dict[str, Any], name: str) -> str:
    return f"{figures[name]:.4f} ({figures[name + '_low']:.4f}–{figures[name + '_high']:.4f})"
