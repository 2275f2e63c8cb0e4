"""`tailorbird keys`: shown once, listed without secrets, replaced side by side, taken back."""

import json
from pathlib import Path

import pytest
from tests.support.commands import assert_refused, must, must_json, tailorbird

pytestmark = pytest.mark.slow


def test_a_key_is_shown_once_listed_without_it_replaced_and_revoked(fresh: Path) -> None:
    shown = must("-C", fresh, "keys", "create", "backend", "--scope", "read", "--scope", "write")
    token = next(line for line in shown.splitlines() if line.startswith("tb_"))
    key_id = token.split("_")[1]
    listed = must("-C", fresh, "keys", "list")
    assert key_id in listed
    assert token not in listed
    assert token.split("_", 2)[2] not in (fresh / "keys.json").read_text()
    new = must_json("-C", fresh, "keys", "create", "backend", "--replaces", key_id, "--keep", "2d")
    assert new["scopes"] == ["read", "write"]
    old, other = must_json("-C", fresh, "keys", "list")["keys"]
    assert (old["id"], other["id"], other["expires"]) == (key_id, new["id"], None)
    assert old["expires"] > old["created"]
    must("-C", fresh, "keys", "revoke", key_id)
    assert [key["id"] for key in must_json("-C", fresh, "keys", "list")["keys"]] == [new["id"]]
    for words in (["doctor", "--json"], ["config", "show"]):
        assert token not in tailorbird("-C", fresh, *words).stdout


def test_wrong_uses_say_what_to_do(fresh: Path) -> None:
    assert_refused(tailorbird("-C", fresh, "keys", "create", "x"), "expected scopes", status=2)
    assert_refused(
        tailorbird(
            "-C", fresh, "keys", "create", "x", "--scope", "read", "--origin", "https://a.example"
        ),
        "may only write",
        status=2,
    )
    assert_refused(
        tailorbird("-C", fresh, "keys", "create", "x", "--scope", "read", "--expires", "soon"),
        "expected a duration",
        status=2,
    )
    assert_refused(
        tailorbird("-C", fresh, "keys", "revoke", "nope"), "there is no key", "keys list", status=2
    )
    assert_refused(
        tailorbird("-C", fresh, "keys", "create", "x", "--replaces", "nope", "--scope", "read"),
        "there is no key",
        status=2,
    )
    (fresh / "keys.json").write_text("{}")
    assert_refused(tailorbird("-C", fresh, "keys", "list"), "no file of keys", status=2)


def test_a_key_for_pages_and_its_successor_identify_only_if_allowed(fresh: Path) -> None:
    page = (
        "-C",
        fresh,
        "keys",
        "create",
        "page",
        "--scope",
        "write",
        "--origin",
        "https://a.example",
    )
    assert must_json(*page)["identify"] is False
    created = must_json(*page, "--identify")
    assert created["identify"] is True
    replace = ("-C", fresh, "keys", "create", "page", "--replaces", created["id"])
    assert must_json(*replace)["identify"] is True
    assert must_json(*replace, "--no-identify")["identify"] is False
    assert "write, identify" in must("-C", fresh, "keys", "list")
    assert_refused(
        tailorbird("-C", fresh, "keys", "create", "x", "--scope", "write", "--identify"),
        "only a key for browsers",
        status=2,
    )


def test_the_keys_are_not_for_a_repository(fresh: Path) -> None:
    assert "keys.json" in (fresh / ".gitignore").read_text().splitlines()
    assert json.loads(must("-C", fresh, "keys", "list", "--json")) == {"keys": []}


def test_doctor_prints_access(fresh: Path) -> None:
    def collector_address(**env: str) -> tuple[str, str]:
        findings = json.loads(tailorbird("-C", fresh, "doctor", "--json", env=env).stdout)[
            "findings"
        ]
        return next((row["state"], row["found"]) for row in findings if row["what"] == "access")

    assert collector_address() == ("ok", "open to this machine, closed to others")
    assert collector_address(TAILORBIRD_SERVE__HOST="0.0.0.0")[0] == "error"
    must("-C", fresh, "keys", "create", "old", "--scope", "read", "--expires", "2d")
    state, description = collector_address(TAILORBIRD_SERVE__HOST="0.0.0.0")
    assert (state, description.startswith("1 key, 0.0.0.0")) == ("warning", True)
    (fresh / "keys.json").write_text("{}")
    assert collector_address()[0] == "error"
