"""Run the next steps that `init` prints, line by line."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.support.commands import assert_refused, environment, must, must_json, tailorbird
from tests.support.programs.addresses import address_of
from tests.support.roles import until

CLICKS, USERS, ITEMS = 3_000, 120, 40


def paste(line: str, folder: Path) -> str:
    """Run a line in a shell that finds `tailorbird` as a newcomer's would."""
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env=_shell_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def paste_up(line: str, folder: Path, project: Path) -> None:
    """Start `up`, ask the server that it starts, and stop it."""
    process = subprocess.Popen(
        ["sh", "-c", f"exec {line}"], cwd=folder, env=_shell_environment(TAILORBIRD_SERVE__PORT="0")
    )
    try:
        url = address_of(project, process)
        until(lambda: ready(url), 60, "it does not get ready")
        ask = urllib.request.Request(
            f"{url}/v1/recommend", b'{"slot": "home"}', {"content-type": "application/json"}
        )
        with urllib.request.urlopen(ask, timeout=10) as response:
            assert json.load(response)["items"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def ready(url: str) -> bool:
    """Return whether the server is warm."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as response:
            return response.status == 200
    except urllib.error.HTTPError:
        return False


def _shell_environment(**more: str) -> dict[str, str]:
    return environment(
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **more
    )


def _steps(printed: str) -> list[str]:
    return [line.strip() for line in printed.split("Next:\n")[1].splitlines() if line.strip()]


@pytest.mark.slow
def test_every_next_step_works_when_pasted(tmp_path: Path) -> None:
    steps = _steps(must("init", "my shop", cwd=tmp_path))
    assert [step.split("'")[2].split()[0] for step in steps] == [
        "check",
        "simulate",
        "import",
        "train",
        "recommend",
        "up",
    ]
    for step in steps[:-1]:
        # As printed, but for the size of the history, which only takes time.
        printed = paste(step.replace("--days 28", "--days 5 --users 200 --items 80"), tmp_path)
    assert "u0" in steps[-2]
    assert len([line for line in printed.splitlines() if " i0" in line]) == 12
    paste_up(steps[-1], tmp_path, tmp_path / "my shop")


def _write(path: Path, head: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Events, items and users as a shop might export them, a year ago."""
    folder = tmp_path / "export"
    folder.mkdir()
    start, step = 1_761_955_200, 20 * 86_400 // CLICKS
    kinds = ["view", "view", "view", "cart", "purchase", "wish"]
    events = [
        [
            start + i * step,
            f"u{i * 7919 % USERS:03}",
            f"{i * i % 41 % ITEMS:03}",
            kinds[i % 6],
            5 + i * i % 41 % ITEMS,
            "phone" if i % 3 else "desktop",
        ]
        for i in range(CLICKS)
    ]
    _write(
        folder / "events.csv",
        ["time", "user_id", "product_id", "event_type", "price", "device"],
        events,
    )
    items = [[f"{i:03}", f'Lamp "no {i}", bright', "abc"[i % 3], 5 + i] for i in range(ITEMS)]
    _write(folder / "items.csv", ["product_id", "title", "category", "price"], items)
    _write(
        folder / "users.csv",
        ["user_id", "age", "segment"],
        [[f"u{i:03}", 18 + i % 70, "xy"[i % 2]] for i in range(USERS)],
    )
    return folder


@pytest.mark.slow
def test_every_next_step_works_from_ones_own_tables(tmp_path: Path, tables: Path) -> None:
    printed = must("init", "mine", "--from", "export", cwd=tmp_path)
    assert "its name is usual for it" in printed
    assert "not built in, so it is declared in tailorbird.toml" in printed
    steps = _steps(printed)
    assert [step.split()[3] for step in steps] == ["check", "import", "train", "recommend", "up"]
    for step in steps[:-1]:  # as the shell of the test above splits it
        printed = must(*shlex.split(step)[1:], cwd=tmp_path)
    assert len([line for line in printed.splitlines() if "Lamp" in line]) == 12
    assert "features as of 2025-" in printed
    assert "a stranger" not in printed, "init names somebody who is known"
    assert "nothing is known of user nobody" in must(
        "-C", "mine", "recommend", "--user", "nobody", cwd=tmp_path
    )
    counts = must_json(
        "sql", "SELECT type, count(*) AS n FROM events GROUP BY type", cwd=tmp_path / "mine"
    )["rows"]
    by_type = {row["type"]: row["n"] for row in counts}
    assert by_type == {
        "view": CLICKS // 2,
        "cart": CLICKS // 6,
        "purchase": CLICKS // 6,
        "wish": CLICKS // 6,
        "item": ITEMS,
        "user": USERS,
    }
    paste_up(steps[-1], tmp_path, tmp_path / "mine")


def test_files_that_are_there_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    must("init", tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "mine\n"


def test_a_name_that_toml_must_quote(tmp_path: Path) -> None:
    must("init", 'a "shop" \\ more', cwd=tmp_path)
    shown = must_json("config", "show", cwd=tmp_path / 'a "shop" \\ more')["settings"]
    assert next(row["value"] for row in shown if row["key"] == "project.name") == 'a "shop" \\ more'


def test_the_folder_of_the_command_is_that_of_the_option(tmp_path: Path) -> None:
    must("-C", "shop", "init", cwd=tmp_path)
    must("-C", "shop", "init", "inner", cwd=tmp_path)
    assert (tmp_path / "shop" / "slots.py").is_file()
    assert (tmp_path / "shop" / "inner" / "slots.py").is_file()
    assert_refused(tailorbird("init", cwd=tmp_path), "where to make the project is not said")
