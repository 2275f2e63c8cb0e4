"""Every command runs in a fresh interpreter, which has none of what other commands import.

Other tests run commands in processes that have loaded all modules (`tests.support.commands`), so
that an import that is missing does not show there.
"""

import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from docs.generate import commands_of
from tests.golden.commands import CASES, Case, record_case
from tests.golden.recordings import path_of
from tests.golden.site import ROLES, SERVE, RecordedShop, changed_copy, make_shop
from tests.support.commands import tailorbird

from tailorbird.cli.main import build_app

pytestmark = pytest.mark.slow

# Commands that print text alone. Some are refused, which needs their imports too.
_TEXT_ONLY = (
    "experiment start nothing --why cold",
    "experiment ramp nothing 0.5 --why cold",
    "experiment stop nothing --why cold",
    "experiment decide nothing arm --why cold",
    "experiment estimate --formula click",
    "experiment plan home",
    "formula set home 2*click --why cold",
    "formula reset home --why cold",
    "models promote v0001 --why cold",
    "models rollback --why cold",
    "models shadow v0001 --why cold",
    "monitor approve --why cold",
    "features republish",
    "scores tail",
)
# Commands whose work takes long, or that run until they are stopped: here only their module starts.
_NOT_CALLED = {
    "demo": "runs the whole loop; `tests/cli/test_demo.py` starts it cold",
    "up": "`tests/cli/test_commands.py` starts it cold",
    "run shuffle": "needs several partitions; its tests start it cold",
    "train": "takes several seconds; cold in `make nightly`",
    **dict.fromkeys((case.name for case in CASES if case.slow), "as `train`"),
    **{f"run {role}": "`make_shop` starts it cold" for role in (SERVE, *ROLES)},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> RecordedShop:
    return make_shop(tmp_path_factory.mktemp("cold"))


def test_every_command_starts_cold(shop: RecordedShop, tmp_path: Path) -> None:
    applications = commands_of(build_app())
    functions = {" ".join(words[1:]): command.default_command for words, command in applications}
    case_by_command = {case.name.partition(" (")[0]: case for case in reversed(CASES)}
    quick_cases = {name: case for name, case in case_by_command.items() if not case.slow}
    called = {"init", *quick_cases, *_matching(functions, _TEXT_ONLY)}
    assert functions.keys() - called - _NOT_CALLED.keys() == set()
    modules = {inspect.unwrap(function).__module__ for function in functions.values()}

    cold = replace(shop, folder=tmp_path)
    shutil.copy(shop.folder / "interactions.csv", tmp_path)
    run_cold("init", cold.new)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            *(partial(_assert_recorded, case, cold) for case in quick_cases.values()),
            *(partial(_assert_no_traceback, words, cold) for words in _TEXT_ONLY),
            *(partial(_import_alone, module) for module in sorted(modules)),
        ]
        futures = [pool.submit(job) for job in jobs]
    for future in futures:
        future.result()


def run_cold(*words: object) -> str:
    """Run a command in a fresh interpreter and return what it prints."""
    completed = tailorbird(*words, fork=False)
    assert "Traceback" not in completed.stderr, f"{words}: {completed.stderr}"
    assert completed.stdout, f"{words} printed nothing: {completed.stderr}"
    return completed.stdout


def _import_alone(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, timeout=60)


def _assert_recorded(case: Case, shop: RecordedShop) -> None:
    recorded = path_of(f"commands/{case.name}").read_text()
    assert record_case(case, shop, run_cold) == recorded, case.name


def _assert_no_traceback(words: str, shop: RecordedShop) -> None:
    with changed_copy(shop.project, shop.folder) as project:
        completed = tailorbird("-C", project, *words.split(), fork=False, timeout=60)
    assert "Traceback" not in completed.stderr, f"{words}: {completed.stderr}"
    is_usage_error = "--help" in completed.stderr
    assert not is_usage_error, f"{words}: {completed.stderr}"


def _matching(commands: Iterable[str], calls: Iterable[str]) -> set[str]:
    """Return the commands that these calls run."""
    return {name for name in commands for call in calls if f"{call} ".startswith(f"{name} ")}
