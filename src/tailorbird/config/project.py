"""Find and load a project: the folder with `tailorbird.toml`, `features.py` and `slots.py`.

`churn.py`, `scores.py`, `models.py`, `sources.py` and `experiments.py` are optional. A project is
found from any of its subfolders.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tailorbird.candidates.contract import KIND_NAMES
from tailorbird.candidates.own import FILE as SOURCES_FILE
from tailorbird.candidates.own import use_sources
from tailorbird.config.contract_file import FILE as CONTRACT_FILE
from tailorbird.config.contract_file import EventContract, load_contract
from tailorbird.config.copying import copy_target_of
from tailorbird.config.declarations import load_churn, load_experiments, load_scores, load_slots
from tailorbird.config.paths import Paths, paths_of
from tailorbird.config.pseudonyms import pseudonyms_of
from tailorbird.config.settings import Settings, SettingWithSource, load_settings
from tailorbird.config.streams import kafka_cluster
from tailorbird.errors import ConfigError, DeclarationError, NotReadyError, UsageError, suggest_name
from tailorbird.events import EVENT_TYPES, RoutePlan, SlotPlan, parse_duration
from tailorbird.events.log_clock import LogClock
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.events.suppression import ERASURE_FOLDER, LAST_ERASURE_FILE, SuppressionList
from tailorbird.experiments.assign import Experiment
from tailorbird.features import FeatureSet, load_features
from tailorbird.features.schemas import applied_features
from tailorbird.features.transform_checks import check_heads
from tailorbird.ranking import Churn, Slot
from tailorbird.ranking.own_models import MODELS_FILE as MODELS_FILE
from tailorbird.ranking.own_models import use_models_file
from tailorbird.ranking.scores import Score
from tailorbird.retrieval import TextVectorSettings
from tailorbird.storage import storage_at
from tailorbird.storage_paths import reject_percent_escapes
from tailorbird.store import CopyTarget
from tailorbird.stream import Address, FileLogSet, LogSet

SETTINGS_FILE = "tailorbird.toml"
CHURN_FILE = "churn.py"
SCORES_FILE = "scores.py"
EXPERIMENTS_FILE = "experiments.py"


@dataclass(frozen=True)
class Project:
    """All declarations of a project, validated."""

    root: Path
    settings: Settings
    setting_sources: list[SettingWithSource]
    features: FeatureSet
    slots: dict[str, Slot]
    plan: RoutePlan
    paths: Paths
    event_contract: EventContract
    stream: LogSet  # Files in `paths.stream`, or topics of a cluster.
    churn: dict[str, Churn] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    experiments: dict[str, Experiment] = field(default_factory=dict)

    @property
    def routed(self) -> Address:
        """The address of the routed log."""
        return self.stream.routed

    @property
    def workers(self) -> int:
        """The number of workers that share the entities of each schema."""
        return self.settings.features.workers

    @property
    def uses_network(self) -> bool:
        """Return whether logs, lake or store lie on other machines."""
        is_lake_remote = storage_at(self.paths.lake).local_path is None
        return is_lake_remote or self.copy_target() is not None or self.stream.is_remote

    @property
    def meaning(self) -> TextVectorSettings | None:
        """The encoder settings for text vectors; None if search uses words alone."""
        search = self.settings.search
        if not search.encoder:
            return None
        cache = self.paths.data / "cache" / "text_vectors.arrow"
        return TextVectorSettings(self.root / search.encoder, search.weight, cache)

    def clock(self) -> LogClock:
        """Return the clock of all roles and commands.

        It is the machine's clock, or that of a log that ended long ago.
        """
        return LogClock(self.paths.data)

    def pseudonyms(self, *, record_key: bool = True) -> Pseudonyms | None:
        """Return the pseudonyms of user ids; None if ids are stored as they come.

        Raises:
            ConfigError: the key is invalid, or is not the one that the data was written with.
        """
        return pseudonyms_of(
            self.settings.events.pseudonym_key,
            self.paths.data,
            self.paths.lake,
            record_key=record_key,
        )

    def suppression_list(self) -> SuppressionList:
        """Return the list of erased users, whose old events are dropped; raises DamageError."""
        suppression_list = SuppressionList.load(self.paths.data)
        # Without the file, the list comes from the cluster.
        if (
            not self.stream.is_remote
            or (self.paths.data / ERASURE_FOLDER / LAST_ERASURE_FILE).exists()
        ):
            suppression_list.require_complete(self.paths.lake, self.paths.data)
        return suppression_list

    def copy_target(self) -> CopyTarget | None:
        """Return the server that records are copied to, or None; draws a project id if needed.

        Raises:
            ConfigError, StorageError: as `copying.copy_target_of`.
        """
        return copy_target_of(self.settings, self.paths.data)

    def slot(self, name: str = "") -> Slot:
        """Return a slot by its name, or that of `train.slot` without a name.

        Raises:
            UsageError: slots.py declares no such slot.
        """
        name = name or self.settings.train.slot
        if name not in self.slots:
            fix = suggest_name(name, self.slots, f"use one of {', '.join(self.slots)}")
            raise UsageError(
                f"slots.py declares no slot {name!r}", where=str(self.root / "slots.py"), fix=fix
            )
        return self.slots[name]

    def churn_model(self, name: str) -> Churn:
        """Return a churn model by its name.

        Raises:
            UsageError: churn.py declares no such model or does not exist.
        """
        if name not in self.churn:
            file = self.root / CHURN_FILE
            missing_model = (
                f"{CHURN_FILE} declares no {name!r}; it declares "
                f"{', '.join(self.churn) or 'nothing'}"
            )
            problem = (
                missing_model
                if file.exists()
                else f"there is no {CHURN_FILE} yet, which would declare {name!r}"
            )
            raise UsageError(
                problem, where=str(file), fix=suggest_name(name, self.churn, churn_example(name))
            )
        return self.churn[name]

    def slot_or_churn(self, name: str) -> Slot | Churn:
        """Return a churn model or a slot by its name, or the slot of `train.slot` without a name.

        Raises:
            UsageError: nothing has that name.
        """
        if name in self.churn:
            return self.churn[name]
        if not name or name in self.slots:
            return self.slot(name)
        names = (*self.slots, *self.churn)
        fix = suggest_name(
            name,
            names,
            f"use one of {', '.join(names)}; or, if it is to be a churn model, "
            f"{churn_example(name)}",
        )
        raise UsageError(
            f"slots.py declares no slot {name!r}, and {CHURN_FILE} no churn model",
            where=str(self.root),
            fix=fix,
        )


def churn_example(name: str) -> str:
    """Return an example that declares a churn model of this name."""
    return f"""write into {CHURN_FILE}: from tailorbird.ranking import Churn; churn = Churn("{name}", types=("purchase",), window="90d")"""


def find_project(start: Path | None = None) -> Path:
    """Return the folder of the project that contains `start`, by default the current folder.

    Raises:
        ConfigError: neither `start` nor a folder above has a tailorbird.toml.
    """
    configured_folder = os.environ.get("TAILORBIRD_PROJECT")
    start_folder = (start or Path(configured_folder or ".")).resolve()
    for folder in (start_folder, *start_folder.parents):
        if (folder / SETTINGS_FILE).is_file():
            return folder
    fix = "tailorbird init DIR makes one; -C DIR names one"
    raise ConfigError(f"no {SETTINGS_FILE} in {start_folder} or any folder above it", fix=fix)


def open_project(start: Path | None = None, *, use_applied: bool = False) -> Project:
    """Load a project from its folder or any folder inside it; does not touch its data.

    Args:
        use_applied: use the applied features (see `features.schemas`) if `features.py`
            declares another schema or is invalid. Without applied features, or after an
            upgrade of the engine, `features.py` is used.
    Raises:
        ConfigError: the settings are invalid.
        DeclarationError: features.py or slots.py is invalid; names file and line.
    """
    root = find_project(start)
    settings, setting_sources = load_settings(root / SETTINGS_FILE)
    data = _data_folder(root, settings, setting_sources)
    reject_percent_escapes(data)
    types = event_types(settings)
    features = (
        _load_applied_features(root, Paths(data).state, types)
        if use_applied
        else load_features(root / "features.py", event_types=types)
    )
    use_models_file(root / MODELS_FILE)
    use_sources(root / SOURCES_FILE, KIND_NAMES)
    slots = load_slots(root / "slots.py")
    event_contract = load_contract(root / CONTRACT_FILE, types)
    churn = load_churn(root / CHURN_FILE, types)
    if shared_names := sorted(churn.keys() & slots.keys()):
        raise DeclarationError(
            f"a slot is named {shared_names[0]!r} too",
            where=str(root / CHURN_FILE),
            fix="name one of the two otherwise",
        )
    if not use_applied:
        check_heads(
            features.transforms, (head for slot in slots.values() for head in slot.objective)
        )
    if settings.train.slot not in slots and slots:
        hint = suggest_name(settings.train.slot, slots, f"declared: {', '.join(slots)}")
        raise ConfigError(
            f"train.slot names no slot of slots.py: {settings.train.slot!r}; {hint}",
            where=str(root / SETTINGS_FILE),
        )
    plan = compile_plan(settings, features, slots, event_contract)
    paths = paths_of(root, settings)
    scores = load_scores(root / SCORES_FILE, types, slots, churn)
    experiments = load_experiments(root / EXPERIMENTS_FILE, slots)
    return Project(
        root=root,
        settings=settings,
        setting_sources=setting_sources,
        features=features,
        slots=slots,
        plan=plan,
        paths=paths,
        event_contract=event_contract,
        stream=_open_log_set(settings, paths),
        churn=churn,
        scores=scores,
        experiments=experiments,
    )


def data_folder(start: Path | None = None) -> Path:
    """Return the data folder of a project without loading its declarations; raises ConfigError."""
    root = find_project(start)
    return _data_folder(root, *load_settings(root / SETTINGS_FILE))


def _open_log_set(settings: Settings, paths: Paths) -> LogSet:
    cluster = kafka_cluster(settings)
    if cluster is None:
        return FileLogSet(paths.stream)
    from tailorbird.stream.kafka.logs import KafkaLogSet

    return KafkaLogSet(cluster, paths.stream, snapshot_rows=settings.stream.snapshot_rows)


def _load_applied_features(root: Path, state: Path, types: tuple[str, ...]) -> FeatureSet:
    try:
        applied_set = applied_features(state)
    except (DeclarationError, NotReadyError):
        applied_set = None
    try:
        declared_set = load_features(root / "features.py", event_types=types)
    except DeclarationError:
        if applied_set is None:
            raise
        return applied_set
    # The declared schema may have newer transforms, which training should use.
    return (
        declared_set
        if applied_set is None or applied_set.schema_hash == declared_set.schema_hash
        else applied_set
    )


def _data_folder(root: Path, settings: Settings, setting_sources: list[SettingWithSource]) -> Path:
    data = (root / settings.project.data).resolve()
    _require_usable_folder(
        data, next(setting.source for setting in setting_sources if setting.key == "project.data")
    )
    return data


def _require_usable_folder(data: Path, source: str) -> None:
    """Raise ConfigError unless the data folder is, or can become, a folder.

    Otherwise each role would report it in its own way.
    """
    if data == data.parent:
        raise ConfigError(
            "project.data cannot be the root of the file system",
            where=source,
            fix="set project.data to another folder",
        )
    existing_parent = next(path for path in (data, *data.parents) if path.exists())
    if not existing_parent.is_dir():
        raise ConfigError(
            f"project.data needs a folder, and {existing_parent} is a file",
            where=source,
            fix="set project.data to another folder",
        )


def event_types(settings: Settings) -> tuple[str, ...]:
    """Return the event types of the project: the built-in ones and its own.

    Raises:
        ConfigError: one of its own has the name of the built-in type that moves a user's events to
            another user.
    """
    if "merge" in settings.events.types:
        fix = (
            "give your own type another name; leave it out to send merges of users, which every "
            "project knows"
        )
        raise ConfigError(
            "merge is built in, and says that two users are one", where="events.types", fix=fix
        )
    return tuple(dict.fromkeys((*EVENT_TYPES, *settings.events.types)))


def compile_plan(
    settings: Settings, features: FeatureSet, slots: dict[str, Slot], event_contract: EventContract
) -> RoutePlan:
    """Return the declarations that collector and router need, as plain data."""
    events = settings.events
    return RoutePlan(
        event_types=event_types(settings),
        user_attributes=tuple(features.user_attributes),
        item_attributes=tuple(features.item_attributes),
        skew_us=parse_duration(events.skew),
        lateness_us=parse_duration(events.lateness),
        dedup_us=parse_duration(events.dedup),
        answer_us=parse_duration(events.answer),
        slots={
            name: SlotPlan(parse_duration(slot.attribution), slot.denominator)
            for name, slot in slots.items()
        },
        rules=event_contract.rules,
    )
