"""The recorded commands with their arguments, and those left out with the reason."""

import inspect
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cyclopts import App
from tests.golden.files import MANIFEST_MAPS, TRAINING_MAPS
from tests.golden.shapes import readable, shape
from tests.golden.site import RecordedShop, RunCommand, changed_copy, run_command
from tests.support.shops.fixed_history import LAST_DAY

from tailorbird.cli.main import build_app

LEFT_OUT = {
    "demo": "runs the whole loop, for minutes",
    "experiment plan": "needs a declared experiment, and the shop has none",
    "experiment estimate": "compares two versions with a model, and the shop has one",
    "features republish": "copies to a Valkey",
}

# What the commands print that make the shop; their maps, see `shapes.shape`.
PRINTED: dict[str, tuple[str, ...]] = {
    "init": (),
    "import": ("refused", "left_out"),
    "train": TRAINING_MAPS,
}

SHOP, COPY, NEW, CHURN = "shop", "copy", "new", "churn"
_FEATURES = ("features", "now")
_EXPLAINED = ("items[].explanation.contributions", "items[].explanation.features")
_SPLIT = "about.splits[].positives"
_TUNED = ("about.spaces.gbdt.fixed", "chosen.settings", "importance.gbdt", _SPLIT)
_FORMULA = ("formula set home 2*click --why recorded",)
_KEY = ("keys create backend --scope read --expires 90d",)
_DECLARED, _PSEUDONYMS = "declare a feature", "declare a pseudonym key"
_RECEIVER = "declare a receiver"
_FRESH = "fresh = count('fresh_clicks', user, 'click', window='2d')"
# A file of the project, what to replace in it, and with what.
_EDITS = {
    _DECLARED: ("features.py", "everyone = entity()", f"everyone = entity()\n{_FRESH}"),
    _RECEIVER: ("tailorbird.toml", "[events]", '[notify]\nurls = ["json://localhost"]\n\n[events]'),
    _PSEUDONYMS: ("tailorbird.toml", "[events]", f'[events]\npseudonym_key = "{"k" * 32}"'),
}
_FIT = "train churn --quick --as-of latest --no-promote"


@dataclass(frozen=True)
class Case:
    """A command to record.

    Attributes:
        words: the command after `tailorbird -C PROJECT`, without `--json`. Names in braces are
            those of `_names`.
        maps: paths of the dictionaries whose keys are data; see `shapes.shape`.
        variant: tells cases of one command apart.
        on: the project: the shop, a copy that it may change, one without data, or one of churn.
        before: commands that are run first.
        until: a key of its output; it is repeated until this is not empty.
        by_source: it takes no `--json`, but prints objects one a line, each with its `source`.
        slow: it takes several seconds.
    """

    words: str
    maps: tuple[str, ...] = ()
    variant: str = ""
    on: str = SHOP
    before: tuple[str, ...] = ()
    until: str = ""
    by_source: bool = False
    slow: bool = False

    @property
    def name(self) -> str:
        """Return the command, such as `features show`, with the variant in brackets."""
        base_name = next(name for name in _with_json() if f"{self.words} ".startswith(f"{name} "))
        return f"{base_name} ({self.variant})" if self.variant else base_name


CASES = (
    Case("check", ("experiments", "transforms")),
    Case("config show"),
    Case("doctor"),
    Case(
        "simulate --days 1 --users 20 --items 20 --out {folder}/small.jsonl",
        ("injected.malformed",),
    ),
    Case("import --guess {folder}/interactions.csv", variant="guess"),
    Case("sql 'SELECT type, count(*) AS n FROM events GROUP BY type'", ("rows[]",)),
    Case("evaluate --quick --as-of 2025-06-02", ("learned_until", *TRAINING_MAPS)),
    Case("recommend --user {user} --size 5", ("items[].attributes",)),
    Case(
        "recommend --query coat --explain", ("items[].attributes", *_EXPLAINED), variant="explained"
    ),
    Case("features list"),
    Case("features list --bytes", variant="bytes"),
    Case("features show user:{user} --item {item} --events 3", _FEATURES, variant="user"),
    Case("features show user:{user} --at {moment} --events 3", _FEATURES, variant="user at"),
    Case("features show user:{user} --why user_clicks_7d", variant="user why"),
    Case("features show item:{item} --events 60", _FEATURES, variant="item"),
    Case("features show item:{item} --at {moment} --events 60", _FEATURES, variant="item at"),
    Case("features show item:{item} --why item_clicks_7d", variant="item why"),
    Case("features rank --requests 300 --as-of 2025-06-02 --out {folder}/signals", slow=True),
    Case("features plan", variant="unchanged"),
    Case("features plan", on=COPY, before=(_DECLARED,)),
    Case("features apply --yes", on=COPY, before=(_DECLARED,)),
    Case("features backfill --out {folder}/past"),
    Case("features prune", ("removed", "copies_removed"), on=COPY),
    Case("features verify --samples 50", ("by_feature", "schemas")),
    Case(
        "validate --quick --splits 1 --no-variants --as-of 2025-06-02",
        (*TRAINING_MAPS, _SPLIT),
        on=COPY,
        slow=True,
    ),
    Case(
        "tune --quick --trials 2 --splits 1 --seeds 1 --finalists 1 --as-of 2025-06-02",
        _TUNED,
        on=COPY,
        slow=True,
    ),
    Case(_FIT, variant="churn", on=CHURN, slow=True),
    Case(
        "score churn --as-of latest --out {folder}/churn.parquet",
        on=CHURN,
        before=(_FIT, "models promote v0001 --churn churn --why recorded"),
        slow=True,
    ),
    Case("models list"),
    Case("models audit"),
    Case("models show {trained}", MANIFEST_MAPS),
    Case("models verify", ("versions",)),
    Case("models prune --dry-run", ("retained",)),
    Case("models canary", on=COPY, before=("models canary v0001 --share 0.05 --why recorded",)),
    Case("formula show", on=COPY, before=_FORMULA),
    Case("formula show --history", variant="history", on=COPY, before=_FORMULA),
    Case("rules report --requests 5", on=COPY),
    Case("keys create backend --scope read --expires 90d", ("limits",), on=NEW),
    Case("keys list", ("keys[].limits",), on=NEW, before=_KEY),
    Case("keys revoke {key}", ("revoked.limits",), on=NEW, before=_KEY),
    Case("keys pseudonym somebody", on=NEW, before=(_PSEUDONYMS,)),
    Case("checks run --day {day}", on=COPY),
    Case("monitor status --as-of 2025-06-01"),
    Case("monitor figures --by slot --since 3d --as-of 2025-06-01"),
    Case("monitor drift --since 6h --as-of 2025-06-01", ("episodes[].moved",)),
    Case("monitor decide --as-of 2025-06-01"),
    Case("monitor silence bots --for 2h", ("silenced",), on=COPY),
    Case("monitor notify", on=COPY, before=(_RECEIVER,)),
    Case("experiment report home"),
    Case("experiment list"),
    Case("backup {folder}/vault", ("log_rows",)),
    Case(
        "restore {folder}/restorable {folder}/restored",
        ("log_ends", "acknowledged_after"),
        on=COPY,
        before=("backup {folder}/restorable",),
    ),
    Case("lake verify", ("partitions", "waiting")),
    Case("lake verify --erased nobody", variant="erased", slow=True),
    Case("lake repair"),
    Case("lake quarantine --limit 3", ("counts[].paths",)),
    Case("lake replay --reason unknown_type", ("refused", "by_reason"), on=COPY),
    Case("lake compact --all-days", on=COPY),
    Case(
        "lake vacuum --keep 1s",
        ("tables",),
        on=COPY,
        before=("lake compact --all-days",),
        until="tables",
    ),
    Case("lake events --out {folder}/events.parquet"),
    Case("lake erase {user}", ("events",), variant="preview", slow=True),
    Case("lake erase {user} --yes", ("counts.events by type",), on=COPY, slow=True),
    Case("lake export-user {user} --out {folder}/told.jsonl", ("records",), slow=True),
    Case(
        "lake export-user {user}",
        ("answer[].features[]", "feature[]"),
        variant="lines",
        by_source=True,
    ),
)


def record_case(case: Case, shop: RecordedShop, run: RunCommand = run_command) -> str:
    """Run a command and return the shape of what it prints, as text."""
    if case.on == SHOP:
        return _text(case, shop, shop.project, run)
    origin = {COPY: lambda: shop.project, NEW: lambda: shop.new, CHURN: lambda: shop.churn}
    with changed_copy(origin[case.on](), shop.folder) as project:
        for words in case.before:
            _prepare(project, words.replace("{folder}", str(shop.folder)), run)
        return _text(case, shop, project, run)


def not_covered() -> set[str]:
    """Return the commands with `--json` that are neither recorded nor left out."""
    covered = {case.name.partition(" (")[0] for case in CASES} | PRINTED.keys()
    return _with_json() - covered - LEFT_OUT.keys()


def _text(case: Case, shop: RecordedShop, project: Path, run: RunCommand) -> str:
    text = readable(shape(_printed(case, shop, project, run), case.maps))
    return text.replace(shop.schema_hash, "<schema>")


def _printed(case: Case, shop: RecordedShop, project: Path, run: RunCommand) -> Any:
    words = shlex.split(case.words.format_map(_names(shop, project, case.words, run)))
    if case.by_source:
        by_source: dict[str, list[Any]] = {}
        for line in run("-C", project, *words).splitlines():
            record = json.loads(line)
            by_source.setdefault(record["source"], []).append(record)
        return by_source
    printed = json.loads(run("-C", project, *words, "--json"))
    while case.until and not printed[case.until]:
        printed = json.loads(run("-C", project, *words, "--json"))
    return printed


def _prepare(project: Path, words: str, run: RunCommand) -> None:
    """Run a command that comes before the one to record, or change a file of the project."""
    if words not in _EDITS:
        run("-C", project, *shlex.split(words))
        return
    file, before, after = _EDITS[words]
    path = project / file
    text = path.read_text()
    assert before in text, f"{file} has no {before!r} any more"
    path.write_text(text.replace(before, after))


def _names(shop: RecordedShop, project: Path, words: str, run: RunCommand) -> dict[str, object]:
    """Return the values of the names in braces."""
    names: dict[str, object] = {
        "folder": shop.folder,
        "user": shop.user,
        "item": shop.item,
        "moment": shop.moment,
        "trained": shop.trained,
        "day": LAST_DAY,
    }
    if "{key}" in words:
        [key] = json.loads(run("-C", project, "keys", "list", "--json"))["keys"]
        names["key"] = key["id"]
    return names


@cache
def _with_json() -> frozenset[str]:
    return frozenset(_commands(build_app(), ()))


def _commands(app: App, above: tuple[str, ...]) -> Iterator[str]:
    """Yield the commands below this one that take `--json`."""
    for name in app:
        if name.startswith("-"):
            continue
        below = app[name]
        if below.default_command is None:
            yield from _commands(below, (*above, name))
        elif "json" in inspect.signature(below.default_command).parameters:
            yield " ".join((*above, name))
