"""`tailorbird.Project`, the API of notebooks and pipelines; commands print what it returns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project as DeclaredProject
from tailorbird.config import open_project
from tailorbird.platform.folder import ProjectFolder
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.platform.results import EvaluationResult, Slate, TrainResult

if TYPE_CHECKING:
    from tailorbird.client import Client
    from tailorbird.events import Clock
    from tailorbird.events.tables.locations import TableData
    from tailorbird.platform.experiments.view import ExperimentView
    from tailorbird.platform.imports import ImportResult
    from tailorbird.platform.keys import KeysView
    from tailorbird.platform.models.churn_scores import ChurnResult
    from tailorbird.platform.models.formulas import FormulaView
    from tailorbird.platform.models.registry import RegistryView
    from tailorbird.platform.models.rule_costs import RuleCosts
    from tailorbird.platform.monitoring import MonitoringView
    from tailorbird.platform.privacy import PrivacyView
    from tailorbird.platform.tables import FeatureView, LakeView
    from tailorbird.training.backtests.report import ValidationReport
    from tailorbird.training.tuning.run import TuneReport


class Project(ProjectFolder):
    """A project: the folder with tailorbird.toml, features.py and slots.py.

        shop = Project.create("shop", data=clicks)      # a frame, or the name of a file
        shop.import_table(clicks)
        shop.train(budget="2m")
        shop.recommend(user_id=42)

    Each call reads the declarations again, so that edits of features.py or slots.py take effect at
    once.
    """

    @cached_property
    def lake(self) -> "LakeView":
        """The tables of the lake."""
        from tailorbird.platform.tables import LakeView

        return LakeView(self.root)

    @cached_property
    def features(self) -> "FeatureView":
        """Feature values for a past time, and for now."""
        from tailorbird.platform.tables import FeatureView

        return FeatureView(self.root)

    @cached_property
    def registry(self) -> "RegistryView":
        """Versions of the ranking model: list, promote, roll back."""
        from tailorbird.platform.models.registry import RegistryView

        return RegistryView(self.root)

    @cached_property
    def privacy(self) -> "PrivacyView":
        """Erasure of people, and export of what is held about them."""
        from tailorbird.platform.privacy import PrivacyView

        return PrivacyView(self.root)

    @cached_property
    def monitoring(self) -> "MonitoringView":
        """Live figures, drift, and the decisions on models."""
        from tailorbird.platform.monitoring import MonitoringView

        return MonitoringView(self.root)

    @cached_property
    def formulas(self) -> "FormulaView":
        """Value formulas of slots, changed without a new model."""
        from tailorbird.platform.models.formulas import FormulaView

        return FormulaView(self.root)

    @cached_property
    def keys(self) -> "KeysView":
        """Access keys, and pseudonyms of ids."""
        from tailorbird.platform.keys import KeysView

        return KeysView(self.root)

    def import_files(
        self,
        path: str | Path,
        format: str = "",
        *,
        mapping: str | Path | None = None,
        slot: str = "home",
        progress: Progress = no_progress,
    ) -> "ImportResult":
        """Import a file or a folder, route its events and load the lake.

        Args:
            path: a file or a folder; `.gz` and `.zst` are decompressed, and zip archives, workbooks,
                SQLite and DuckDB databases unpacked.
            format: such as `segment` or `ga4`; by default `mapping` if the project has a
                mapping.toml, otherwise recognised.
            mapping: a file that maps columns to events.
            slot: the slot that imported responses belong to.

        Raises:
            InputError: the format is not recognised, or no row is an event.
        """
        from tailorbird.platform.imports import import_files, require_accepted

        default_mapping = self.root / "mapping.toml"
        if mapping is None and format in ("", "mapping") and default_mapping.is_file():
            mapping = default_mapping
        if not format:
            format = "mapping" if mapping is not None else "auto"
        mapping_file = Path(mapping) if mapping is not None else None
        result = import_files(
            self.declarations,
            Path(path),
            format,
            mapping=mapping_file,
            slot=slot,
            progress=progress,
        )
        require_accepted(result, Path(path))
        return result

    def import_table(
        self,
        data: "TableData | None" = None,
        *,
        items: "TableData | None" = None,
        users: "TableData | None" = None,
        mapping: str | Path | None = None,
        progress: Progress = no_progress,
    ) -> "ImportResult":
        """Import tables in memory, as `import_files` does files.

        The same rows given again are recognised, and count once.

        Args:
            data: the events: a frame of pandas, Polars, PyArrow or DuckDB, or a list of dicts.
            items, users: profiles of items and users, tables like `data`.
            mapping: a file that maps columns to events, by default the project's mapping.toml. It
                calls the tables `events.*`, `items.*` and `users.*`.

        Raises:
            UsageError: one of them is no table.
            InputError: no row is an event.
        """
        from tailorbird.events.tables.locations import write_tables

        tables = {"events": data, "items": items, "users": users}
        with write_tables(tables, self.declarations.paths.import_tables) as folder:
            return self.import_files(folder, mapping=mapping, progress=progress)

    def train(
        self,
        name: str = "",
        *,
        promote: bool = True,
        as_of: str = "",
        progress: Progress = no_progress,
        **options: Any,
    ) -> TrainResult:
        """Train a ranking or churn model, and promote it if it passes the gate.

        Args:
            name: a slot of slots.py or a churn model of churn.py; "" takes `train.slot`.
            promote: promote the model if it passes the gate.
            as_of: train as of this ISO 8601 time; `latest` is the end of the log.
            options: see `TrainOptions`, such as `budget="2m"` or `architecture="mmoe"`.

        Raises:
            UsageError: an option does not exist, or options contradict each other.
            NotReadyError: the lake has too little data to learn from.
        """
        from tailorbird.platform.train_options import TrainOptions
        from tailorbird.platform.training import train

        return TrainResult(
            train(
                self.declarations,
                name,
                TrainOptions.of(options),
                promote=promote,
                as_of=as_of,
                progress=progress,
            )
        )

    def evaluate(
        self,
        *versions: str,
        slot: str = "",
        window: str = "",
        quick: bool = False,
        as_of: str = "",
        progress: Progress = no_progress,
    ) -> EvaluationResult:
        """Compare the champion, or named versions, with all baselines on the newest data.

        Changes nothing.

        Raises:
            NotReadyError: there is no model to evaluate.
        """
        from tailorbird.platform.training import evaluate

        return evaluate(
            open_project(self.root, use_applied=True),
            versions,
            slot=slot,
            window=window,
            quick=quick,
            as_of=as_of,
            progress=progress,
        )

    def backtest(
        self,
        slot: str = "",
        *,
        splits: int = 3,
        variants: bool = True,
        as_of: str = "",
        progress: Progress = no_progress,
        **options: Any,
    ) -> "ValidationReport":
        """Train the slot's model at several past cuts, evaluate each, and check for leakage.

        Changes nothing.

        Args:
            splits: number of past cuts.
            variants: also evaluate with less data, with fewer columns and on unseen people.
            options: see `TrainOptions`.
        """
        from tailorbird.platform.train_options import TrainOptions
        from tailorbird.platform.training import backtest

        return backtest(
            self.declarations,
            slot,
            TrainOptions.of(options),
            splits=splits,
            variants=variants,
            as_of=as_of,
            progress=progress,
        )

    def tune(
        self,
        slot: str = "",
        *,
        trials: int = 40,
        splits: int = 3,
        architectures: Sequence[str] = ("gbdt",),
        window: str = "",
        quick: bool = False,
        seed: int = 7,
        as_of: str = "",
        save_settings: bool = True,
        progress: Progress = no_progress,
    ) -> "TuneReport":
        """Search for better settings than the defaults on several splits in time.

        Args:
            trials: number of trials per architecture.
            save_settings: write the chosen settings to tuned.toml, which `train` reads.
        """
        from dataclasses import replace

        from tailorbird.config.schemas import resolve_for_training
        from tailorbird.events import SystemClock
        from tailorbird.platform.train_options import base_settings
        from tailorbird.platform.training import save_tuned_settings, tune
        from tailorbird.training.tuning.settings import TuneSettings

        declarations = resolve_for_training(self.declarations, SystemClock()).project
        train_settings = base_settings(
            declarations, window=window, rows="auto", leave_out=(), quick=quick
        )
        settings = TuneSettings(
            train=replace(train_settings, seed=seed),
            architecture_names=tuple(architectures),
            trials=trials,
            splits=splits,
            seed=seed,
        )
        report = tune(declarations, slot, settings, as_of=as_of, progress=progress)
        if save_settings:
            save_tuned_settings(declarations, report)
        return report

    def recommend(
        self,
        slot: str = "",
        *,
        user_id: "str | int" = "",
        query: str = "",
        size: int = 0,
        as_of: str = "",
        explain: bool = False,
    ) -> Slate:
        """Answer as a server would, in this process, without logging the response.

        Args:
            slot: name of the slot; "" is `train.slot`, or `search` with a query.
            user_id: id of the user, a number as well as a text; "" is an unknown visitor.
            query: search text; "" recommends without a search.
            size: number of items; 0 takes the slot's size.
            as_of: answer as of this time; by default now, or the end of a log that ended long ago.

        Raises:
            QueryError: the server would refuse the request; names the field.
            NotReadyError: there is nothing to recommend yet.
        """
        from tailorbird.events.keys import to_id_text
        from tailorbird.platform.answering import answer

        return answer(
            open_project(self.root, use_applied=True),
            slot=slot,
            user_id=to_id_text(user_id),
            query=query,
            size=size,
            as_of=as_of,
            explain=explain,
        )

    def prepare_training(self, as_of: str = "") -> "tuple[DeclaredProject, Clock]":
        """Return the declarations that training uses, and the clock that it goes by.

        Args:
            as_of: as for `train`.
        """
        from tailorbird.config.schemas import resolve_for_training
        from tailorbird.events import SystemClock
        from tailorbird.platform.clocks import clock_as_of

        declarations = resolve_for_training(self.declarations, SystemClock()).project
        return declarations, clock_as_of(as_of, declarations, notify=lambda note: None)

    def score_churn(
        self, name: str = "churn", *, version: str = "champion", as_of: str = ""
    ) -> "ChurnResult":
        """Score all people that a churn model applies to, the likeliest to leave first.

        Args:
            name: a churn model of churn.py.
            version: a version or an alias.
            as_of: ISO 8601, or `latest`: just after the newest event.

        Raises:
            NotReadyError: there is no such version yet, or no person is eligible.
        """
        from tailorbird.platform.models.churn_scores import score_churn

        project = open_project(self.root, use_applied=True)
        return score_churn(project, name, version=version, as_of=as_of)

    def rule_costs(self, slot: str = "", *, requests: int = 200) -> "RuleCosts":
        """Return what each rule of a slot costs in value, by logged requests answered again.

        Args:
            slot: "" takes `train.slot`.
            requests: number of logged requests, the newest first.
        """
        from tailorbird.platform.models.rule_costs import rule_costs

        return rule_costs(open_project(self.root, use_applied=True), slot, requests=requests)

    @cached_property
    def experiments(self) -> "ExperimentView":
        """Experiments: list, plan, start, ramp, stop, decide and report."""
        from tailorbird.platform.experiments.view import ExperimentView

        return ExperimentView(self.root)

    @contextmanager
    def local_server(self, *, train: bool = False, timeout_s: float = 60.0) -> "Iterator[Client]":
        """Run all roles of the project, as `tailorbird up` does, for the duration of the block.

            with shop.local_server() as client:
                client.recommend("home", user_id="42")

        Args:
            train: also retrain on schedule and when live metrics fall.
            timeout_s: how long the start may take.

        Raises:
            NotReadyError: the server did not start in time; has the last lines of its log.
        """
        from tailorbird.platform.runtime.local_server import run_server

        with run_server(self.declarations, train=train, timeout_s=timeout_s) as client:
            yield client
