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

from tailorbird.errors import ConfigError, UsageError, suggest_name
from tailorbird.events import parse_duration

ENV_PREFIX = "TAILORBIRD_"
# Variables that are not settings of a project.
_OTHER_VARIABLES = (
    "CHROMIUM",
    "DATA",
    "DEBUG",
    "FAULTS",
    "KEY",
    "PARENT",
    "PEERS",
    "PROJECT",
    "TEST_KAFKA",
)
ENV_OTHER = frozenset(f"TAILORBIRD_{name}" for name in _OTHER_VARIABLES)


class ProjectSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(description="what pages and reports call the project")] = "shop"
    owner: Annotated[
        str,
        Meta(
            description="who answers for the models, such as a team's address; stands in their "
            "cards"
        ),
    ] = ""
    data: Annotated[
        str, Meta(description="folder of everything that is stored, relative to the project")
    ] = "data"


class EventsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    types: Annotated[
        list[str], Meta(description="event types of your own beside the built-in ones")
    ] = []
    skew: Annotated[
        str,
        Meta(
            description="how far a client's ts may lie in the future before the event is "
            "quarantined"
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
            description="hides ids of people behind hashes with this key before anything is "
            "written; set it by environment"
        ),
    ] = ""
    answer: Annotated[
        str, Meta(description="how long an answer waits for the clicks that name it")
    ] = "2h"


class ServeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    host: Annotated[
        str, Meta(description="address to bind; anything but 127.0.0.1 needs a key")
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(ge=0, le=65_535, description="port to bind; the next free one is taken if it is busy"),
    ] = 8642
    write_keys: Annotated[
        list[str], Meta(description="keys that may send events; set them by environment")
    ] = []
    read_keys: Annotated[
        list[str], Meta(description="keys that may ask for answers; set them by environment")
    ] = []
    admin_keys: Annotated[
        list[str],
        Meta(
            description="keys that may see what the server does, and read and change the formulas "
            "of slots; set them by environment"
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
        int, Meta(ge=1_024, description="largest request body, after decompression")
    ] = 1_048_576
    disk_reserve_mb: Annotated[
        int,
        Meta(
            ge=0,
            description="megabytes of disk, but at most a twentieth of it, that events leave free "
            "for the other roles; 0: none",
        ),
    ] = 256
    batch_max: Annotated[int, Meta(ge=0, description="most events of one body; 0: no limit")] = (
        10_000
    )
    requests_per_s: Annotated[
        float,
        Meta(
            ge=0, description="most questions a second by one key, on average of ten; 0: no limit"
        ),
    ] = 0
    events_per_s: Annotated[
        float,
        Meta(ge=0, description="most events a second by one key, on average of ten; 0: no limit"),
    ] = 0
    ids_per_hour: Annotated[
        int,
        Meta(
            ge=0,
            description="most different people and items in the events of one key within an hour; "
            "0: no limit",
        ),
    ] = 2_000_000
    address_events_per_s: Annotated[
        float,
        Meta(
            ge=0,
            description="most events a second from one address with a browser's key; 0: no limit",
        ),
    ] = 50
    address_clicks_per_hour: Annotated[
        float,
        Meta(
            ge=0,
            description="most clicks and the like from one address with a browser's key, at once "
            "and an hour; 0: no limit",
        ),
    ] = 5_000
    address_connections: Annotated[
        int,
        Meta(
            ge=0,
            description="most open connections from one address that is not in `proxies`; 0: no "
            "limit",
        ),
    ] = 512
    proxies: Annotated[
        list[str],
        Meta(
            description="addresses or networks (10.0.0.0/8) of your proxies, whose "
            "X-Forwarded-For is believed"
        ),
    ] = []
    drain: Annotated[
        str,
        Meta(
            description="how long a server that was told to stop still answers, while /readyz "
            "says 503; behind a balancer longer than that "
            "needs to notice, such as 10s"
        ),
    ] = "250ms"
    keep_alive: Annotated[
        str,
        Meta(
            description="how long a connection that asks nothing is kept; the idle time of a "
            "proxy in front has to be shorter"
        ),
    ] = "75s"
    wait_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="how long a question may have to wait for its turn; who would wait longer "
            "is told to come again",
        ),
    ] = 250
    retrieval_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="time for finding candidates; then the sources not asked yet are left out",
        ),
    ] = 50
    features_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="time for reading features; after three reads that took longer, last "
            "known ones serve for a second",
        ),
    ] = 100
    ranking_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="time for scoring; no more candidates are scored than fit, by what a row "
            "cost lately",
        ),
    ] = 100
    policy_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="time for choosing; after three choices that took longer, diversity is "
            "left out for a second",
        ),
    ] = 50
    log: Annotated[
        Literal["text", "json"],
        Meta(description="how the server writes its log: lines for people, or JSON"),
    ] = "text"
    log_requests: Annotated[
        bool,
        Meta(description="write a line for every request, not only for those refused or failed"),
    ] = False
    gorse_slot: Annotated[
        str,
        Meta(
            description="speak Gorse's REST API under /api too, with the answers of this slot; "
            "off where empty"
        ),
    ] = ""


class StreamSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[
        str,
        Meta(
            description="kafka://host:9092/prefix to keep the logs in topics; empty: this "
            "machine's files"
        ),
    ] = ""
    tls: Annotated[bool, Meta(description="speak TLS to the brokers")] = False
    ca_file: Annotated[
        str,
        Meta(
            description="certificates that the brokers' must descend from; empty: those of the "
            "system"
        ),
    ] = ""
    cert_file: Annotated[
        str, Meta(description="our own certificate, where the brokers ask for one")
    ] = ""
    key_file: Annotated[str, Meta(description="the key of cert_file")] = ""
    key_password: Annotated[str, Meta(description="what opens key_file; set it by environment")] = (
        ""
    )
    sasl: Annotated[
        str, Meta(description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty: no SASL")
    ] = ""
    sasl_user: Annotated[str, Meta(description="who we are to the brokers")] = ""
    sasl_password: Annotated[
        str, Meta(description="the password of sasl_user; set it by environment")
    ] = ""
    replication: Annotated[
        int,
        Meta(
            ge=1,
            description="copies of each topic that is made; 3 for production, with "
            "min.insync.replicas=2",
        ),
    ] = 1
    partitions: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="into how many the topics are cut, by visitor; as many routers can share "
            "the work. Fixed once they are made",
        ),
    ] = 1
    routers: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="router processes that `up` runs on this machine, where there are several "
            "partitions",
        ),
    ] = 1
    snapshot_rows: Annotated[
        int,
        Meta(
            ge=1_000,
            description="rows of a partition that are routed until its router puts a snapshot of "
            "its tables into a topic; what lies before "
            "may then be deleted",
        ),
    ] = 500_000
    session: Annotated[
        str,
        Meta(
            description="after how long without a sign of life a router's partitions are given to "
            "others; brokers want 6s at least"
        ),
    ] = "10s"
    timeout: Annotated[
        str, Meta(description="how long a broker may take to answer before a write or a read fails")
    ] = "10s"
    client: Annotated[
        list[str], Meta(description="more settings of librdkafka, each `name=value`")
    ] = []


class RouterSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    memory_mb: Annotated[
        int,
        Meta(
            ge=1,
            description="megabytes of identities and profiles that the router holds in memory, "
            "about; the others it reads from disk",
        ),
    ] = 256


class StoreSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[
        str,
        Meta(
            description="a Valkey or Redis to copy features to and read them from, such as "
            "valkey://host:6379, valkey+cluster://host:6379, "
            "or with TLS valkeys://host:6379?ssl_ca_certs=FILE (also ssl_certfile, "
            "ssl_keyfile); empty: this machine's files"
        ),
    ] = ""
    password: Annotated[
        str, Meta(description="of the Valkey, in place of one in the url; set it by environment")
    ] = ""
    prefix: Annotated[
        str,
        Meta(
            description="what this project's keys begin with, where several share the Valkey; "
            "empty: the prefix of stream.url, without "
            "topics an id in data/project-id. Change it, and all is copied anew: `features "
            "republish`"
        ),
    ] = ""
    replica: Annotated[
        str,
        Meta(
            description="a replica of the Valkey, which a read is asked of that takes long; "
            "empty: asked again over another connection"
        ),
    ] = ""
    hedge: Annotated[
        float,
        Meta(
            ge=0,
            le=0.5,
            description="share of the reads that may be asked a second time, when they take long; "
            "0: none",
        ),
    ] = 0.05
    stale_after: Annotated[
        str,
        Meta(
            description="answers name `freshness` as missing, when nobody has brought the Valkey "
            "up to date for so long"
        ),
    ] = "30s"


class FeaturesSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    workers: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="how many workers share the entities of each schema; another number "
            "builds the states anew",
        ),
    ] = 1
    entities_max: Annotated[
        int,
        Meta(
            ge=1_000,
            description="past so many users, items or crosses, those of the kind that are idle "
            "longest are dropped, and counted",
        ),
    ] = 20_000_000


class LakeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[
        str,
        Meta(
            description="s3://bucket/prefix to keep the lake in a bucket (credentials: AWS_ "
            "variables); empty: this machine's files"
        ),
    ] = ""
    commit_every: Annotated[
        str, Meta(description="how often the lake commits what has come in")
    ] = "2s"
    commit_rows: Annotated[int, Meta(ge=1_000, description="rows that make it commit sooner")] = (
        500_000
    )
    history: Annotated[
        str,
        Meta(
            description="for how long files stay whose rows were put together with others; then "
            "they are deleted"
        ),
    ] = "7d"
    sort: Annotated[
        Literal["position", "person"],
        Meta(
            description="how old days are sorted: person reads one person faster, builds a new "
            "state slower"
        ),
    ] = "position"


class ScoreSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    keep: Annotated[
        str, Meta(description="for how long scores stay in their log; consumers have as much time")
    ] = "7d"


class ChecksSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    after: Annotated[
        str, Meta(description="how long after the end of a day (UTC) its data is checked")
    ] = "1h"
    alert: Annotated[
        str,
        Meta(
            description="a URL that gets a day's report by POST when a check fails, or a command "
            "that gets it on its input, started "
            "without a shell: for `|` and `>` write `sh -c '…'`"
        ),
    ] = ""


class SearchSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    encoder: Annotated[
        str,
        Meta(
            description="folder of a sentence encoder (model.onnx, tokenizer.json): search orders "
            "by words and meaning; empty: by words alone"
        ),
    ] = ""
    weight: Annotated[
        float,
        Meta(
            ge=0.0,
            le=10.0,
            description="of the encoder's cosine, against the share of the best score by words",
        ),
    ] = 0.5


class TrainSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    slot: Annotated[
        str, Meta(description="the slot that `tailorbird train` trains for unless told otherwise")
    ] = "home"
    window: Annotated[str, Meta(description="how much of the past a training set covers")] = "28d"
    retrieval: Annotated[
        Literal["auto", "tables", "sequence"],
        Meta(
            description="where candidates come from: tables, vectors too (`sequence`), or vectors "
            "where they find more"
        ),
    ] = "auto"
    every: Annotated[
        str,
        Meta(
            description="how often the trainer trains anew, whatever the figures say, so that a "
            "model stays fresh; empty: never"
        ),
    ] = "1d"
    check_every: Annotated[
        str,
        Meta(description="how often live figures are checked for a fall that calls for retraining"),
    ] = "1h"


class CanarySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    answers_min: Annotated[
        int,
        Meta(
            ge=1,
            description="answers of a step, of the canary and of the champion, before a canary is "
            "judged",
        ),
    ] = 500
    errors: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="share of its answers that it may fail beyond the champion's; past it a "
            "canary is ended",
        ),
    ] = 0.005
    latency: Annotated[
        float,
        Meta(
            gt=0,
            description="how many times the champion's 95th percentile its own may be; past it a "
            "canary is ended",
        ),
    ] = 1.5
    margin: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="relative fall in clicks per item seen that must be excluded before a "
            "canary goes on",
        ),
    ] = 0.1


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
