"""The documentation is true: made pages are fresh, links lead somewhere, blocks run where that is
cheap and parse where it is not.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest
from docs.generate import FOLDER, PAGES
from tests.support.commands import environment
from tests.support.programs.addresses import address_of
from tests.support.programs.command_line import assert_parses

from tailorbird.cli.main import build_app
from tailorbird.config import load_settings
from tailorbird.config.contract_file import EventContract, load_contract
from tailorbird.events import EVENT_TYPES, Receipt, RoutePlan, check_body
from tailorbird.events.adapters.mapping.file import parse_mapping
from tailorbird.serving.pipeline.editorial import read_lists

ROOT = Path(__file__).parents[1]
DOCS = sorted(path for path in (ROOT / "docs").rglob("*.md"))
TEXTS = [
    path
    for path in (ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *DOCS)
    if path.exists()
]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _blocks(path: Path, language: str) -> Iterator[str]:
    for block_language, text in _BLOCK.findall(path.read_text()):
        if block_language == language:
            yield text


def _lines(path: Path) -> list[str]:
    """Each command of the page's shell blocks, continued lines joined."""
    text = "\n".join(_blocks(path, "sh")).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_made_from_the_code_is_fresh(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name]().rstrip() + "\n", (
        "stale; run: python docs/generate.py"
    )


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_links_lead_somewhere(path: Path) -> None:
    targets = [
        target.partition("#")[0]
        for target in _LINK.findall(path.read_text())
        if not re.match(r"\w+:", target)
    ]
    missing = [target for target in targets if target and not (path.parent / target).exists()]
    assert missing == []


def test_the_menu_names_every_page_once() -> None:
    def pages(entries: list) -> Iterator[str]:
        for entry in entries:
            for value in entry.values():
                if isinstance(value, list):
                    yield from pages(value)
                else:
                    yield value

    menu = sorted(pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    assert menu == sorted(str(path.relative_to(ROOT / "docs")) for path in DOCS), (
        "add the page to the menu in zensical.toml"
    )


def _expand_braces(path: str) -> list[str]:
    """`a/{b,c}.py` as `a/b.py` and `a/c.py`."""
    before, brace, after = path.partition("{")
    options, _, after = after.partition("}")
    return [before + each + after for each in options.split(",")] if brace else [path]


CODE_MAPS = (
    "ARCHITECTURE.md",
    "docs/explanation/extension-points.md",
    "docs/explanation/invariants.md",
)


@pytest.mark.parametrize("page", CODE_MAPS)
def test_the_maps_of_the_code_name_files_that_are_there(page: str) -> None:
    named = re.findall(r"`([\w./{},-]+/[\w./{},-]*)`", (ROOT / page).read_text())
    paths = [path for text in named if "NAME" not in text for path in _expand_braces(text)]
    missing = [
        path
        for path in paths
        if not (ROOT / path).exists() and not (ROOT / "src" / "tailorbird" / path).exists()
    ]
    assert len(paths) > 20
    assert missing == []


def test_the_maps_of_the_code_name_what_is_in_the_files() -> None:
    """`NAME` in `file`, and `file` (`NAME`)."""
    text = "".join((ROOT / page).read_text() for page in CODE_MAPS)
    named = [(m[2], m[1]) for m in re.finditer(r"`(\w+)` in `([^`]+)`", text)]
    named += [(m[1], m[2]) for m in re.finditer(r"`([\w/]+\.py)` \(`(\w+)`", text)]
    missing, checked = [], 0
    for paths, name in named:
        for path in _expand_braces(paths):
            files = [root / path for root in (ROOT, ROOT / "src" / "tailorbird")]
            for file in filter(Path.is_file, files):
                checked += 1
                if not re.search(rf"\b{name}\b", file.read_text()):
                    missing.append(f"{name} in {path}")
    assert checked > 20
    assert missing == []


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_commands_exist(path: Path) -> None:
    app = build_app()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in _lines(path):
        for part in re.split(r"\s&&\s", line):
            words = shlex.split(part, comments=True)
            if not words:
                continue
            if words[0] == "tailorbird":
                assert_parses(app, part)
            elif words[0] == "make":
                assert words[1] in targets, line
            elif words[0] == "python" and words[1] == "-m":
                assert find_spec(words[2]) is not None, line


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_versions_of_models_are_written_as_the_registry_writes_them(path: Path) -> None:
    commands = [line for line in _lines(path) if line.startswith("tailorbird")]
    assert [line for line in commands if re.search(r"\bv(?!\d{4}\b)\d+\b", line)] == [], (
        "the registry knows v0003, and no v3"
    )


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_python_runs(path: Path) -> None:
    """A block brings its own imports; one that needs a project is `py`, and is compiled alone."""
    names: dict[str, object] = {}
    for block in _blocks(path, "py"):
        compile(block, str(path), "exec")
    for block in _blocks(path, "python"):
        code = compile(block, str(path), "exec")
        if path.parent.name not in ("explanation", "decisions"):  # those show parts of something
            exec(code, names)


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_toml_and_json_blocks_are_valid(path: Path, tmp_path: Path) -> None:
    for block in _blocks(path, "toml"):
        if "[[source]]" in block:
            parse_mapping(block, str(path))
        elif block.lstrip().startswith("# contract.toml"):
            (tmp_path / "contract.toml").write_text(block)
            assert load_contract(tmp_path / "contract.toml", EVENT_TYPES) != EventContract()
        elif block.lstrip().startswith("# lists.toml"):
            (tmp_path / "lists.toml").write_text(block)
            assert read_lists(tmp_path / "lists.toml")
        else:
            (tmp_path / "tailorbird.toml").write_text(block)
            load_settings(tmp_path / "tailorbird.toml", {})
    for block in _blocks(path, "json"):
        document = msgspec.json.decode(block)
        if isinstance(document, dict) and "event_id" in document:
            now = 1_900_000_000_000_000
            _, refused = check_body(json.dumps(document).encode(), Receipt(now), RoutePlan())
            assert refused == []


@pytest.mark.slow
def test_the_first_evening_works_as_it_is_written(tmp_path: Path) -> None:
    """Each line of the tutorial in a shell, in order; only the history is made smaller, and the
    shop has another port.
    """
    lines = _lines(ROOT / "docs" / "tutorials" / "first-evening.md")
    lines = [line for line in lines if line.split()[0] in ("tailorbird", "curl")]
    assert [line for line in lines if "init mine" in line] == [lines[-1]]
    shop = tmp_path / "shop"
    url, server = "", None
    try:
        for line in lines[:-1]:
            if line.endswith(" up"):
                server = subprocess.Popen(
                    ["sh", "-c", f"exec {line}"],
                    cwd=tmp_path,
                    env=_environment(TAILORBIRD_SERVE__PORT="0"),
                )
                url = address_of(shop, server)
                continue
            smaller = line.replace("--days 28", "--days 5 --users 200 --items 80").replace(
                "http://127.0.0.1:8642", url
            )
            done = subprocess.run(
                ["sh", "-c", smaller],
                cwd=tmp_path,
                env=_environment(),
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            if line.startswith("curl"):
                answer = json.loads(done.stdout)
                assert answer.get("accepted") == 1 or len(answer["items"]) == 3, done.stdout
    finally:
        if server is not None:
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0


@pytest.mark.slow
def test_the_page_on_churn_works_from_init_to_scores(tmp_path: Path) -> None:
    """Its files as they stand there, its lines in a shell, in order; only the history is made
    smaller.
    """
    pytest.importorskip("lightgbm", reason="needs the extra train")
    page = ROOT / "docs" / "how-to" / "churn.md"
    columns, churn = _blocks(page, "python")
    lines = [line for line in _lines(page) if line.startswith("tailorbird")]
    written = lines.index("tailorbird -C shop check")
    assert lines[-1].startswith("tailorbird -C shop score churn")
    _in_shell(lines[:written], tmp_path)
    with (tmp_path / "shop" / "features.py").open("a") as features:
        features.write(columns)
    (tmp_path / "shop" / "churn.py").write_text(churn)
    _in_shell(lines[written:], tmp_path)
    assert (tmp_path / "churn.parquet").exists()


def _in_shell(lines: list[str], folder: Path) -> None:
    for line in lines:
        smaller = line.replace("--users 600", "--users 200 --items 60").replace(
            "train churn", "train churn --quick"
        )
        done = subprocess.run(
            ["sh", "-c", smaller],
            cwd=folder,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def _environment(**more: str) -> dict[str, str]:
    return environment(
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **more
    )
