"""Measure what a user's default path serves: init, import, train as they are, then live traffic.

    python -m benchmarks.quality.product --set NAME [--cut CUT …] [--small] [--data PATH]
                                         [--seeds N] [--questions N] [--keep FOLDER] [--quick]
                                         [--json]

The training part of a data set is written as the files that a user has. `tailorbird init --from`,
`import` and `train` run as they are printed, and nothing of the project is edited. The test part is
replayed through collector, router and worker on a simulated clock; before drawn events the served
pipeline gets a question. Baselines answer the same questions from the same rows. Several cuts are
pooled.
"""

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.quality.product.report import describe_provenance, make_report, print_report
from benchmarks.quality.product.run import Run, run_cut
from benchmarks.quality.product.sets import SETS
from benchmarks.quality.running import SEED, make_parser, require_data_set

SIMULATED = "simulated"


def main() -> None:
    """Run the command line."""
    parser = make_parser(
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
    arguments = parser.parse_args()
    if arguments.set != SIMULATED:
        cuts = SETS[arguments.set].cuts
        if unknown := [cut for cut in arguments.cut if cut not in cuts]:
            parser.error(f"{arguments.set} has the cuts {', '.join(cuts)}, not {unknown[0]}")
    with tempfile.TemporaryDirectory(prefix="tailorbird-product-") as scratch:
        result = measure(arguments, arguments.keep or Path(scratch)) | describe_provenance(
            _command(arguments)
        )
    print(json.dumps(result, indent=1)) if arguments.json else print_report(result)


def measure(arguments: argparse.Namespace, keep: Path) -> dict[str, Any]:
    """Return figures and protocol of the run that the command line names."""
    seeds = tuple(range(SEED, SEED + (1 if arguments.small else arguments.seeds)))
    if arguments.set == SIMULATED:
        from benchmarks.quality.product.simulated import run_simulated  # which loads torch

        return run_simulated(keep, seeds, small=arguments.small, quick=arguments.quick)
    data_set = SETS[arguments.set]
    data = require_data_set(data_set.folder, arguments.data)
    run = Run(
        data_set,
        data,
        keep,
        seeds,
        small=arguments.small,
        quick=arguments.quick,
        questions=arguments.questions,
    )
    return make_report(run, [run_cut(run, cut) for cut in arguments.cut])


def _command(arguments: argparse.Namespace) -> str:
    """Return the command without what differs from machine to machine."""
    options_: list[Any] = ["--set", arguments.set, "--cut", *arguments.cut]
    options_ += ["--small"] if arguments.small else ["--seeds", arguments.seeds]
    options_ += ["--questions", arguments.questions] if arguments.questions else []
    options_ += ["--quick"] if arguments.quick else []
    return shlex.join(["python", "-m", "benchmarks.quality.product", *map(str, options_), "--json"])


if __name__ == "__main__":
    sys.exit(main())
