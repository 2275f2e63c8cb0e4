"""Compare what `train --retrieval sequence` learns with RecTools' eSASRec, both without anything
beside them.

    python -m benchmarks.quality.rectools [--set eshop movielens] [--cut test] [--seeds N]
                                          [--questions N] [--data PATH] [--keep FOLDER] [--small]
                                          [--json]

Rows, cuts and questions are those of `benchmarks.quality.product`. Both learn from the rows before
the cut, on one thread, and list their 20 best items for the same questions, which they know as the
rows of the question's person before it. Where the set has no repeats, neither lists what the person
had.

- Ours is learned by the functions of `tailorbird train` with their defaults, in a project that
  `init` and `import` made, and is asked through the exported net and the index that a bundle would
  hold.
- eSASRec is learned in `.peers/` (`make peers`) with the settings of RecTools' own tutorials. How
  many epochs it takes is chosen on the `dev` cut: it is asked after each of `LOOKS`, and stops
  where `PATIENCE` of them were not better than the best.

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
from benchmarks.quality.product.figures import Resampling, interval, item_weights, score
from benchmarks.quality.product.log import (
    Log,
    Questions,
    draw_questions,
    make_log,
    read_rows,
    write_files,
)
from benchmarks.quality.product.replay import UNKNOWN
from benchmarks.quality.product.report import how_run
from benchmarks.quality.product.run import kept_arrays
from benchmarks.quality.product.sets import SETS, DataSet
from benchmarks.quality.running import SEED, folder_or_skip, options

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[Any]]

NAME = "rectools"
OURS, THEIRS = "tailorbird", "esasrec"
FIGURES = ("ndcg_10", "hr_20", "mrr")
DEV, DEV_QUESTIONS = "dev", 3_000
PATIENCE = 2  # looks
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
# Numbers of epochs after which it is asked; of MovieLens, an epoch has five batches.
LOOKS = {
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
    """One cut of a set, with what is asked."""

    data_set: DataSet
    data: Path
    log: Log
    questions: Questions
    folder: Path
    small: bool = False

    @classmethod
    def of(cls, name: str, data: Path, cut: str, keep: Path, most: int, small: bool) -> "Case":
        """Read a cut of a set and draw its questions."""
        data_set = SETS[name]
        rows, times = read_rows(data_set, data, cut, small)
        log = make_log(data_set, rows, times)
        folder = keep / f"{name}-{cut}{'-small' if small else ''}"
        folder.mkdir(parents=True, exist_ok=True)

        def import_all() -> dict[str, Any]:
            write_files(data_set, data, rows, times, folder / "train", test=False)
            return project.make_project(folder / "imported", folder / "train")

        project.kept(folder / "imported.json", import_all)
        return cls(data_set, data, log, draw_questions(data_set, log, most), folder, small)

    @property
    def root(self) -> Path:
        """The imported project."""
        return Path(json.loads((self.folder / "imported.json").read_text())["root"])

    def known(self) -> npt.NDArray[np.bool_]:
        """Which rows say what a person did with an item."""
        return self.log.valid & (self.log.item >= 0) & (self.log.person >= 0)

    def pasts(self) -> tuple[Ints, Ints]:
        """Rows of each question's person before it, oldest first, and offsets (questions + 1,)."""
        rows = np.flatnonzero(self.known())
        rows = rows[np.argsort(self.log.person[rows], kind="stable")]
        person, many = self.log.person[rows], len(self.log) + 1
        key = person * many + rows  # ascending
        asked = self.log.person[self.questions.asker]
        low, high = (
            np.searchsorted(key, asked * many),
            np.searchsorted(key, asked * many + self.questions.at),
        )
        offsets = np.concatenate(([0], np.cumsum(high - low))).astype(np.int64)
        return rows[np.arange(offsets[-1]) + np.repeat(low - offsets[:-1], high - low)], offsets


def list_ours(case: Case, seed: int) -> Arrays:
    """Learn as `tailorbird train` does, and list the best items for each question."""
    from tailorbird.config import open_project
    from tailorbird.lake import Lake
    from tailorbird.platform.moment import clock_as_of
    from tailorbird.platform.training import base_settings
    from tailorbird.retrieval import Index
    from tailorbird.training.indexes import build_series, write_index
    from tailorbird.training.retrieval import EVENTS_MIN
    from tailorbird.training.rows import load_material
    from tailorbird.training.towers import add_spaces, make_learner
    from tailorbird.training.train import index_moments, split_requests

    site = open_project(case.root)
    slot, now = site.slot(site.settings.train.slot), clock_as_of("latest", site).now()
    settings = replace(
        base_settings(site, window="", rows="auto", leave_out=(), quick=False),
        retrieval="sequence",
        seed=seed,
    )
    heads = [head for other in site.slots.values() for head in other.objective]
    material = load_material(
        Lake(site.paths.lake).pinned(), site.features, slot, settings.wanted(now, heads)
    )
    split = split_requests(material.data, material, settings)
    series = build_series(
        material.events, material.items, index_moments(material.data, split, settings)
    )
    begun = time.process_time()
    learner = make_learner(material, site.features, series, settings.tower, seed)
    assert learner is not None, "the project declares a sequence"
    add_spaces(series, learner, split.train_until, EVENTS_MIN, lambda done, total: None)
    with tempfile.TemporaryDirectory(prefix="tailorbird-rectools-") as folder:
        write_index(Path(folder) / "index", material.events, material.items, now)
        space = learner.indexed(learner.space(Index.open(Path(folder) / "index"), now))
        spent = time.process_time() - begun
        lists, us = _ask(case, learner.files(space), space)
    return {"lists": lists, "seconds_fit": np.array(spent), "us": np.array(us)}


def _ask(case: Case, files: Mapping[str, bytes], space: Any) -> tuple[Ints, float]:
    """The best items of each question by the exported net, and the median microseconds of one
    person's answer.
    """
    from tailorbird.events import hash64s
    from tailorbird.ranking.tower import Space, read_tower

    tower = read_tower(files, space.vectors, where="benchmark")
    assert tower is not None
    space = Space(tower, space.index)
    keys = hash64s(case.log.items.tolist())
    row = space.index.find(keys)
    code = np.full(len(space.index), UNKNOWN, np.int64)
    code[row[row >= 0]] = np.flatnonzero(row >= 0)
    rows, offsets = case.pasts()
    item, ts = case.log.item[rows], case.log.ts[rows]
    lists, spent = np.full((len(case.questions), SIZE), -1, np.int64), []
    for number in range(len(case.questions)):
        past = slice(offsets[number], offsets[number + 1])
        begun = time.perf_counter()
        product = space.ask(_Past(keys[item[past]], ts[past])).product(np.arange(len(space.index)))
        if not case.data_set.repeats:
            had = row[item[past]]
            product[had[had >= 0]] = -np.inf
        if space.index.shown is not None:
            product = np.where(space.index.shown, product, -np.inf)
        best = np.argpartition(-product, min(SIZE, len(product) - 1))[:SIZE]
        best = best[np.argsort(-product[best], kind="stable")]
        spent.append(time.perf_counter() - begun)
        best = best[np.isfinite(product[best])]
        lists[number, : len(best)] = code[best]
    return lists, float(np.median(spent)) * 1e6


@dataclass(frozen=True)
class _Past:
    """One person's sequence."""

    item: npt.NDArray[np.uint64]
    ts: Ints


def list_theirs(
    case: Case, settings: Mapping[str, Any], epochs: Sequence[int], seed: int, patience: int = 0
) -> Arrays:
    """Learn eSASRec in the peers' environment, and list the best items for each question after each
    number of epochs.

    Args:
        patience: stop after so many that were not better than the best; 0 goes on to the last.
    """
    log = case.log
    learned = np.flatnonzero(case.known()[: log.test_from])
    rows, offsets = case.pasts()
    with tempfile.TemporaryDirectory(prefix="tailorbird-rectools-") as scratch:
        folder = Path(scratch)
        # Times that ascend with the rows, so that equal ones keep their order there.
        np.savez(
            folder / "learn.npz",
            person=log.person[learned],
            item=log.item[learned],
            ts=log.ts[learned] + learned,
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
        said = dict(np.load(folder / "said.npz"))
    popular = _popular(case, rows, offsets)
    empty = (said["item"] < 0).all(axis=2)
    lists = np.where(empty[:, :, None], popular[None], said["item"])
    return {
        "lists": lists.astype(np.int64),
        "seconds_fit": said["seconds_fit"],
        "answered": 1 - empty.mean(axis=1),
    }


def _popular(case: Case, rows: Ints, offsets: Ints) -> Ints:
    """The most popular items of the training part, (questions, SIZE), without what the person had
    where the set has no repeats.
    """
    log = case.log
    count = np.bincount(
        log.item[: log.test_from][case.known()[: log.test_from]], minlength=len(log.items)
    )
    order = np.argsort(-count, kind="stable")
    lists = np.broadcast_to(order[:SIZE], (len(case.questions), SIZE)).copy()
    for number in () if case.data_set.repeats else range(len(case.questions)):
        had = log.item[rows[offsets[number] : offsets[number + 1]]]
        if len(had):
            head = order[: SIZE + len(had)]
            lists[number] = head[~np.isin(head, had)][:SIZE]
    return lists


def choose_epochs(case: Case, settings: Mapping[str, Any], seed: int) -> dict[int, float]:
    """Return NDCG@10 after each number of epochs on the `dev` cut."""
    looks = LOOKS[case.data_set.name]
    path = case.folder / f"epochs-{len(case.questions)}.npz"
    told = kept_arrays(path, lambda: list_theirs(case, settings, looks, seed, PATIENCE))
    weight = item_weights(case.log)
    values = [
        float(score(lists, case.questions, weight)["ndcg_10"].mean()) for lists in told["lists"]
    ]
    return dict(zip(looks, values, strict=False))


def compare(
    case: Case, seeds: Sequence[int], settings: Mapping[str, Any], epochs: int
) -> dict[str, Any]:
    """Figures of both, with the paired gain of ours."""
    asked = len(case.questions)
    ours = [
        kept_arrays(
            case.folder / f"ours-{seed}-{asked}.npz", lambda seed=seed: list_ours(case, seed)
        )
        for seed in seeds
    ]
    theirs = [
        kept_arrays(
            case.folder / f"theirs-{epochs}-{seed}-{asked}.npz",
            lambda seed=seed: list_theirs(case, settings, (epochs,), seed),
        )
        for seed in seeds
    ]
    lists = {OURS: [each["lists"] for each in ours], THEIRS: [each["lists"][-1] for each in theirs]}
    seconds = {
        OURS: [float(each["seconds_fit"]) for each in ours],
        THEIRS: [float(each["seconds_fit"][-1]) for each in theirs],
    }
    weight = item_weights(case.log)
    values = {}
    for name, each in lists.items():
        by_seed = [score(one, case.questions, weight) for one in each]
        values[name] = {
            figure: np.mean([one[figure] for one in by_seed], axis=0) for figure in FIGURES
        }
    resampling = Resampling.of(case.log.people[case.log.person[case.questions.asker]])
    results: dict[str, dict[str, float]] = {name: {} for name in lists}
    gain: dict[str, float] = {}
    for figure in FIGURES:
        for name in lists:
            results[name] |= interval(figure, *resampling.mean(values[name][figure]))
        gain |= interval(figure, *resampling.mean(values[OURS][figure] - values[THEIRS][figure]))
    past = np.diff(case.pasts()[1]) > 0
    for name in lists:
        results[name]["ndcg_10_with_past"] = round(float(values[name]["ndcg_10"][past].mean()), 6)
        results[name]["seconds_fit"] = round(float(np.mean(seconds[name])), 1)
    results[OURS]["us"] = round(float(np.mean([float(each["us"]) for each in ours])), 1)
    return {
        "title": case.data_set.title,
        "train_rows": case.log.test_from,
        "questions": asked,
        "with_past": round(float(past.mean()), 4),
        "people": int(resampling.person.max()) + 1,
        "results": results,
        "gain": gain,
        "protocol": list(case.data_set.protocol),
    }


def measure(given: argparse.Namespace, keep: Path) -> dict[str, Any]:
    """Return figures of all sets that the command line asks for."""
    versions, failed = asking.find_peers((NAME,))
    if failed or not versions:
        print(
            f"skipped: {NAME} does not load: {failed.get(NAME, 'it is not installed')}; make peers",
            file=sys.stderr,
        )
        raise SystemExit(3)
    seeds = tuple(range(SEED, SEED + (1 if given.small else given.seeds)))
    cases = {}
    for name in given.set:
        data = folder_or_skip(SETS[name].folder, given.data)
        most = given.questions or (
            SETS[name].small.questions if given.small else SETS[name].questions
        )
        looks = choose_epochs(
            Case.of(name, data, DEV, keep, min(most, DEV_QUESTIONS), given.small),
            SETTINGS[name],
            SEED,
        )
        epochs = max(looks, key=looks.__getitem__)
        case = Case.of(name, data, given.cut, keep, most, given.small)
        told = {
            "settings": SETTINGS[name],
            "epochs": epochs,
            "dev": {str(look): round(value, 6) for look, value in looks.items()},
        }
        cases[name] = {
            "cut": given.cut,
            **compare(case, seeds, SETTINGS[name], epochs),
            THEIRS: told,
        }
    return {
        "benchmark": NAME,
        "small": given.small,
        "seeds": len(seeds),
        "protocol": list(PROTOCOL),
        "versions": versions,
        "cases": cases,
    }


def main() -> None:
    """Run the command line."""
    parser = options(
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
        choices=(DEV, "test"),
        default="test",
        help="what is asked: settings may be chosen on `dev` alone",
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings, averaged (default 3)")
    parser.add_argument("--questions", type=int, default=0, help="ask so many at most (20,000)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tailorbird-rectools-") as scratch:
        result = measure(given, given.keep or Path(scratch)) | how_run(_command(given))
    print(json.dumps(result, indent=1)) if given.json else show(result)


def _command(given: argparse.Namespace) -> str:
    """Return the command without what differs from machine to machine."""
    kept: list[Any] = ["--set", *given.set, "--cut", given.cut]
    kept += ["--small"] if given.small else ["--seeds", given.seeds]
    kept += ["--questions", given.questions] if given.questions else []
    return shlex.join(["python", "-m", f"benchmarks.quality.{NAME}", *map(str, kept), "--json"])


def show(result: Mapping[str, Any]) -> None:
    """Print a report for people."""
    for name, case in result["cases"].items():
        print(
            f"{name}, cut {case['cut']}: {case['questions']:,} questions of "
            f"{case['people']:,} people; {case[THEIRS]['epochs']} epochs"
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
