"""Compare the benchmarks of this tree with those of an earlier revision, in pairs of runs.

    git worktree add --detach /tmp/base REVISION
    python -m benchmarks.paired /tmp/base [--runs 7] [--out PATH] NAME …

A NAME is a benchmark with its options, such as `"lake --small"`; {side} in it becomes base or
head. The two trees take turns, the first of a pair alternating, with this interpreter and its
packages. `worse` is by how much a ratio that a benchmark prints got worse, 1.05 for 5 %: the median
over the pairs, and its 95 % interval by bootstrap. `cpu` is CPU time: of the process with its
children, and of each part that a benchmark times. A figure that only one tree has is left out.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.ingest import cpu_name

CPU_KEYS = {"cpu_ms", "cpu_s_min", "median_cpu_s"}  # of a part, in a report's results
LOWER_IS_BETTER = ("cpu", "floor of responses", "queue")  # what such figures begin with


def run(tree: Path, command: str, side: str) -> dict[str, float]:
    """Run one benchmark of a tree and return its figures by name."""
    name, *options = shlex.split(command.replace("{side}", side))
    path = os.pathsep.join([str(tree / "src"), str(tree), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{name}", "--json", *options],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": path},
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"benchmarks.{name} of {tree} ended with {process.returncode}")
        out.seek(0)
        report = json.load(out)
    figures = {"cpu": usage.ru_utime + usage.ru_stime}
    for key, ratio in report.get("ratios", {}).items():  # soak has one by role
        each = ratio if isinstance(ratio, dict) else {"": ratio}
        figures |= {f"{key} {part}".strip(): value for part, value in each.items()}
    figures |= {f"{key} (cpu)": each for key, each in report.get("cpu_ratios", {}).items()}
    for part, each in report["results"].items():
        for key in CPU_KEYS & each.keys() if isinstance(each, dict) else ():
            figures[f"cpu of {part}"] = each[key]
    if name == "serving":  # its floor is ours over the floor's, elsewhere the floor's over ours
        figures["floor of responses"] = figures.pop("floor")
    if name == "vectors":  # it prints no ratios but times over its floor
        for size, parts in report["results"].items():
            figures |= {f"{size}: {key}": 1 / each["to_floor"] for key, each in parts.items()}
    return figures


def compare(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return by figure how much worse head is than base: median and 95 % interval."""
    worse, rng = {}, np.random.default_rng(1)
    for key in sorted(pairs[0][0].keys() & pairs[0][1].keys()):
        values = np.array([base[key] / head[key] for base, head in pairs])
        values = 1 / values if key.startswith(LOWER_IS_BETTER) else values
        medians = np.median(rng.choice(values, (10_000, len(values))), axis=1)
        figures = np.round([np.median(values), *np.quantile(medians, [0.025, 0.975])], 3)
        worse[key] = dict(zip(("median", "low", "high"), figures.tolist(), strict=True))
    return worse


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path, help="file whose benchmarks are replaced")
    options = parser.parse_args()
    trees = {"base": options.base.resolve(), "head": Path(__file__).resolve().parent.parent}
    git = ["git", "describe", "--always", "--abbrev=12", "--exclude=*"]
    revisions = {
        side: subprocess.check_output(git, cwd=tree, text=True).strip()
        for side, tree in trees.items()
    }
    for command in options.names:
        pairs = []
        for number in range(options.runs):
            figures = {
                side: run(trees[side], command, side) for side in sorted(trees)[:: (-1) ** number]
            }
            pairs.append((figures["base"], figures["head"]))
        measured = {"command": command, "runs": options.runs, **revisions, "worse": compare(pairs)}
        measured |= {"machine": cpu_name(), "load": round(os.getloadavg()[0], 1)}
        print(json.dumps(measured))
        if options.out:
            kept = json.loads(options.out.read_text()) if options.out.exists() else {}
            kept[command.split()[0]] = measured
            options.out.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
