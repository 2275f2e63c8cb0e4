"""Our models beside those of libraries that others use: what they find, and how long they learn.

python -m benchmarks.quality.peers [NAME …] [--libraries LIBRARY …] [--seeds 3] [--keep FOLDER] [--small] [--json]      after `make peers`

implicit and RecTools are asked the questions of `next_item`, FuxiCTR the rows of `kuairand`, in one run on one machine, each on one
thread. A peer that is not installed, or fails, is named with its error. With `--keep`, a run that was cut short goes on.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.asking import MODULES, found
from benchmarks.quality import peers_next_item, peers_tasks
from benchmarks.quality.next_item_cases import CASES
from benchmarks.quality.running import default_data, environment, folder_or_skip

TASKS = "kuairand"
NAMES = ("ml-latest-small", "eshop-clothing", TASKS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.peers", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; all without any")
    parser.add_argument("--data", type=Path, default=default_data(), help="the folder that holds the data sets")
    parser.add_argument("--seeds", type=int, default=3, help="of what is drawn: nets and factors")
    parser.add_argument("--sasrec-seeds", type=int, help="of RecTools' SASRec, which takes longest; as many as --seeds without")
    parser.add_argument("--keep", type=Path, help="keep what was found in this folder, and go on from there")
    parser.add_argument("--libraries", nargs="+", choices=MODULES, default=list(MODULES), help="ask these alone")
    parser.add_argument("--small", action="store_true", help="few questions and rows, one seed, one variant: whether all of it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"no data set {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    versions, missing = found(given.libraries)
    if not versions:
        told = "; ".join(f"{name}: {why}" for name, why in missing.items())
        parser.exit(3, f"skipped: no peer is installed; make peers ({told})\n")
    whole = {"benchmark": "peers", "kind": "peers", "title": __doc__.splitlines()[0], "small": given.small}
    with tempfile.TemporaryDirectory(prefix="tailorbird-peers-") as scratch:
        keep = given.keep or Path(scratch)
        cases = dict(_named(name, _case(name, given, keep / name, versions), given.libraries) for name in given.names or NAMES)
    whole |= {"cases": cases, "versions": versions, "missing": missing, "environment": environment()}
    print(json.dumps(whole, indent=1) if given.json else told_plainly(whole))


def _case(name: str, given: argparse.Namespace, keep: Path, versions: dict[str, str]) -> dict[str, Any]:
    keep.mkdir(parents=True, exist_ok=True)
    seeds = 1 if given.small else given.seeds
    if name == TASKS:
        return peers_tasks.run(folder_or_skip("kuairand-feedback", given.data), keep, versions, seeds=seeds, small=given.small)
    case = next(case for case in CASES if case.name == name)
    drawn = {"rectools_sasrec": min(seeds, given.sasrec_seeds or seeds)}
    return peers_next_item.run(case, folder_or_skip(case.folder, given.data), keep, versions, seeds=seeds, drawn=drawn, small=given.small)


def _named(name: str, case: dict[str, Any], libraries: list[str]) -> tuple[str, dict[str, Any]]:
    """RecTools alone stands beside a run of the others: its SASRec takes longest, and may have fewer seeds."""
    if name == TASKS or libraries != ["rectools"]:
        return name, case
    return f"{name}, SASRec", case | {"title": f"{case['title']} RecTools' SASRec, of a run of its own"}


def told_plainly(result: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{name} {version}" for name, version in result["versions"].items()]
    lines += [f"{name} is not here: {why}" for name, why in result["missing"].items()]
    for name, case in result["cases"].items():
        lines += [f"\n{name}: {case['title']}", *(f"  {sentence}" for sentence in case["protocol"])]
        figure = case["figure"]
        for model, each in sorted(case["results"].items(), key=lambda entry: -entry[1][figure]):
            interval = f"{each[figure]:.4f} ({each[figure + '_low']:.4f}–{each[figure + '_high']:.4f})"
            lines.append(f"  {model:20}{figure} {interval}  {each['seconds_fit']:8.1f} s to learn {each['seconds_ask']:8.1f} s to answer")
        lines += [f"  {model} failed: {why}" for model, why in case["failed"].items()]
        for pair in case["pairs"]:
            lines.append(
                f"  {pair['ours']} / {pair['peer']}: quality × {pair['quality']:.3f} "
                f"({pair['gain']:+.4f}, {pair['gain_low']:+.4f} to {pair['gain_high']:+.4f}), time × {pair['time']:.2f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
