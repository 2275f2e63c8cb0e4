"""Measure what a user's default path serves: init, import, train as they are, then live traffic.

    python -m benchmarks.quality.product --set NAME [--cut CUT …] [--small] [--data PATH]
                                         [--seeds N] [--questions N] [--keep FOLDER] [--quick]
                                         [--json]

The training part of a data set is written as the files that a user has. `tailorbird init --from`,
`import` and `train` run as they are printed, and nothing of the project is edited. The test part is
replayed through collector, router and worker on a simulated clock; before drawn events the served
pipeline is asked. Baselines answer the same questions from the same rows. Several cuts are pooled.
"""

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.quality.product.report import how_run, make_report, show
from benchmarks.quality.product.run import Run, run_cut
from benchmarks.quality.product.sets import SETS
from benchmarks.quality.running import SEED, folder_or_skip, options

SIMULATED = "simulated"


def main() -> None:
    """Run the command line."""
    parser = options(
        "product",
        __doc__.partition("\n")[0],
        small="a part of the users, within five minutes; one seed",
        keep="keep what is done in this folder: a run that was cut short goes on",
    )
    parser.add_argument("--set", required=True, choices=[*SETS, SIMULATED], help="the data set")
    parser.add_argument(
        "--cut", nargs="+", default=["dev"], help="cuts, whose questions are pooled"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings, averaged (default 3)")
    parser.add_argument(
        "--questions", type=int, default=0, help="ask so many at most (20,000, of every cut)"
    )
    parser.add_argument("--quick", action="store_true", help="train with --quick, and say so")
    given = parser.parse_args()
    if given.set != SIMULATED:
        cuts = SETS[given.set].cuts
        if unknown := [cut for cut in given.cut if cut not in cuts]:
            parser.error(f"{given.set} has the cuts {', '.join(cuts)}, not {unknown[0]}")
    with tempfile.TemporaryDirectory(prefix="tailorbird-product-") as scratch:
        result = measure(given, given.keep or Path(scratch)) | how_run(_command(given))
    print(json.dumps(result, indent=1)) if given.json else show(result)


def measure(given: argparse.Namespace, keep: Path) -> dict[str, Any]:
    """Return figures and protocol of what the command line asks for."""
    seeds = tuple(range(SEED, SEED + (1 if given.small else given.seeds)))
    if given.set == SIMULATED:
        from benchmarks.quality.product.simulated import run_simulated  # which loads torch

        return run_simulated(keep, seeds, small=given.small, quick=given.quick)
    data_set = SETS[given.set]
    data = folder_or_skip(data_set.folder, given.data)
    run = Run(
        data_set, data, keep, seeds, small=given.small, quick=given.quick, questions=given.questions
    )
    return make_report(run, [run_cut(run, cut) for cut in given.cut])


def _command(given: argparse.Namespace) -> str:
    """Return the command without what differs from machine to machine."""
    kept: list[Any] = ["--set", given.set, "--cut", *given.cut]
    kept += ["--small"] if given.small else ["--seeds", given.seeds]
    kept += ["--questions", given.questions] if given.questions else []
    kept += ["--quick"] if given.quick else []
    return shlex.join(["python", "-m", "benchmarks.quality.product", *map(str, kept), "--json"])


if __name__ == "__main__":
    sys.exit(main())
