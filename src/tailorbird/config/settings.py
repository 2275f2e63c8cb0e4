"""Load settings: `tailorbird.toml`, overlaid by environment variables.

    [serve]                      TAILORBIRD_SERVE__PORT=9000
    port = 8642

The name of a variable is the path in the file in upper case, with `__` between section and key.
Unknown keys are refused with a suggestion. Durations are written `30m`, `6h`, `7d`. Projects are
found and loaded by `config.project`.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailorbird.config.rollout_settings import (
    CanarySection,
    MonitoringSection,
    NotifySection,
    RegistrySection,
    RolloutSection,
)
from tailorbird.errors import ConfigError, UsageError, suggest_name
from tailorbird.events import parse_duration

ENV_PREFIX = "TAILORBIRD_"
# Variables that are not settings of a project.
_OTHER_VARIABLES = (
    "CHROMIUM",
    "DATA",
    "DEBUG",
    "FAULTS",
    "HEARTBEAT",
    "LISTENER",
    "KEY",
    "PARENT",
    "PEERS",
    "PROJECT",
    "TEST_KAFKA",
)
ENV_OTHER = frozenset(f"TAILORBIRD_{name}" for name in _OTHER_VARIABLES)


class ProjectSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(description="name of the project on pages and in reports")] = "shop"
    owner: Annotated[
        str,
        Meta(description="owner of the models, such as a team's address; printed in model cards"),
    ] = ""
    data: Annotated[str, Meta(description="folder of all stored data, relative to the project")] = (
        "data"
    )


class EventsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    types: Annotated[
        list[str], Meta(description="event types of your own, in addition to the built-in ones")
    ] = []
    skew: Annotated[
        str,
        Meta(
            description="how far a client's ts may be in the future before the event is quarantined"
        ),
    ] = "5m"
    lateness: Annotated[
        str, Meta(description="how late an event may arrive and still count in features")
    ] = "1d"
    dedup: Annotated[
        str, Meta(description="how long an event_id is remembered to drop repeats")
    ] = "7d"
    pseudonym_key: Annotated[
        str,
        Meta(
            description="key to replace ids of people by keyed hashes before anything is "
            "written; set it by environment"
        ),
    ] = ""
    answer: Annotated[
        str, Meta(description="how long an answer waits for the clicks that name it")
    ] = "2h"


class ServeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    host: Annotated[
        str, Meta(description="address to bind; any other than 127.0.0.1 needs a key")
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(
            ge=0, le=65_535, description="port to bind; the next free one is taken if it is in use"
        ),
    ] = 8642
    processes: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="number of server processes that `up` runs on one socket; limits of "
            "keys and addresses count in each",
        ),
    ] = 2
    write_keys: Annotated[
        list[str], Meta(description="keys that may send events; set them by environment")
    ] = []
    read_keys: Annotated[
        list[str], Meta(description="keys that may request answers; set them by environment")
    ] = []
    admin_keys: Annotated[
        list[str],
        Meta(
            description="keys that may see the server's status, and read and change the "
            "formulas of slots; set them by environment"
        ),
    ] = []
    keys_file: Annotated[
        str,
        Meta(
            description="file of hashed keys that `tailorbird keys` writes, relative to the "
            "project; servers follow its changes"
        ),
    ] = "keys.json"
    origins: Annotated[list[str], Meta(description="web origins that browsers may call from")] = []
    body_bytes_max: Annotated[
        int, Meta(ge=1_024, description="maximum size of a request body after decompression")
    ] = 1_048_576
    disk_reserve_mb: Annotated[
        int,
        Meta(
            ge=0,
            description="megabytes of disk, at most a twentieth of it, that events leave "
            "free for the other roles; 0: none",
        ),
    ] = 256
    batch_max: Annotated[
        int, Meta(ge=0, description="maximum number of events in one body; 0: no limit")
    ] = 10_000
    requests_per_s: Annotated[
        float,
        Meta(
            ge=0,
            description="maximum requests per second of one key, averaged over ten seconds; "
            "0: no limit",
        ),
    ] = 0
    events_per_s: Annotated[
        float,
        Meta(
            ge=0,
            description="maximum events per second of one key, averaged over ten seconds; 0:"
            " no limit",
        ),
    ] = 0
    ids_per_hour: Annotated[
        int,
        Meta(
            ge=0,
            description="maximum number of distinct people and items in the events of one "
            "key per hour; 0: no limit",
        ),
    ] = 2_000_000
    address_events_per_s: Annotated[
        float,
        Meta(
            ge=0,
            description="maximum events per second from one address with a browser's key; 0:"
            " no limit",
        ),
    ] = 50
    address_clicks_per_hour: Annotated[
        float,
        Meta(
            ge=0,
            description="maximum clicks and similar events per hour, and at once, from one "
            "address with a browser's key; 0: no limit",
        ),
    ] = 5_000
    address_connections: Annotated[
        int,
        Meta(
            ge=0,
            description="maximum open connections from one address that is not in `proxies`;"
            " 0: no limit",
        ),
    ] = 512
    proxies: Annotated[
        list[str],
        Meta(
            description="addresses or networks (10.0.0.0/8) of your proxies, whose "
            "X-Forwarded-For is trusted"
        ),
    ] = []
    drain: Annotated[
        str,
        Meta(
            description="how long a stopping server still answers while /readyz returns 503;"
            " behind a load balancer longer than it needs to react, such as 10s"
        ),
    ] = "250ms"
    keep_alive: Annotated[
        str,
        Meta(
            description="how long an idle connection is kept open; the idle timeout of a "
            "proxy in front must be shorter"
        ),
    ] = "75s"
    wait_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="how long a request may wait in the queue; a request that would wait"
            " longer is refused with a retry time",
        ),
    ] = 250
    retrieval_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="time budget for finding candidates; after it, the remaining sources"
            " are skipped",
        ),
    ] = 50
    features_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="time budget for reading features; after three slower reads, stale "
            "features are used for a second",
        ),
    ] = 100
    ranking_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="time budget for scoring; limits the number of scored candidates by "
            "the recent cost per row",
        ),
    ] = 100
    policy_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="time budget for the selection; after three slower ones, diversity "
            "is skipped for a second",
        ),
    ] = 50
    log: Annotated[
        Literal["text", "json"], Meta(description="format of the server's log: text lines or JSON")
    ] = "text"
    log_requests: Annotated[
        bool, Meta(description="log every request, not only those that were refused or failed")
    ] = False
    gorse_slot: Annotated[
        str, Meta(description="slot to serve through Gorse's REST API under /api; empty: off")
    ] = ""


class StreamSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[
        str,
        Meta(
            description="kafka://host:9092/prefix to store the logs in topics; empty: files "
            "on this machine"
        ),
    ] = ""
    tls: Annotated[bool, Meta(description="use TLS to the brokers")] = False
    ca_file: Annotated[
        str, Meta(description="CA certificates of the brokers; empty: those of the system")
    ] = ""
    cert_file: Annotated[
        str, Meta(description="client certificate, if the brokers require one")
    ] = ""
    key_file: Annotated[str, Meta(description="private key of cert_file")] = ""
    key_password: Annotated[
        str, Meta(description="password of key_file; set it by environment")
    ] = ""
    sasl: Annotated[
        str, Meta(description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty: no SASL")
    ] = ""
    sasl_user: Annotated[str, Meta(description="user name for SASL")] = ""
    sasl_password: Annotated[
        str, Meta(description="password of sasl_user; set it by environment")
    ] = ""
    replication: Annotated[
        int,
        Meta(
            ge=1,
            description="replication factor of new topics; 3 for production, with "
            "min.insync.replicas=2",
        ),
    ] = 1
    partitions: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="number of partitions of the topics, by visitor; as many routers can"
            " share the work. It cannot be changed later",
        ),
    ] = 1
    routers: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="number of router processes that `up` runs on this machine, if there"
            " are several partitions",
        ),
    ] = 1
    snapshot_rows: Annotated[
        int,
        Meta(
            ge=1_000,
            description="routed rows of a partition after which its router writes a snapshot"
            " of its tables to a topic; earlier rows may then be deleted",
        ),
    ] = 500_000
    session: Annotated[
        str,
        Meta(
            description="time without a heartbeat after which a router's partitions are "
            "given to others; brokers require at least 6s"
        ),
    ] = "10s"
    timeout: Annotated[
        str, Meta(description="time limit for a broker's response before a write or a read fails")
    ] = "10s"
    client: Annotated[
        list[str], Meta(description="further settings of librdkafka, each `name=value`")
    ] = []


class RouterSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    memory_mb: Annotated[
        int,
        Meta(
            ge=1,
            description="approximate megabytes of identities and profiles that the router "
            "keeps in memory; it reads others from disk",
        ),
    ] = 256


class StoreSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[
        str,
        Meta(
            description="Valkey or Redis to copy features to and read them from, such as "
            "valkey://host:6379, valkey+cluster://host:6379, or with TLS "
            "valkeys://host:6379?ssl_ca_certs=FILE (also ssl_certfile, "
            "ssl_keyfile); empty: files on this machine"
        ),
    ] = ""
    password: Annotated[
        str,
        Meta(
            description="password of the Valkey, instead of one in the url; set it by environment"
        ),
    ] = ""
    prefix: Annotated[
        str,
        Meta(
            description="prefix of this project's keys, if several projects share the "
            "Valkey; empty: the prefix of stream.url, or without topics an id in"
            " data/project-id. After a change, copy all records again: `features"
            " republish`"
        ),
    ] = ""
    replica: Annotated[
        str,
        Meta(
            description="replica of the Valkey to repeat slow reads on; empty: they are "
            "repeated over another connection"
        ),
    ] = ""
    hedge: Annotated[
        float,
        Meta(
            ge=0,
            le=0.5,
            description="maximum share of reads that are repeated when they are slow; 0: none",
        ),
    ] = 0.05
    stale_after: Annotated[
        str,
        Meta(
            description="time without an update of the Valkey after which answers name "
            "`freshness` as degraded"
        ),
    ] = "30s"


class FeaturesSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    workers: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="number of workers that share the entities of each schema; a change "
            "rebuilds the states",
        ),
    ] = 1
    entities_max: Annotated[
        int,
        Meta(
            ge=1_000,
            description="maximum number of users, items or crosses; beyond it, those that "
            "are idle longest are evicted and counted",
        ),
    ] = 20_000_000


class LakeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[
        str,
        Meta(
            description="s3://bucket/prefix to store the lake in a bucket (credentials: AWS_"
            " variables); empty: files on this machine"
        ),
    ] = ""
    commit_every: Annotated[str, Meta(description="interval of the lake's commits")] = "2s"
    commit_rows: Annotated[
        int, Meta(ge=1_000, description="number of rows after which the lake commits earlier")
    ] = 500_000
    history: Annotated[
        str, Meta(description="how long files are kept after their rows were compacted into others")
    ] = "7d"
    sort: Annotated[
        Literal["position", "person"],
        Meta(
            description="sort order of past days: person reads one person faster and builds "
            "a new state slower"
        ),
    ] = "position"


class ScoreSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    keep: Annotated[
        str,
        Meta(description="how long scores stay in their log, and so how much time consumers have"),
    ] = "7d"


class ChecksSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    after: Annotated[
        str, Meta(description="time after the end of a day (UTC) when its data is checked")
    ] = "1h"
    alert: Annotated[
        str,
        Meta(
            description="URL that receives a day's report by POST if a check fails, or a "
            "command that gets it on stdin, started without a shell: for `|` and"
            " `>` write `sh -c '…'`"
        ),
    ] = ""


class SearchSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    encoder: Annotated[
        str,
        Meta(
            description="folder of a sentence encoder (model.onnx, tokenizer.json) to order "
            "search results by words and meaning; empty: by words alone"
        ),
    ] = ""
    weight: Annotated[
        float,
        Meta(
            ge=0.0,
            le=10.0,
            description="weight of the encoder's cosine, relative to the share of the best "
            "score by words",
        ),
    ] = 0.5


class TrainSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    slot: Annotated[str, Meta(description="default slot of `tailorbird train`")] = "home"
    window: Annotated[str, Meta(description="length of the past that a training set covers")] = (
        "28d"
    )
    retrieval: Annotated[
        Literal["auto", "tables", "sequence"],
        Meta(
            description="source of candidates: tables, vectors too (`sequence`), or vectors "
            "if they find more (auto)"
        ),
    ] = "auto"
    every: Annotated[
        str,
        Meta(
            description="interval of scheduled trainings, which keep the model fresh; empty: never"
        ),
    ] = "1d"
    check_every: Annotated[
        str,
        Meta(
            description="interval of the checks for a fall of live metrics that requires retraining"
        ),
    ] = "1h"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    project: ProjectSection = ProjectSection()
    events: EventsSection = EventsSection()
    serve: ServeSection = ServeSection()
    stream: StreamSection = StreamSection()
    router: RouterSection = RouterSection()
    store: StoreSection = StoreSection()
    features: FeaturesSection = FeaturesSection()
    lake: LakeSection = LakeSection()
    score: ScoreSection = ScoreSection()
    checks: ChecksSection = ChecksSection()
    search: SearchSection = SearchSection()
    train: TrainSection = TrainSection()
    canary: CanarySection = CanarySection()
    rollout: RolloutSection = RolloutSection()
    monitoring: MonitoringSection = MonitoringSection()
    notify: NotifySection = NotifySection()
    registry: RegistrySection = RegistrySection()


SECRET = frozenset(
    (
        "serve.write_keys",
        "serve.read_keys",
        "serve.admin_keys",
        "store.url",
        "store.replica",
        "store.password",
        "events.pseudonym_key",
        "checks.alert",
        "stream.key_password",
        "stream.sasl_password",
        "stream.client",
        "notify.urls",
    )
)
_DURATIONS = (
    "events.skew",
    "events.lateness",
    "events.dedup",
    "events.answer",
    "serve.drain",
    "serve.keep_alive",
    "stream.timeout",
    "stream.session",
    "store.stale_after",
    "lake.commit_every",
    "lake.history",
    "score.keep",
    "checks.after",
    "train.window",
    "train.check_every",
    "train.every",
    "rollout.limit",
    "rollout.cooldown",
    "notify.repeat",
)
_MAY_BE_EMPTY = ("train.every",)


class Origin(msgspec.Struct, frozen=True):
    """A setting as `config show` prints it."""

    key: str
    value: Any
    source: str
    description: str


def load_settings(
    file: Path, environ: Mapping[str, str] | None = None
) -> tuple[Settings, list[Origin]]:
    """Return the settings of a project and the source of each value.

    Raises:
        ConfigError: the file is not TOML, or a key or value is invalid; names file and line, or
            the variable.
    """
    environ = os.environ if environ is None else environ
    text = _read(file)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}", where=str(file)) from None
    lines = _line_numbers(text)
    sources = {key: f"{file.name}:{line}" for key, line in lines.items()}
    _check_keys(tree, file, lines)
    _overlay(tree, sources, environ)
    try:
        settings = msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        key = path.rstrip("`").partition("[")[0]
        raise ConfigError(
            f"{key}: {message[:1].lower()}{message[1:]}", where=_where(key, file, sources)
        ) from None
    _check_durations(settings, file, sources)
    return settings, _origins(settings, sources)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        raise ConfigError(
            "no such file", where=str(file), fix="tailorbird init DIR makes a project"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(file)) from None


def _line_numbers(text: str) -> dict[str, int]:
    """Return the line of each section and of each `section.key`.

    Only flat sections are parsed, because a project's file has nothing else.
    """
    section, line_numbers = "", {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("[") and "]" in stripped:
            section = stripped[1 : stripped.index("]")].strip()
            line_numbers[section] = number
        elif "=" in stripped and not stripped.startswith("#"):
            key = stripped.partition("=")[0].strip()
            line_numbers[f"{section}.{key}" if section else key] = number
    return line_numbers


def _section_keys() -> dict[str, list[str]]:
    return {
        section.name: [entry.name for entry in msgspec.structs.fields(section.type)]  # type: ignore[arg-type]
        for section in msgspec.structs.fields(Settings)
    }


def _check_keys(tree: dict[str, Any], file: Path, lines: dict[str, int]) -> None:
    allowed = _section_keys()
    for section, content in tree.items():
        if section not in allowed:
            raise _unknown_name(
                "section", section, list(allowed), f"{file}:{lines.get(section, 1)}"
            )
        if not isinstance(content, dict):
            raise ConfigError(
                f"expected a section [{section}]", where=f"{file}:{lines.get(section, 1)}"
            )
        for key in content:
            if key not in allowed[section]:
                raise _unknown_name(
                    "key",
                    f"{section}.{key}",
                    [f"{section}.{name}" for name in allowed[section]],
                    f"{file}:{lines.get(f'{section}.{key}', 1)}",
                )


def _unknown_name(kind: str, name: str, names: list[str], where: str) -> ConfigError:
    hint = suggest_name(name, names, f"known: {', '.join(names)}", cutoff=0.5)
    return ConfigError(f"unknown {kind} {name}; {hint}", where=where)


def _overlay(tree: dict[str, Any], sources: dict[str, str], environ: Mapping[str, str]) -> None:
    allowed = _section_keys()
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable in ENV_OTHER:
            continue
        section, _, key = variable[len(ENV_PREFIX) :].lower().partition("__")
        if section not in allowed or key not in allowed[section]:
            names = [f"{ENV_PREFIX}{s}__{k}".upper() for s, keys in allowed.items() for k in keys]
            raise _unknown_name("variable", variable, names, "environment")
        is_list = isinstance(getattr(getattr(Settings(), section), key), list)
        tree.setdefault(section, {})[key] = (
            [part.strip() for part in value.split(",") if part.strip()] if is_list else value
        )
        sources[f"{section}.{key}"] = f"environment {variable}"


def _check_durations(settings: Settings, file: Path, sources: dict[str, str]) -> None:
    for path in _DURATIONS:
        section, _, key = path.partition(".")
        value = getattr(getattr(settings, section), key)
        if not value and path in _MAY_BE_EMPTY:
            continue
        try:
            parse_duration(value)
        except UsageError as error:
            raise ConfigError(
                f"{path}: {error.message}", where=_where(path, file, sources)
            ) from None


def _where(key: str, file: Path, sources: dict[str, str]) -> str:
    source = sources.get(key, file.name)
    return source if source.startswith("environment") else str(file.parent / source)


def _origins(settings: Settings, sources: dict[str, str]) -> list[Origin]:
    rows = []
    for section in msgspec.structs.fields(Settings):
        for entry in msgspec.structs.fields(section.type):  # type: ignore[arg-type]
            key = f"{section.name}.{entry.name}"
            value = getattr(getattr(settings, section.name), entry.name)
            rows.append(
                Origin(
                    key,
                    _redacted(value, key),
                    sources.get(key, "default"),
                    _description(entry.type),
                )
            )
    return rows


def _redacted(value: Any, key: str) -> Any:
    if key not in SECRET or not value:
        return value
    return "***" if isinstance(value, str) else ["***"] * len(value)


def _description(annotated: Any) -> str:
    return next(
        (
            str(meta.description)
            for meta in getattr(annotated, "__metadata__", ())
            if meta.description
        ),
        "",
    )
