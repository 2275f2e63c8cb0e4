"""How the page of results shows our models beside those of others, from the JSON of `peers`."""

from typing import Any

from benchmarks.quality.commands import commands_of

LIBRARIES = ("implicit", "rectools", "fuxictr")
UNDRAWN = ("cooccurrence", "ease_decayed", "popular_7d", "implicit_item_item")  # without randomness: every seed gives the same


def is_peers(result: dict[str, Any]) -> bool:
    """Whether figures are of peers."""
    return result.get("kind") == "peers"


def summary(results: list[dict[str, Any]]) -> str:
    """A row for each pair of a kind: at least their quality in no more than their time?"""
    lines = ["| ours / a peer's | data set | quality | gain, 95 % interval | time | at least as good, in no more time |", "|---" * 6 + "|"]
    for result in results:
        for name, case in result["cases"].items():
            lines += [_pair(pair, f"[{name}](#peers) | ") for pair in case["pairs"]]
    return "\n".join(lines) + "\n"


def section(result: dict[str, Any]) -> str:
    """Protocols and tables."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = ["## peers", result["title"], f"`make peers`, then {', '.join(f'`{command}`' for command in commands_of('peers'))}"]
    parts.append(f"Peers: {versions}. Seconds are CPU time of one thread; what it takes to choose variants is in none of them.")
    if result["missing"]:
        told = "\n".join(f"- {name} could not be installed or loaded: {why}" for name, why in result["missing"].items())
        parts.append(told)
    for name, case in result["cases"].items():
        parts += [f"### peers on {name}", case["title"], "\n".join(f"- {sentence}" for sentence in case["protocol"]), _table(case)]
        header = "| ours / a peer's | quality | gain, 95 % interval | time | at least as good, in no more time |"
        parts.append("\n".join([header, "|---" * 5 + "|", *(_pair(pair, "") for pair in case["pairs"])]))
        if case["failed"]:
            parts.append("\n".join(f"- {model} failed: {why}" for model, why in case["failed"].items()))
        variants = "; ".join(f"{model} `{each['variant']}`" for model, each in case["results"].items())
        parts.append(f"Variants taken: {variants}.")
    environment = result["environment"]
    day = f"Measured {environment['day']} on {environment['cpu']} ({environment['cores']} cores), Tailorbird {environment['tailorbird']}, "
    parts.append(f"{day}LightGBM {environment['lightgbm']}, on a machine that others used too.")
    return "\n\n".join(parts) + "\n"


def _table(case: dict[str, Any]) -> str:
    figure = case["figure"]
    lines = [f"| | {figure} | seconds to learn | to answer | seeds |", "|---" * 5 + "|"]
    for model, each in sorted(case["results"].items(), key=lambda entry: -entry[1][figure]):
        mark = "" if any(model.startswith(library) for library in LIBRARIES) else "**"
        cell = f"{each[figure]:.4f} ({each[figure + '_low']:.4f}–{each[figure + '_high']:.4f})"
        seeds = "needs none" if model in UNDRAWN else ", ".join(f"{value:.4f}" for value in each["seeds"])
        lines.append(f"| {mark}{model}{mark} | {cell} | {each['seconds_fit']:.1f} | {each['seconds_ask']:.1f} | {seeds} |")
    return "\n".join(lines)


def _pair(pair: dict[str, Any], first: str) -> str:
    gain = f"{pair['gain']:+.4f} ({pair['gain_low']:+.4f} to {pair['gain_high']:+.4f})"
    return f"| {pair['ours']} / {pair['peer']} | {first}× {pair['quality']:.2f} | {gain} | × {pair['time']:.2f} | {_verdict(pair)} |"


def _verdict(pair: dict[str, Any]) -> str:
    quality = "ahead" if pair["gain_low"] > 0 else "behind" if pair["gain_high"] < 0 else "level"
    if quality != "behind" and pair["time"] <= 1:
        return f"yes: {quality}"
    lacking = [*(["**behind**"] if quality == "behind" else [quality]), *(["**slower**"] if pair["time"] > 1 else ["no slower"])]
    return f"no: {', '.join(lacking)}"
