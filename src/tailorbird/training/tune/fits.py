"""Fits, in this process or in several, each kept in the study's folder: one that was done before a
run was killed is not done again.

A fit is asked for by architecture, settings, split and seed, and answers with NDCG@10 of each
judged request. With one worker fits run here, one after the other; with more, each process opens
the splits itself, fits with one thread, and ends when this one does.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import StorageError
from tailorbird.training.resuming import kept_arrays
from tailorbird.training.settings import TrainSettings
from tailorbird.training.tune.architectures import ARCHITECTURES, Ask
from tailorbird.training.tune.rows import Split
from tailorbird.training.tune.space import Value

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """Which fit."""

    architecture: str
    settings: Mapping[str, Value]
    split: int
    seed: int

    @property
    def name(self) -> str:
        return msgspec.json.encode(
            [self.architecture, sorted(self.settings.items()), self.split, self.seed]
        ).decode()


@dataclass(frozen=True)
class Found:
    """NDCG@10 of each judged request, NaN where there is nothing to find, in all and of the long
    tail; and how long the fit took.
    """

    quality: Floats
    tail: Floats
    seconds: float

    @property
    def mean(self) -> float:
        return float(np.nanmean(self.quality))


class Fits(Protocol):
    """Takes fits, and gives what is found of each."""

    @property
    def workers(self) -> int: ...

    def submit(self, fit: Fit) -> "Future[Found]": ...


def split_name(preset: str, number: int) -> str:
    """Under which name a folder keeps a split."""
    return f"split {preset} {number}"


@dataclass
class Bench:
    """Where fits are done: the folder, with the splits in memory that have been asked for."""

    folder: Path
    train: TrainSettings
    threads: int
    splits: dict[str, Split] = field(default_factory=dict)

    def split(self, preset: str, number: int) -> Split:
        name = split_name(preset, number)
        if name not in self.splits:
            self.splits[name] = Split.of(kept_arrays(self.folder, name, _missing))
        return self.splits[name]

    def run(self, fit: Fit) -> Found:
        """The fit, or what was kept of it."""

        def make() -> Mapping[str, npt.NDArray]:
            begin = time.monotonic()
            architecture = ARCHITECTURES[fit.architecture]
            split = self.split(architecture.columns, fit.split)
            value = architecture.fit(split, Ask(fit.settings, fit.seed, self.train, self.threads))
            return {
                "quality": split.quality(value),
                "tail": split.quality_of_tail(value),
                "seconds": np.array(time.monotonic() - begin),
            }

        kept = kept_arrays(self.folder, fit.name, make)
        return Found(kept["quality"], kept["tail"], float(kept["seconds"]))


def _missing() -> Mapping[str, npt.NDArray]:
    raise StorageError(
        "the rows of a tuning are gone from its folder", fix="the same command makes them again"
    )


@dataclass(frozen=True)
class _Here:
    bench: Bench
    workers: int = 1

    def submit(self, fit: Fit) -> "Future[Found]":
        done: Future[Found] = Future()
        try:
            done.set_result(self.bench.run(fit))
        except Exception as error:
            done.set_exception(error)
        return done


@dataclass(frozen=True)
class _Processes:
    pool: ProcessPoolExecutor
    workers: int

    def submit(self, fit: Fit) -> "Future[Found]":
        return self.pool.submit(_run, fit)


@contextmanager
def open_fits(folder: Path, train: TrainSettings, workers: int) -> Iterator[Fits]:
    """Somebody who does fits, by so many processes.

    Raises:
        StorageError: a process died, as when memory ran out; what was found so far is kept.
    """
    if workers == 1:
        yield _Here(Bench(folder, train, 0))
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_open, initargs=(folder, train)
    )
    try:
        yield _Processes(pool, workers)
        # all fits are done: its processes end at once, and what they shared is given back before
        # this process leaves
        pool.shutdown()
    except BrokenProcessPool:
        fix = "the same command goes on; with fewer --workers it needs less memory"
        raise StorageError("a process that fitted models died", fix=fix) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_opened: dict[str, Bench] = {}  # of a worker process; empty everywhere else


def _open(folder: Path, train: TrainSettings) -> None:
    _opened["bench"] = Bench(folder, train, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's processes would wait for ever for the next fit where the one that asks was killed."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _run(fit: Fit) -> Found:
    return _opened["bench"].run(fit)
