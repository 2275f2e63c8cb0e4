"""The public API: names load when they are used, and each command has its call."""

import importlib
import subprocess
import sys

import pytest

import tailorbird
from tailorbird.cli.main import build_app

# Command → the call that does the same. What only a shell needs says why.
TWINS = {
    "init": "Project.create",
    "import": "Project.import_files",
    "train": "Project.train",
    "evaluate": "Project.evaluate",
    "validate": "Project.backtest",
    "tune": "Project.tune",
    "recommend": "Project.recommend",
    "sql": "Project.lake",
    "experiment estimate": "Project.estimate_policy",
    "experiment list": "Project.experiments",
    "experiment plan": "Project.experiments",
    "experiment start": "Project.experiments",
    "experiment ramp": "Project.experiments",
    "experiment stop": "Project.experiments",
    "experiment decide": "Project.experiments",
    "experiment report": "Project.experiments",
    "monitor figures": "Project.monitoring",
    "monitor status": "Project.monitoring",
    "monitor approve": "Project.monitoring",
    "monitor drift": "Project.monitoring",
    "monitor notify": "Project.monitoring",
    "monitor silence": "Project.monitoring",
    "models prune": "Project.registry",
    "features show": "Project.features",
    "features backfill": "Project.features",
    "models list": "Project.registry",
    "models promote": "Project.registry",
    "models rollback": "Project.registry",
    "lake erase": "Project.privacy",
    "lake export-user": "Project.privacy",
    "up": "Project.local_server",
    "backup": "Project.backup",
    "restore": "restore",
}


def resolve(path: str) -> object:
    value: object = tailorbird
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("name", tailorbird.__all__)
def test_each_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(tailorbird, name)
    assert name == "__version__" or value.__doc__
    assert name in dir(tailorbird)


@pytest.mark.parametrize(("command", "call"), TWINS.items())
def test_each_command_has_its_call(command: str, call: str) -> None:
    app = build_app()
    for word in command.split():
        app = app[word]
    assert app.default_command is not None
    assert resolve(call).__doc__


def test_tasks_have_their_names_in_namespaces() -> None:
    for name in (
        "candidates.source",
        "metrics.ndcg",
        "models.GBDT",
        "models.Logistic",
        "models.NeuralNet",
        "models.baselines",
        "models.register",
        "training.Dataset",
        "training.backtest",
        "training.evaluate",
        "training.train",
        "tuning.tune",
    ):
        value = resolve(name)
        assert callable(value), name
        assert value.__doc__, name
    importlib.import_module("tailorbird.training.pipeline")  # a module of a function's name
    assert callable(resolve("training.train"))


def test_the_import_loads_nothing_else() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import tailorbird; "
        "print(time.perf_counter() - start, 'numpy' in sys.modules, 'pyarrow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, numpy, pyarrow = done.stdout.split()
    assert float(seconds) < 0.1
    assert (numpy, pyarrow) == ("False", "False")


def test_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Shop'"):
        _ = tailorbird.Shop
