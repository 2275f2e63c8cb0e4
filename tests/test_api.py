"""The public API: names load when they are used, and each command has its call."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property

import pytest
from cyclopts import App

import tailorbird
from tailorbird.cli.main import build_app

# Command → the call that does the same.
TWINS = {
    "backup": "Project.backup",
    "check": "Project.check",
    "checks run": "Project.check_day",
    "config show": "Project.settings",
    "doctor": "Project.diagnose",
    "evaluate": "Project.evaluate",
    "experiment decide": "Project.experiments.decide",
    "experiment estimate": "Project.experiments.estimate",
    "experiment list": "Project.experiments.list",
    "experiment plan": "Project.experiments.plan",
    "experiment ramp": "Project.experiments.ramp",
    "experiment report": "Project.experiments.report",
    "experiment start": "Project.experiments.start",
    "experiment stop": "Project.experiments.stop",
    "features apply": "Project.features.apply",
    "features backfill": "Project.features.historical",
    "features list": "Project.features.list",
    "features plan": "Project.features.plan",
    "features prune": "Project.features.prune",
    "features rank": "Project.features.rank",
    "features republish": "Project.features.republish",
    "features show": "Project.features.online",
    "features verify": "Project.features.verify",
    "formula reset": "Project.formulas.reset",
    "formula set": "Project.formulas.set",
    "formula show": "Project.formulas.current",
    "import": "Project.import_files",
    "init": "Project.create",
    "keys create": "Project.keys.create",
    "keys list": "Project.keys.list",
    "keys pseudonym": "Project.keys.pseudonym",
    "keys revoke": "Project.keys.revoke",
    "lake compact": "Project.lake.compact",
    "lake erase": "Project.privacy.erase",
    "lake events": "Project.lake.events",
    "lake export-user": "Project.privacy.export",
    "lake quarantine": "Project.lake.quarantine",
    "lake repair": "Project.lake.repair",
    "lake replay": "Project.lake.replay",
    "lake vacuum": "Project.lake.vacuum",
    "lake verify": "Project.lake.verify",
    "models audit": "Project.registry.audit",
    "models canary": "Project.registry.canary",
    "models list": "Project.registry.versions",
    "models promote": "Project.registry.promote",
    "models prune": "Project.registry.prune",
    "models rollback": "Project.registry.rollback",
    "models shadow": "Project.registry.shadow",
    "models show": "Project.registry.show",
    "models verify": "Project.registry.verify",
    "monitor approve": "Project.monitoring.approve",
    "monitor decide": "Project.monitoring.decide",
    "monitor drift": "Project.monitoring.drift",
    "monitor figures": "Project.monitoring.figures",
    "monitor notify": "Project.monitoring.notify",
    "monitor silence": "Project.monitoring.silence",
    "monitor status": "Project.monitoring.status",
    "recommend": "Project.recommend",
    "restore": "restore",
    "rules report": "Project.rule_costs",
    "score churn": "Project.score_churn",
    "scores tail": "Project.scores",
    "simulate": "simulator.write_history",
    "sql": "Project.lake.sql",
    "train": "Project.train",
    "tune": "Project.tune",
    "up": "Project.local_server",
    "validate": "Project.backtest",
}
# Each is a process of its own: `Project.local_server` runs all roles.
SHELL_ONLY = {"demo", "run"}


def command_names(app: App, prefix: str = "") -> Iterator[str]:
    for name in app:
        if name.startswith("-") or f"{prefix}{name}" in SHELL_ONLY:
            continue
        if app[name].default_command is None:
            yield from command_names(app[name], f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


def resolve(path: str) -> object:
    """Return what a path names; a property is followed to the class that it returns."""
    value: object = tailorbird
    for name in path.split("."):
        value = getattr(value, name)
        if isinstance(value, cached_property):
            returned = value.func.__annotations__["return"]
            value = getattr(importlib.import_module(VIEWS[returned]), returned)
    return value


# Class of a property → its module.
VIEWS = {
    "ExperimentView": "tailorbird.platform.experiments.view",
    "FeatureView": "tailorbird.platform.tables",
    "FormulaView": "tailorbird.platform.models.formulas",
    "KeysView": "tailorbird.platform.keys",
    "LakeView": "tailorbird.platform.tables",
    "MonitoringView": "tailorbird.platform.monitoring",
    "PrivacyView": "tailorbird.platform.privacy",
    "RegistryView": "tailorbird.platform.models.registry",
}


@pytest.mark.parametrize("name", tailorbird.__all__)
def test_each_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(tailorbird, name)
    assert name == "__version__" or value.__doc__
    assert name in dir(tailorbird)


def test_each_command_has_its_call() -> None:
    assert set(command_names(build_app())) == TWINS.keys()


@pytest.mark.parametrize("call", TWINS.values())
def test_each_call_is_documented(call: str) -> None:
    value = resolve(call)
    assert callable(value)
    assert value.__doc__


@pytest.mark.parametrize("name", sorted(set(tailorbird.__all__) - {"__version__"}))
def test_each_public_class_shows_itself(name: str) -> None:
    value = getattr(tailorbird, name)
    if isinstance(value, type) and not issubclass(value, Exception):
        assert value.__repr__ is not object.__repr__
        assert hasattr(value, "_repr_html_")


RESULTS = (
    "backup.BackupReport",
    "backup.RestoreReport",
    "experiments.plan.Plan",
    "models.architectures.Forests",
    "monitoring.status.Status",
    "platform.create.CreatedProject",
    "platform.diagnostics.daily_checks.DayCheck",
    "platform.diagnostics.declarations.CheckResult",
    "platform.diagnostics.diagnose.Diagnosis",
    "platform.results.DriftResult",
    "platform.features.parity.ParityCheck",
    "platform.features.schema_change.AppliedSchema",
    "platform.features.schema_change.PrunedStates",
    "platform.features.schema_change.SchemaPlan",
    "platform.imports.ImportResult",
    "platform.lake.repair.RepairResult",
    "platform.keys.CreatedKey",
    "platform.lake.replay.Quarantine",
    "platform.lake.replay.ReplayResult",
    "platform.lake.upkeep.Compaction",
    "platform.lake.verify.LakeCheck",
    "platform.models.canary.CanaryState",
    "platform.models.churn_figures.ChurnFigures",
    "platform.models.churn_scores.ChurnResult",
    "platform.models.registry.RegisteredVersion",
    "platform.models.rule_costs.RuleCosts",
    "platform.models.verify.ScoreCheck",
    "platform.monitoring.FiguresResult",
    "platform.privacy.ErasureResult",
    "platform.runtime.retention.PruneResult",
    "simulator.HistoryFile",
    "training.api.Dataset",
    "training.api.SplitData",
    "training.backtests.report.ValidationReport",
    "training.comparison.Comparison",
    "training.evaluation.off_policy.OffPolicyReport",
    "training.selection.signals.SignalReport",
    "training.tuning.run.TuneReport",
    *sorted(f"{module.removeprefix('tailorbird.')}.{name}" for name, module in VIEWS.items()),
)


@pytest.mark.parametrize("path", RESULTS)
def test_each_result_shows_itself(path: str) -> None:
    module, _, name = path.rpartition(".")
    value = getattr(importlib.import_module(f"tailorbird.{module}"), name)
    assert value.__repr__ is not object.__repr__
    assert "__dataclass_fields__" not in vars(value) or "recursive_repr" not in str(
        vars(value)["__repr__"]
    ), "the generated repr shows every field"
    assert hasattr(value, "_repr_html_")


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
