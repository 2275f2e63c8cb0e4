"""Canary secrets in the environment of a whole site are in no file and in no output."""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.support.commands import tailorbird
from tests.support.oracle import count_lake_events
from tests.support.roles import Up, make_project, until

from tailorbird.config import Project
from tailorbird.errors import NotReadyError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]

SECRETS = {
    "TAILORBIRD_SERVE__WRITE_KEYS": "canary-write-key-5512",
    "TAILORBIRD_SERVE__READ_KEYS": "canary-read-key-5512",
    "TAILORBIRD_SERVE__ADMIN_KEYS": "canary-admin-key-5512",
}


def _ask(port: int, path: str, key: str, body: object = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers), timeout=20
        ) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, f"{error.headers}{error.read().decode()}"


def _has_arrived(project: Project) -> bool:
    """Return True if the event is in the lake, which may not exist yet."""
    try:
        return len(count_lake_events(project)) == 1
    except NotReadyError:
        return False


def test_no_secret_of_the_environment_is_in_any_output_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path / "shop")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    write, read, admin = SECRETS.values()
    up = Up(project).wait()
    texts: list[str] = []
    try:
        click = {"event_id": "t1", "type": "click", "user_id": "u1", "item_id": "i1"}
        status, text = _ask(up.port, "/v1/events", write, click)
        assert status == 200, "the keys are the ones in force"
        texts.append(text)
        for path, body in (
            ("/v1/events", click),
            ("/v1/events", {"type": "nonsense"}),
            ("/v1/recommend", {"user_id": "u1"}),
            ("/metrics", None),
        ):
            for key in (write, read, admin, "canary-wrong-key-5512"):
                texts.append(_ask(up.port, path, key, body)[1])
        until(lambda: _has_arrived(project), 60, "the event did not reach the lake")
    finally:
        up.stop()
    for command in (
        ["config", "show"],
        ["config", "show", "--json"],
        ["doctor"],
        ["lake", "verify"],
    ):
        done = tailorbird("-C", project.root, *command, env=SECRETS, timeout=60)
        texts.append(done.stdout + done.stderr)
    assert len([text for text in texts if text]) >= 20, "there was something to look through"
    assert not [text[:300] for text in texts if "canary-" in text]
    files = [path for path in project.root.rglob("*") if path.is_file()]
    assert up.log in files
    assert not [str(path) for path in files if b"canary-" in path.read_bytes()]
