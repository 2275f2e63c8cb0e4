"""Compare the model of `train --retrieval sequence` with RecTools' eSASRec, both on their own.

    python -m benchmarks.quality.rectools [--set eshop movielens] [--cut test] [--seeds N]
                                          [--questions N] [--data PATH] [--keep FOLDER] [--small]
                                          [--json]

Rows, cuts and questions are those of `benchmarks.quality.product`. Both learn from the rows before
the cut, on one thread, and list their 20 best items for the same questions, whose history is the
rows of the question's person before it. Where the set has no repeats, neither lists items of the
history.

- Ours is trained by the functions of `tailorbird train` with their defaults, in a project that
  `init` and `import` made, and answers through the exported net and the index of a
  bundle.
- eSASRec is trained in `.peers/` (`make peers`) with the settings of RecTools' own tutorials. How
  many epochs it takes is chosen on the `dev` cut: it is evaluated after each of
  `EVALUATION_EPOCHS`, and stops once `PATIENCE_EVALUATIONS` of them were not better than the best.

Without `.peers/` or the data, the command ends with status 3.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers import asking
from benchmarks.quality.product import project
from benchmarks.quality.product.baselines import SIZE
from benchmarks.quality.product.figures import Resampling, item_weights, score_lists, with_interval
from benchmarks.quality.product.log import (
    Log,
    Questions,
    draw_questions,
    make_log,
    read_rows,
    write_files,
)
from benchmarks.quality.product.replay import UNKNOWN
from benchmarks.quality.product.report import describe_provenance
from benchmarks.quality.product.run import load_or_compute_arrays
from benchmarks.quality.product.sets import SETS, DataSet
from benchmarks.quality.running import SEED, make_parser, require_data_set

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[Any]]

NAME = "rectools"
OUR_MODEL, PEER_MODEL = "tailorbird", "esasrec"
METRIC_NAMES = ("ndcg_10", "hr_20", "mrr")
DEV_CUT, DEV_QUESTIONS = "dev", 3_000
PATIENCE_EVALUATIONS = 2
# RecTools' tutorials on MovieLens: width 50, one head, two blocks, 128 negatives, rate 0.001,
# dropout 0.2, batches of 128.
TUTORIAL = {
    "n_factors": 50,
    "n_heads": 1,
    "n_blocks": 2,
    "n_negatives": 128,
    "lr": 1e-3,
    "dropout_rate": 0.2,
    "batch_size": 128,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "eshop": TUTORIAL | {"session_max_len": 20},
    "movielens": TUTORIAL | {"session_max_len": 200},
}
# Numbers of epochs after which it is evaluated; an epoch of MovieLens has five batches.
EVALUATION_EPOCHS = {
    "eshop": (2, 4, 6, 8, 10, 12, 15, 20, 25, 30),
    "movielens": (10, 20, 30, 40, 50, 60, 75, 100),
}
PROTOCOL = (
    "Rows, cuts and questions are those of the product's benchmark; both know the rows of "
    "the question's person before it, and rank "
    "the whole catalogue. Neither knows what anybody did after the cut but for these rows.",
    "Ours is learned by the functions of `train --retrieval sequence` with their defaults, "
    "tower after tower as they serve, and asked "
    "through ONNX. Nothing else of Tailorbird has a say: no tables, no trees.",
    "eSASRec is RecTools' SASRecModel with LiGR layers and sampled softmax, with the "
    "settings of RecTools' tutorials; how many epochs "
    "it takes is chosen on the `dev` cut. Questions that it has no answer to get the most "
    "popular items.",
    "Seconds are of CPU, on one thread each, of fitting alone. Intervals (95 %) resample "
    "people; gains are paired.",
)


@dataclass(frozen=True)
class Case:
    """One cut of a set, with its questions."""

    data_set: DataSet
    data: Path
    log: Log
    questions: Questions
    folder: Path
    small: bool = False

    @classmethod
    def of(
        cls, name: str, data: Path, cut: str, keep: Path, max_questions: int, small: bool
    ) -> "Case":
        """Read a cut of a set and draw its questions."""
        data_set = SETS[name]
        rows, times = read_rows(data_set, data, cut, small)
        log = make_log(data_set, rows, times)
        folder = keep / f"{name}-{cut}{'-small' if small else ''}"
        folder.mkdir(parents=True, exist_ok=True)

        def import_all() -> dict[str, Any]:
            write_files(data_set, data, rows, times, folder / "train", test=False)
            return project.make_project(folder / "imported", folder / "train")

        project.load_or_make(folder / "imported.json", import_all)
        return cls(
            data_set=data_set,
            data=data,
            log=log,
            questions=draw_questions(data_set, log, max_questions),
            folder=folder,
            small=small,
        )

    @property
    def root(self) -> Path:
        """Return the folder of the imported project."""
        return Path(json.loads((self.folder / "imported.json").read_text())["root"])

    def is_interaction(self) -> npt.NDArray[np.bool_]:
        """Return which rows are an interaction of a known person with an item."""
        return self.log.valid & (self.log.item >= 0) & (self.log.person >= 0)

    def histories(self) -> tuple[Ints, Ints]:
        """Return rows of each question's history, oldest first, and offsets (questions + 1,)."""
        rows = np.flatnonzero(self.is_interaction())
        rows = rows[np.argsort(self.log.person[rows], kind="stable")]
        person, stride = self.log.person[rows], len(self.log) + 1
        key = person * stride + rows  # ascending
        person_of_question = self.log.person[self.questions.asker]
        low, high = (
            np.searchsorted(key, person_of_question * stride),
            np.searchsorted(key, person_of_question * stride + self.questions.at),
        )
        offsets = np.concatenate(([0], np.cumsum(high - low))).astype(np.int64)
        return rows[np.arange(offsets[-1]) + np.repeat(low - offsets[:-1], high - low)], offsets


def list_tailorbird(case: Case, seed: int) -> Arrays:
    """Train as `tailorbird train` does, and list the best items for each question."""
    from tailorbird.config import open_project
    from tailorbird.lake import Lake
    from tailorbird.platform.clocks import clock_as_of
    from tailorbird.platform.train_options import base_settings
    from tailorbird.retrieval import Index
    from tailorbird.training.dataset.indexes import build_series, write_index
    from tailorbird.training.dataset.rows import load_training_data
    from tailorbird.training.fit.retrieval import LEARNED_EVENTS_MIN
    from tailorbird.training.fit.towers import add_spaces, make_learner
    from tailorbird.training.split_datasets import index_times, split_requests

    site = open_project(case.root)
    slot, now = site.slot(site.settings.train.slot), clock_as_of("latest", site).now()
    settings = replace(
        base_settings(site, window="", rows="auto", leave_out=(), quick=False),
        retrieval="sequence",
        seed=seed,
    )
    heads = [head for other in site.slots.values() for head in other.objective]
    training_data = load_training_data(
        Lake(site.paths.lake).pin_versions(), site.features, slot, settings.row_settings(now, heads)
    )
    split = split_requests(training_data.dataset, training_data, settings)
    series = build_series(
        training_data.events,
        training_data.item_profiles,
        index_times(training_data.dataset, split, settings),
    )
    started = time.process_time()
    learner = make_learner(training_data, site.features, series, settings.tower, seed)
    assert learner is not None, "the project declares a sequence"
    add_spaces(series, learner, split.train_until, LEARNED_EVENTS_MIN, lambda done, total: None)
    with tempfile.TemporaryDirectory(prefix="tailorbird-rectools-") as folder:
        write_index(Path(folder) / "index", training_data.events, training_data.item_profiles, now)
        space = learner.add_inverted_file(
            learner.build_space(Index.open(Path(folder) / "index"), now)
        )
        seconds = time.process_time() - started
        lists, microseconds = _rank_questions(case, learner.export_files(space), space)
    return {"lists": lists, "seconds_fit": np.array(seconds), "us": np.array(microseconds)}


def _rank_questions(case: Case, files: Mapping[str, bytes], space: Any) -> tuple[Ints, float]:
    """Return the best items of each question by the exported net, and median microseconds."""
    from tailorbird.events import hash64s
    from tailorbird.ranking.tower import Space
    from tailorbird.ranking.tower_net import read_tower

    tower = read_tower(files, space.vectors, where="benchmark")
    assert tower is not None
    space = Space(tower, space.index)
    keys = hash64s(case.log.items.tolist())
    row_by_code = space.index.find(keys)
    code_by_row = np.full(len(space.index), UNKNOWN, np.int64)
    code_by_row[row_by_code[row_by_code >= 0]] = np.flatnonzero(row_by_code >= 0)
    rows, offsets = case.histories()
    item, ts = case.log.item[rows], case.log.ts[rows]
    lists, seconds = np.full((len(case.questions), SIZE), -1, np.int64), []
    for number in range(len(case.questions)):
        history = slice(offsets[number], offsets[number + 1])
        started = time.perf_counter()
        scores = space.query(_History(keys[item[history]], ts[history])).scores_of(
            np.arange(len(space.index))
        )
        if not case.data_set.repeats:
            seen_rows = row_by_code[item[history]]
            scores[seen_rows[seen_rows >= 0]] = -np.inf
        if space.index.visible is not None:
            scores = np.where(space.index.visible, scores, -np.inf)
        best_rows = np.argpartition(-scores, min(SIZE, len(scores) - 1))[:SIZE]
        best_rows = best_rows[np.argsort(-scores[best_rows], kind="stable")]
        seconds.append(time.perf_counter() - started)
        best_rows = best_rows[np.isfinite(scores[best_rows])]
        lists[number, : len(best_rows)] = code_by_row[best_rows]
    return lists, float(np.median(seconds)) * 1e6


@dataclass(frozen=True)
class _History:
    """One person's sequence."""

    item: npt.NDArray[np.uint64]
    ts: Ints


def list_esasrec(
    case: Case, settings: Mapping[str, Any], epochs: Sequence[int], seed: int, patience: int = 0
) -> Arrays:
    """Train eSASRec in the peers' environment, and list the best items after each number of epochs.

    Args:
        patience: stop after so many evaluations without improvement; 0 goes on to the last.
    """
    log = case.log
    train_rows = np.flatnonzero(case.is_interaction()[: log.test_from])
    rows, offsets = case.histories()
    with tempfile.TemporaryDirectory(prefix="tailorbird-rectools-") as scratch:
        folder = Path(scratch)
        # Times that ascend with the rows, so that equal ones keep their order there.
        np.savez(
            folder / "learn.npz",
            person=log.person[train_rows],
            item=log.item[train_rows],
            ts=log.ts[train_rows] + train_rows,
        )
        np.savez(
            folder / "ask.npz",
            item=log.item[rows],
            ts=log.ts[rows] + rows,
            offsets=offsets,
            truth=case.questions.truth,
        )
        job = {
            "settings": dict(settings),
            "epochs": list(epochs),
            "patience": patience,
            "seed": seed,
            "k": SIZE,
        }
        job |= {"repeats": case.data_set.repeats}
        (folder / "job.json").write_text(json.dumps(job))
        asking.run_script(asking.HERE / "esasrec.py", folder)
        outputs = dict(np.load(folder / "said.npz"))
    popular = _most_popular(case, rows, offsets)
    is_empty = (outputs["item"] < 0).all(axis=2)
    lists = np.where(is_empty[:, :, None], popular[None], outputs["item"])
    return {
        "lists": lists.astype(np.int64),
        "seconds_fit": outputs["seconds_fit"],
        "answered": 1 - is_empty.mean(axis=1),
    }


def _most_popular(case: Case, rows: Ints, offsets: Ints) -> Ints:
    """Return the most popular items of the training part, (questions, SIZE).

    Items that the person had are left out if the set has no repeats.
    """
    log = case.log
    count = np.bincount(
        log.item[: log.test_from][case.is_interaction()[: log.test_from]], minlength=len(log.items)
    )
    order = np.argsort(-count, kind="stable")
    lists = np.broadcast_to(order[:SIZE], (len(case.questions), SIZE)).copy()
    for number in () if case.data_set.repeats else range(len(case.questions)):
        seen_items = log.item[rows[offsets[number] : offsets[number + 1]]]
        if len(seen_items):
            popular_items = order[: SIZE + len(seen_items)]
            lists[number] = popular_items[~np.isin(popular_items, seen_items)][:SIZE]
    return lists


def choose_epochs(case: Case, settings: Mapping[str, Any], seed: int) -> dict[int, float]:
    """Return NDCG@10 after each number of epochs on the `dev` cut."""
    evaluation_epochs = EVALUATION_EPOCHS[case.data_set.name]
    path = case.folder / f"epochs-{len(case.questions)}.npz"
    arrays = load_or_compute_arrays(
        path, lambda: list_esasrec(case, settings, evaluation_epochs, seed, PATIENCE_EVALUATIONS)
    )
    weight = item_weights(case.log)
    values = [
        float(score_lists(lists, case.questions, weight)["ndcg_10"].mean())
        for lists in arrays["lists"]
    ]
    return dict(zip(evaluation_epochs, values, strict=False))


def compare(
    case: Case, seeds: Sequence[int], settings: Mapping[str, Any], epochs: int
) -> dict[str, Any]:
    """Return figures of both, with the paired gain of ours."""
    question_count = len(case.questions)
    our_runs = [
        load_or_compute_arrays(
            case.folder / f"ours-{seed}-{question_count}.npz",
            lambda seed=seed: list_tailorbird(case, seed),
        )
        for seed in seeds
    ]
    peer_runs = [
        load_or_compute_arrays(
            case.folder / f"theirs-{epochs}-{seed}-{question_count}.npz",
            lambda seed=seed: list_esasrec(case, settings, (epochs,), seed),
        )
        for seed in seeds
    ]
    lists = {
        OUR_MODEL: [runs_of_model["lists"] for runs_of_model in our_runs],
        PEER_MODEL: [runs_of_model["lists"][-1] for runs_of_model in peer_runs],
    }
    seconds = {
        OUR_MODEL: [float(runs_of_model["seconds_fit"]) for runs_of_model in our_runs],
        PEER_MODEL: [float(runs_of_model["seconds_fit"][-1]) for runs_of_model in peer_runs],
    }
    weight = item_weights(case.log)
    values = {}
    for name, runs_of_model in lists.items():
        by_seed = [
            score_lists(run_metrics, case.questions, weight) for run_metrics in runs_of_model
        ]
        values[name] = {
            figure: np.mean([run_metrics[figure] for run_metrics in by_seed], axis=0)
            for figure in METRIC_NAMES
        }
    resampling = Resampling.of(case.log.people[case.log.person[case.questions.asker]])
    results: dict[str, dict[str, float]] = {name: {} for name in lists}
    gain: dict[str, float] = {}
    for figure in METRIC_NAMES:
        for name in lists:
            results[name] |= with_interval(figure, *resampling.mean(values[name][figure]))
        gain |= with_interval(
            figure, *resampling.mean(values[OUR_MODEL][figure] - values[PEER_MODEL][figure])
        )
    has_history = np.diff(case.histories()[1]) > 0
    for name in lists:
        results[name]["ndcg_10_with_past"] = round(
            float(values[name]["ndcg_10"][has_history].mean()), 6
        )
        results[name]["seconds_fit"] = round(float(np.mean(seconds[name])), 1)
    results[OUR_MODEL]["us"] = round(
        float(np.mean([float(runs_of_model["us"]) for runs_of_model in our_runs])), 1
    )
    return {
        "title": case.data_set.title,
        "train_rows": case.log.test_from,
        "questions": question_count,
        "with_past": round(float(has_history.mean()), 4),
        "people": int(resampling.person.max()) + 1,
        "results": results,
        "gain": gain,
        "protocol": list(case.data_set.protocol),
    }


def measure(arguments: argparse.Namespace, keep: Path) -> dict[str, Any]:
    """Return figures of all sets that the command line asks for."""
    versions, failed = asking.find_peers((NAME,))
    if failed or not versions:
        print(
            f"skipped: {NAME} does not load: {failed.get(NAME, 'it is not installed')}; make peers",
            file=sys.stderr,
        )
        raise SystemExit(3)
    seeds = tuple(range(SEED, SEED + (1 if arguments.small else arguments.seeds)))
    cases = {}
    for name in arguments.set:
        data = require_data_set(SETS[name].folder, arguments.data)
        max_questions = arguments.questions or (
            SETS[name].small.questions if arguments.small else SETS[name].questions
        )
        ndcg_by_epochs = choose_epochs(
            Case.of(name, data, DEV_CUT, keep, min(max_questions, DEV_QUESTIONS), arguments.small),
            SETTINGS[name],
            SEED,
        )
        epochs = max(ndcg_by_epochs, key=ndcg_by_epochs.__getitem__)
        case = Case.of(name, data, arguments.cut, keep, max_questions, arguments.small)
        peer_facts = {
            "settings": SETTINGS[name],
            "epochs": epochs,
            "dev": {str(epochs_): round(value, 6) for epochs_, value in ndcg_by_epochs.items()},
        }
        cases[name] = {
            "cut": arguments.cut,
            **compare(case, seeds, SETTINGS[name], epochs),
            PEER_MODEL: peer_facts,
        }
    return {
        "benchmark": NAME,
        "small": arguments.small,
        "seeds": len(seeds),
        "protocol": list(PROTOCOL),
        "versions": versions,
        "cases": cases,
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(
        NAME,
        __doc__.partition("\n")[0],
        small="a part of the users; one seed",
        keep="keep what is done in this folder, and go on from there",
    )
    parser.add_argument(
        "--set", nargs="+", choices=SETTINGS, default=[*SETTINGS], help="the data sets"
    )
    parser.add_argument(
        "--cut",
        choices=(DEV_CUT, "test"),
        default="test",
        help="what is asked: settings may be chosen on `dev` alone",
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings, averaged (default 3)")
    parser.add_argument("--questions", type=int, default=0, help="ask so many at most (20,000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tailorbird-rectools-") as scratch:
        result = measure(arguments, arguments.keep or Path(scratch)) | describe_provenance(
            _command(arguments)
        )
    print(json.dumps(result, indent=1)) if arguments.json else print_report(result)


def _command(arguments: argparse.Namespace) -> str:
    """Return the command without what differs from machine to machine."""
    options_: list[Any] = ["--set", *arguments.set, "--cut", arguments.cut]
    options_ += ["--small"] if arguments.small else ["--seeds", arguments.seeds]
    options_ += ["--questions", arguments.questions] if arguments.questions else []
    return shlex.join(["python", "-m", f"benchmarks.quality.{NAME}", *map(str, options_), "--json"])


def print_report(result: Mapping[str, Any]) -> None:
    """Print a report for people."""
    for name, case in result["cases"].items():
        print(
            f"{name}, cut {case['cut']}: {case['questions']:,} questions of "
            f"{case['people']:,} people; {case[PEER_MODEL]['epochs']} epochs"
        )
        for entry, figures in case["results"].items():
            print(
                f"  {entry:12}",
                "  ".join(f"{figure} {value:.4f}" for figure, value in figures.items()),
            )
        print(
            "  gain        ",
            "  ".join(f"{figure} {value:+.4f}" for figure, value in case["gain"].items()),
        )


if __name__ == "__main__":
    sys.exit(main())
