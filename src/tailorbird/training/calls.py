"""Calls of a project by another name: `tb.training.train(project)` is `project.train()`."""

from typing import Any, Protocol


class TrainingProject(Protocol):
    """A project, as `tailorbird.Project`."""

    def train(self, name: str = "", **options: Any) -> Any: ...
    def backtest(self, slot: str = "", **options: Any) -> Any: ...


def train(project: TrainingProject, task: str = "", **options: Any) -> Any:
    """Train a ranking or churn model, and promote it if it passes the gate.

    Args:
        project: the project.
        task: a slot of slots.py or a churn model of churn.py; "" takes `train.slot`.
        options: as of `Project.train`.
    """
    return project.train(task, **options)


def backtest(project: TrainingProject, slot: str = "", **options: Any) -> Any:
    """Train a slot's model at several past cuts and evaluate each; see `Project.backtest`."""
    return project.backtest(slot, **options)
