"""Run one cut: files, project, trainings, replays and baselines, each kept once it is done."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality.product import project
from benchmarks.quality.product.baselines import run_baselines
from benchmarks.quality.product.figures import OURS, ListMetrics, compute_list_metrics
from benchmarks.quality.product.log import (
    Log,
    Questions,
    draw_questions,
    make_log,
    read_rows,
    write_files,
)
from benchmarks.quality.product.replay import ServedLists, read_stream, replay
from benchmarks.quality.product.sets import DataSet
from tailorbird.config import open_project

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Run:
    """The set, cuts and options of a run, and the folder that keeps its steps."""

    data_set: DataSet
    data: Path
    keep: Path
    seeds: tuple[int, ...]
    small: bool = False
    quick: bool = False
    questions: int = 0  # at most, where it is not the set's own number

    def folder(self, cut: str) -> Path:
        """Return the folder that keeps the steps of a cut."""
        return self.keep / f"{self.data_set.name}-{cut}{'-small' if self.small else ''}"

    def training_name(self, seed: int) -> str:
        """Return the name under which a training is kept."""
        return f"{seed}-quick" if self.quick else str(seed)

    def response_name(self, name: str) -> str:
        """Return the name under which the responses to this run's questions are kept."""
        return f"{name}-of-{self.questions}" if self.questions else name


@dataclass(frozen=True)
class CutResult:
    """The results of one cut: figures by question, the commands' reports, and seconds."""

    name: str
    log: Log
    questions: Questions
    judged: ListMetrics
    imported: Mapping[str, Any]
    trained: Mapping[int, Mapping[str, Any]]
    replayed: Mapping[int, Mapping[str, Any]]
    seconds: Mapping[str, float]


def run_cut(run: Run, cut_name: str) -> CutResult:
    """Run a cut of a set, reusing the steps that were done before."""
    data_set, folder = run.data_set, run.folder(cut_name)
    rows, cut = read_rows(data_set, run.data, cut_name, run.small)
    log = make_log(data_set, rows, cut)
    max_questions = run.questions or (data_set.small.questions if run.small else data_set.questions)
    questions = draw_questions(data_set, log, max_questions)
    folder.mkdir(parents=True, exist_ok=True)

    def import_all() -> dict[str, Any]:
        write_files(data_set, run.data, rows, cut, folder / "train", test=False)
        write_files(data_set, run.data, rows, cut, folder / "test", test=True)
        return project.make_project(folder / "imported", folder / "train")

    imported = project.load_or_make(folder / "imported.json", import_all)
    lists = load_or_compute_arrays(
        folder / f"{run.response_name('baselines')}.npz",
        lambda: _run_baselines(data_set, log, questions),
    )
    training_by_seed, replay_by_seed, served_by_seed = {}, {}, []
    for seed in run.seeds:
        training_by_seed[seed] = _train_seed(run, folder, imported, seed)
        arrays = load_or_compute_arrays(
            folder / f"{run.response_name(f'served-{run.training_name(seed)}')}.npz",
            lambda seed=seed: _serve_seed(run, folder, log, questions, seed),
        )
        served_by_seed.append(arrays)
        replay_by_seed[seed] = replay_report(arrays)
    baseline_lists = {name: [arrays_] for name, arrays_ in lists.items() if name != "seconds"}
    our_lists = {OURS: [arrays_["lists"] for arrays_ in served_by_seed]}
    judged = compute_list_metrics(
        log, questions, our_lists | baseline_lists, [arrays_["found"] for arrays_ in served_by_seed]
    )
    _save_questions(
        folder / f"{run.response_name('questions')}{'-quick' if run.quick else ''}.npz",
        log,
        questions,
        judged,
    )
    seconds = {"baselines": float(lists["seconds"])}
    return CutResult(
        name=cut_name,
        log=log,
        questions=questions,
        judged=judged,
        imported=imported,
        trained=training_by_seed,
        replayed=replay_by_seed,
        seconds=seconds,
    )


def _run_baselines(data_set: DataSet, log: Log, questions: Questions) -> Arrays:
    lists, seconds = run_baselines(data_set, log, questions)
    return {**lists, "seconds": np.array(seconds)}


def _train_seed(run: Run, folder: Path, imported: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train in a copy of the imported project."""
    name = run.training_name(seed)
    root = folder / f"seed-{name}" / project.PROJECT_NAME

    def make() -> dict[str, Any]:
        project.copy_project(Path(imported["root"]), root)
        return project.train(imported, root, seed, ["--quick"] if run.quick else [])

    return project.load_or_make(folder / f"trained-{name}.json", make)


def _serve_seed(run: Run, folder: Path, log: Log, questions: Questions, seed: int) -> Arrays:
    """Replay in a copy of the trained project, which is thrown away."""
    with tempfile.TemporaryDirectory(prefix="tailorbird-replay-") as scratch:
        root = Path(scratch) / project.PROJECT_NAME
        project.copy_project(
            folder / f"seed-{run.training_name(seed)}" / project.PROJECT_NAME, root
        )
        stream = read_stream(
            open_project(root), root / "mapping.toml", folder / "test", log.cut.end
        )
        served = replay(root, stream, log, questions, seed)
    return served_arrays(served, stream.refused)


def served_arrays(served: ServedLists, refused: int) -> Arrays:
    """Return the served lists and counts as arrays, to be kept."""
    counts, seconds = sorted(served.counts.items()), sorted(served.seconds.items())
    return {
        "lists": served.lists,
        "found": served.candidate_recall,
        "arms": np.array(served.arms, np.str_),
        "candidates": served.candidates,
        "refused": np.array(refused),
        "count_names": np.array([name for name, _ in counts], np.str_),
        "counts": np.array([count for _, count in counts]),
        "stages": np.array([name for name, _ in seconds], np.str_),
        "seconds": np.array([spent for _, spent in seconds]),
    }


def replay_report(arrays: Arrays) -> dict[str, Any]:
    """Return the facts in a replay's arrays beside its lists."""
    names, counts = arrays["count_names"].tolist(), arrays["counts"].tolist()
    stages, seconds = arrays["stages"].tolist(), np.round(arrays["seconds"], 1).tolist()
    return {
        "candidates": round(float(arrays["candidates"].mean()), 1),
        "listed": round(float((arrays["lists"] >= 0).sum(axis=1).mean()), 2),
        "refused": int(arrays["refused"]),
        "answers": dict(zip(names, counts, strict=True)),
        "seconds": dict(zip(stages, seconds, strict=True)),
    }


def _save_questions(path: Path, log: Log, questions: Questions, judged: ListMetrics) -> None:
    """Keep the figures of each question, from which figures over several cuts can be made."""
    arrays: dict[str, Any] = {
        f"{entry}.{figure}": values
        for entry, figures in judged.values.items()
        for figure, values in figures.items()
    }
    facts = {"person": judged.person, "now": questions.now, "ipw_ideal": judged.ipw_ideal}
    _save(path, {**facts, **arrays})


def load_or_compute_arrays(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays that `make` returns, read from the file at `path` if it exists."""
    if not path.exists():
        _save(path, make())
    with np.load(path) as file:
        return dict(file)


def _save(path: Path, arrays: Arrays) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # no array is named as an argument is
    part.rename(path)
