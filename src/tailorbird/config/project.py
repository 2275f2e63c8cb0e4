"""A project: the folder with `tailorbird.toml`, `features.py`, `slots.py` and perhaps `churn.py`
and `scores.py`, found from any of its subfolders and loaded whole.
"""

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tailorbird.config.contract_file import FILE as CONTRACT
from tailorbird.config.contract_file import Declared, load_contract
from tailorbird.config.copying import copies_of
from tailorbird.config.pseudonyms import pseudonyms_of
from tailorbird.config.settings import Origin, Settings, load_settings
from tailorbird.config.streams import kafka_cluster
from tailorbird.errors import ConfigError, DeclarationError, NotReadyError, UsageError, suggest_name
from tailorbird.events import EVENT_TYPES, RoutePlan, SlotPlan, parse_duration
from tailorbird.events.log_clock import LogClock
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.events.suppression import FOLDER, TAKEN, SuppressionList
from tailorbird.features import FeatureSet, load_features
from tailorbird.features.schemas import applied_features
from tailorbird.features.transforms import check_heads
from tailorbird.places import Storage, open_storage, require_plain_path
from tailorbird.ranking import Churn, ChurnScore, NextBest, Slot
from tailorbird.ranking.scores import Score
from tailorbird.retrieval import MeaningSettings
from tailorbird.store.valkey import CopyTarget
from tailorbird.stream import Address, Stream, routed_address

FILE = "tailorbird.toml"
CHURN = "churn.py"
SCORES = "scores.py"


@dataclass(frozen=True)
class Paths:
    """Where a project keeps what; one writer each (see ARCHITECTURE.md)."""

    data: Path
    lake_at: Storage | None = None  # where it is not below `data`

    @property
    def stream(self) -> Path:
        return self.data / "stream"

    @property
    def routed(self) -> Path:
        return self.stream / "routed.db"

    @property
    def state(self) -> Path:
        return self.data / "state"

    @property
    def candidates(self) -> Path:
        return self.data / "candidates"

    @property
    def lake(self) -> Storage:
        return self.lake_at or self.data / "lake"

    @property
    def registry(self) -> Path:
        return self.data / "registry"

    def churn(self, name: str) -> Path:
        """The registry of a churn model; beside the versions of the ranker's, which its own are no
        part of.
        """
        return self.registry / "churn" / name

    @property
    def run(self) -> Path:
        return self.data / "run"

    @property
    def checks(self) -> Path:
        return self.data / "checks"

    @property
    def reports(self) -> Path:
        return self.data / "reports"


@dataclass(frozen=True)
class Project:
    """Everything that a project declares, checked."""

    root: Path
    settings: Settings
    origins: list[Origin]
    features: FeatureSet
    slots: dict[str, Slot]
    plan: RoutePlan
    paths: Paths
    declared: Declared
    stream: Stream  # where the logs are: `paths.stream`, or a cluster
    churn: dict[str, Churn] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)

    @property
    def routed(self) -> Address:
        """The router's log."""
        return routed_address(self.stream)

    @property
    def workers(self) -> int:
        """How many share the entities of each schema."""
        return self.settings.features.workers

    @property
    def meaning(self) -> MeaningSettings | None:
        """How an index of items gets text vectors; None where search goes by words alone."""
        search = self.settings.search
        if not search.encoder:
            return None
        cache = self.paths.data / "cache" / "text_vectors.arrow"
        return MeaningSettings(self.root / search.encoder, search.weight, cache)

    def clock(self) -> LogClock:
        """Return the clock that all roles and commands go by: the machine's, or that of a log that
        ended long ago.
        """
        return LogClock(self.paths.data)

    def pseudonyms(self, *, note: bool = True) -> Pseudonyms | None:
        """Under which people are known; None where ids are written as they come. Notes at the first
        time which key it is.

        Raises:
            ConfigError: no key that can be used, or not the one that the data was written with.
        """
        return pseudonyms_of(
            self.settings.events.pseudonym_key, self.paths.data, self.paths.lake, note=note
        )

    def suppression_list(self) -> SuppressionList:
        """Of whom nothing old is taken again, since their data were erased. Raises DamageError."""
        stopped = SuppressionList.load(self.paths.data)
        if (
            isinstance(self.stream, Path) or (self.paths.data / FOLDER / TAKEN).exists()
        ):  # else it comes from the cluster
            stopped.require_marked(self.paths.lake, self.paths.data)
        return stopped

    def copy_target(self) -> CopyTarget | None:
        """Where the records are copied to; None where they are not. Draws an id for the project
        where it needs one.

        Raises:
            ConfigError, StorageError: as `copying.copies_of`.
        """
        return copies_of(self.settings, self.paths.data)

    def slot(self, name: str = "") -> Slot:
        """A slot by its name; without one, that of `train.slot`.

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
        """A churn model by its name.

        Raises:
            UsageError: churn.py declares no such model, or is not there.
        """
        if name not in self.churn:
            file = self.root / CHURN
            declared = (
                f"{CHURN} declares no {name!r}; it declares {', '.join(self.churn) or 'nothing'}"
            )
            wrong = (
                declared
                if file.exists()
                else f"there is no {CHURN} yet, which would declare {name!r}"
            )
            raise UsageError(
                wrong, where=str(file), fix=suggest_name(name, self.churn, churn_example(name))
            )
        return self.churn[name]

    def slot_or_churn(self, name: str) -> Slot | Churn:
        """What is trained by a name: a churn model, or a slot; without one, the slot of
        `train.slot`.

        Raises:
            UsageError: nothing is declared by that name.
        """
        if name in self.churn:
            return self.churn[name]
        if not name or name in self.slots:
            return self.slot(name)
        known = (*self.slots, *self.churn)
        fix = suggest_name(
            name,
            known,
            f"use one of {', '.join(known)}; or, if it is to be a churn model, "
            f"{churn_example(name)}",
        )
        raise UsageError(
            f"slots.py declares no slot {name!r}, and {CHURN} no churn model",
            where=str(self.root),
            fix=fix,
        )


def churn_example(name: str) -> str:
    """What to write where a churn model is asked for that is not declared."""
    return f"""write into {CHURN}: from tailorbird.ranking import Churn; churn = Churn("{name}", types=("purchase",), window="90d")"""


def find_project(start: Path | None = None) -> Path:
    """The folder of the project that `start` (the current folder unless told otherwise) lies in.

    Raises:
        ConfigError: neither it nor any folder above has a tailorbird.toml.
    """
    named = os.environ.get("TAILORBIRD_PROJECT")
    origin = (start or Path(named or ".")).resolve()
    for folder in (origin, *origin.parents):
        if (folder / FILE).is_file():
            return folder
    fix = "tailorbird init DIR makes one; -C DIR names one"
    raise ConfigError(f"no {FILE} in {origin} or any folder above it", fix=fix)


def open_project(start: Path | None = None, *, applied: bool = False) -> Project:
    """Load a project from its folder or any folder inside it. Touches no data.

    Args:
        applied: take the features that are applied, see `features.schemas`, where `features.py`
            declares another schema or cannot be read; where none are, or an older engine stored
            them, `features.py` is taken.
    Raises:
        ConfigError: settings cannot be used.
        DeclarationError: features.py or slots.py cannot be used; names file and line.
    """
    root = find_project(start)
    settings, origins = load_settings(root / FILE)
    data = _data(root, settings, origins)
    require_plain_path(data)
    types = event_types(settings)
    features = (
        _applied(root, Paths(data).state, types)
        if applied
        else load_features(root / "features.py", event_types=types)
    )
    slots = load_slots(root / "slots.py")
    declared = load_contract(root / CONTRACT, types)
    churn = load_churn(root / CHURN, types)
    if both := sorted(churn.keys() & slots.keys()):
        raise DeclarationError(
            f"a slot is named {both[0]!r} too",
            where=str(root / CHURN),
            fix="name one of the two otherwise",
        )
    if not applied:
        check_heads(
            features.transforms, (head for slot in slots.values() for head in slot.objective)
        )
    if settings.train.slot not in slots and slots:
        hint = suggest_name(settings.train.slot, slots, f"declared: {', '.join(slots)}")
        raise ConfigError(
            f"train.slot names no slot of slots.py: {settings.train.slot!r}; {hint}",
            where=str(root / FILE),
        )
    plan, paths = compile_plan(settings, features, slots, declared), paths_of(root, settings)
    scores = load_scores(root / SCORES, types, slots, churn)
    return Project(
        root,
        settings,
        origins,
        features,
        slots,
        plan,
        paths,
        declared,
        _stream(settings, paths),
        churn,
        scores,
    )


def data_folder(start: Path | None = None) -> Path:
    """Where the project in a folder, or in one above it, keeps its data, without loading what it
    declares. Raises ConfigError.
    """
    root = find_project(start)
    return _data(root, *load_settings(root / FILE))


def paths_of(root: Path, settings: Settings) -> Paths:
    """Where the project in the folder `root` keeps what. Raises ConfigError where `lake.url` names
    no place.
    """
    data = (root / settings.project.data).resolve()
    try:
        return Paths(data, open_storage(settings.lake.url, data) if settings.lake.url else None)
    except ConfigError as error:
        raise ConfigError(error.message, where=error.where or "lake.url", fix=error.fix) from None


def _stream(settings: Settings, paths: Paths) -> Stream:
    cluster = kafka_cluster(settings)
    if cluster is None:
        return paths.stream
    from tailorbird.stream.kafka.logs import KafkaStream

    return KafkaStream(cluster, paths.stream, snapshot_rows=settings.stream.snapshot_rows)


def _applied(root: Path, state: Path, types: tuple[str, ...]) -> FeatureSet:
    try:
        stored = applied_features(state)
    except (DeclarationError, NotReadyError):
        stored = None
    try:
        declared = load_features(root / "features.py", event_types=types)
    except DeclarationError:
        if stored is None:
            raise
        return stored
    # The same schema may have other transforms by now, which training is to take.
    return declared if stored is None or stored.schema_hash == declared.schema_hash else stored


def _data(root: Path, settings: Settings, origins: list[Origin]) -> Path:
    data = (root / settings.project.data).resolve()
    _check_folder(data, next(origin.source for origin in origins if origin.key == "project.data"))
    return data


def _check_folder(data: Path, source: str) -> None:
    """That the data folder is one, or can be made: otherwise each role would say so in its own way."""
    if data == data.parent:
        raise ConfigError(
            "project.data cannot be the root of the file system",
            where=source,
            fix="set project.data to another folder",
        )
    nearest = next(path for path in (data, *data.parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(
            f"project.data needs a folder, and {nearest} is a file",
            where=source,
            fix="set project.data to another folder",
        )


def event_types(settings: Settings) -> tuple[str, ...]:
    """The types of events that the project knows: the built-in ones and its own.

    Raises:
        ConfigError: one of its own is called as the built-in type that moves a user's events to
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
    settings: Settings, features: FeatureSet, slots: dict[str, Slot], declared: Declared
) -> RoutePlan:
    """What door and router need to know, as plain data."""
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
        rules=declared.rules,
    )


def load_slots(file: Path) -> dict[str, Slot]:
    """The slots that a project's slots.py declares, by name.

    Raises:
        DeclarationError: the file is missing, does not run, or names two slots alike.
    """
    slots: dict[str, Slot] = {}
    for value in _run(file).values():
        for slot in value if isinstance(value, list | tuple) else (value,):
            if not isinstance(slot, Slot):
                continue
            if slot.name in slots and slots[slot.name] is not slot:
                raise DeclarationError(f"two slots are named {slot.name!r}", where=str(file))
            slots[slot.name] = slot
    if not slots:
        raise DeclarationError(
            "declares no Slot", where=str(file), fix="tailorbird init writes an example"
        )
    return slots


def load_churn(file: Path, types: Sequence[str] = EVENT_TYPES) -> dict[str, Churn]:
    """What a project's churn.py declares, by name; nothing where there is no such file.

    Args:
        types: the event types that the project knows.
    Raises:
        DeclarationError: the file does not run, names two alike, or names an event type that does
            not exist.
    """
    found: dict[str, Churn] = {}
    for value in _run(file).values() if file.exists() else ():
        for churn in value if isinstance(value, list | tuple) else (value,):
            if not isinstance(churn, Churn):
                continue
            if churn.name in found and found[churn.name] is not churn:
                raise DeclarationError(f"two are named {churn.name!r}", where=str(file))
            if unknown := [each for each in churn.types if each not in types]:
                fix = suggest_name(unknown[0], types, f"use some of {', '.join(types)}")
                raise DeclarationError(
                    f"churn {churn.name}: {unknown[0]!r} is no event type", where=str(file), fix=fix
                )
            found[churn.name] = churn
    return found


def load_scores(
    file: Path, types: Sequence[str], slots: Mapping[str, Slot], churn: Mapping[str, Churn]
) -> dict[str, Score]:
    """What a project's scores.py declares, by name; nothing where there is no such file.

    Raises:
        DeclarationError: the file does not run, names two alike, or an event type, a slot or a
            churn model that does not exist.
    """
    found: dict[str, Score] = {}
    for value in _run(file).values() if file.exists() else ():
        for score in value if isinstance(value, list | tuple) else (value,):
            if not isinstance(score, ChurnScore | NextBest) or found.get(score.name) is score:
                continue
            if score.name in found:
                raise DeclarationError(
                    f"two are named {score.name!r}", where=str(file), fix="give one of them a name="
                )
            wanted, known, kind = (
                (score.slot, slots, "slot of slots.py")
                if isinstance(score, NextBest)
                else (score.model, churn, "model of churn.py")
            )
            named = [
                (wanted, list(known), kind),
                *((each, list(types), "event type") for each in score.on),
            ]
            for name, there, what in named:
                if name not in there:
                    fix = suggest_name(
                        name, there, f"use one of {', '.join(there) or 'none: declare one'}"
                    )
                    raise DeclarationError(
                        f"{score.name}: {name!r} is no {what}", where=str(file), fix=fix
                    )
            found[score.name] = score
    return found


def _run(file: Path) -> dict[str, object]:
    try:
        source = file.read_text()
    except OSError as error:
        raise DeclarationError(
            f"cannot be read: {error.strerror}",
            where=str(file),
            fix="tailorbird init writes an example",
        ) from None
    namespace: dict[str, object] = {"__name__": file.stem, "__file__": str(file)}
    try:
        exec(compile(source, str(file), "exec"), namespace)
    except SyntaxError as error:
        raise DeclarationError(
            f"not valid Python: {error.msg}", where=f"{file}:{error.lineno}"
        ) from None
    except Exception as error:
        frames = [
            frame
            for frame in traceback.extract_tb(sys.exc_info()[2])
            if frame.filename == str(file)
        ]
        where = f"{file}:{frames[-1].lineno}" if frames else str(file)
        if isinstance(error, DeclarationError):
            raise DeclarationError(
                error.message,
                where=f"{where} ({error.where})" if error.where else where,
                fix=error.fix,
            ) from None
        raise DeclarationError(f"{type(error).__name__}: {error}", where=where) from None
    return namespace
