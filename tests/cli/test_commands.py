"""Output and effects of each command on a small trained shop."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from tests.support.commands import (
    EXAMPLE_USER,
    assert_refused,
    environment,
    must,
    must_json,
    tailorbird,
)
from tests.support.programs.addresses import address_of
from tests.support.roles import until

from tailorbird.file_lock import FileLock
from tailorbird.platform.runtime.supervisor import STOP_TIMEOUT_S

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(shop: Path, tmp_path: Path) -> Path:
    """The shop, to be changed."""
    shutil.copytree(shop, tmp_path / "shop", ignore=shutil.ignore_patterns("*.lock"))
    return tmp_path / "shop"


@pytest.fixture(scope="module")
def served(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A copy of the shop with all roles running; the project and the address."""
    project = tmp_path_factory.mktemp("served") / "shop"
    shutil.copytree(shop, project, ignore=shutil.ignore_patterns("*.lock"))
    command = [
        sys.executable,
        "-m",
        "tailorbird",
        "-C",
        str(project),
        "up",
        "--no-train",
        "--port",
        "0",
    ]
    # A busy machine must not leave out a stage of an answer.
    patient = {
        f"TAILORBIRD_SERVE__{stage}_MS": "10000"
        for stage in ("RETRIEVAL", "FEATURES", "RANKING", "POLICY", "QUEUE_TIMEOUT")
    }
    process = subprocess.Popen(command, env=environment(**patient), stdout=subprocess.DEVNULL)
    try:
        yield project, address_of(project, process)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def is_answering(url: str) -> bool:
    """Return whether a server answers: it drains only what it has begun to serve."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=10) as response:
            return response.status == 200
    except OSError:
        return False


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def _check_of_features(project: Path, day: str) -> dict[str, Any]:
    done = tailorbird("-C", project, "checks", "run", "--day", day, "--json")
    return next(check for check in json.loads(done.stdout)["checks"] if check["name"] == "features")


def _change_a_feature(answers: Path) -> None:
    """Change a logged feature, as if servers had read another value than the lake has."""
    rows = DeltaTable(answers).to_pyarrow_table()
    place, values = rows.column_names.index("numeric"), rows["numeric"].to_pylist()
    changed = pa.array(
        [[*each[:-1], each[-1] + 1.0] if each else each for each in values], rows["numeric"].type
    )
    write_deltalake(answers, rows.set_column(place, "numeric", changed), mode="overwrite")


def test_check_prints_the_declarations(shop: Path) -> None:
    summary = must_json("-C", shop, "check")
    assert summary["slots"] == ["home", "search"]
    assert summary["experiments"] == {"home": "home-model"}
    assert "item_ctr_7d" in summary["numeric"]
    assert summary["schema_hash"] in must("-C", shop, "check")


def test_from_a_subfolder_and_with_a_relative_folder(shop: Path) -> None:
    (shop / "notebooks").mkdir(exist_ok=True)
    assert must_json("check", cwd=shop / "notebooks") == must_json(
        "-C", shop.name, "check", cwd=shop.parent
    )


def test_config_show_prints_sources_and_hides_keys(shop: Path) -> None:
    env = {
        "TAILORBIRD_SERVE__READ_KEYS": "a-secret-key",
        "TAILORBIRD_SERVE__BODY_BYTES_MAX": "2048",
    }
    rows = {row["key"]: row for row in must_json("-C", shop, "config", "show", env=env)["settings"]}
    assert rows["serve.body_bytes_max"] == {
        "key": "serve.body_bytes_max",
        "value": 2048,
        "source": "environment TAILORBIRD_SERVE__BODY_BYTES_MAX",
    }
    assert rows["serve.port"]["source"].startswith("tailorbird.toml:")
    assert rows["lake.commit_rows"]["source"] == "default"
    for words in (["config", "show"], ["config", "show", "--json"], ["doctor"]):
        assert "a-secret-key" not in tailorbird("-C", shop, *words, env=env).stdout


def test_doctor_finds_a_healthy_project_healthy(shop: Path) -> None:
    findings = {row["what"]: row for row in must_json("-C", shop, "doctor")["findings"]}
    assert (
        findings["sqlite"]["state"]
        == findings["data folder"]["state"]
        == findings["clock"]["state"]
        == "ok"
    )
    assert "rows" in findings["log raw import"]["found"]


def test_doctor_reports_problems_with_fixes(copy: Path) -> None:
    (copy / "slots.py").write_text("1 / 0")
    done = tailorbird("-C", copy, "doctor")
    assert done.returncode == 1
    assert "slots.py:1" in done.stdout
    assert "What to do" in done.stdout


def test_doctor_names_a_damaged_log(copy: Path) -> None:
    log = copy / "data" / "stream" / "raw-import.db"
    content = bytearray(log.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4_096] = bytes(4_096)
    log.write_bytes(content)
    done = tailorbird("-C", copy, "doctor")
    assert "Traceback" not in done.stderr


def test_doctor_reports_roles_that_do_not_run_with_a_server(copy: Path) -> None:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {"TAILORBIRD_SERVE__PORT": str(server.server_port)}
    address_file = copy / "data" / "run" / "serve-1.json"
    address_file.parent.mkdir(exist_ok=True)
    try:
        findings = {
            row["what"]: row for row in must_json("-C", copy, "doctor", env=env)["findings"]
        }
        assert findings["port"]["state"] == "warning", "something else has it"
        assert "role router" not in findings, "nothing runs, and nothing needs to"
        address_file.write_text(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}))
        lock = FileLock(copy / "data" / "lake" / "ledger.jsonl")
        findings = {
            row["what"]: row for row in must_json("-C", copy, "doctor", env=env)["findings"]
        }
        lock.release()
    finally:
        server.shutdown()
        server.server_close()
    assert (
        findings["port"]["state"],
        "this project's own server" in findings["port"]["found"],
    ) == ("ok", True)
    assert (findings["role lake"]["state"], findings["role lake"]["found"]) == (
        "ok",
        f"runs as process {os.getpid()}",
    )
    assert findings["role router"]["state"] == "warning"
    assert "tailorbird run router" in findings["role router"]["fix"]


def test_doctor_without_a_project(tmp_path: Path) -> None:
    done = tailorbird("doctor", cwd=tmp_path)
    assert done.returncode == 1
    assert "tailorbird init DIR" in done.stdout


def test_recommend_in_this_process(shop: Path) -> None:
    answer = must_json("-C", shop, "recommend", "--user", EXAMPLE_USER, "--size", 5)
    assert len(answer["items"]) == 5
    assert answer["degraded"] == []
    assert answer["model"] != "fallback"
    assert all(item["attributes"]["title"] for item in answer["items"])


def test_recommend_finds_by_words_and_explains(shop: Path) -> None:
    title = must_json("-C", shop, "recommend")["items"][0]["attributes"]["title"]
    answer = must_json("-C", shop, "recommend", "--query", title, "--explain")
    assert title in [item["attributes"]["title"] for item in answer["items"]]
    assert answer["items"][0]["explanation"]["features"]
    assert "item_ctr_7d" in must("-C", shop, "recommend", "--query", title, "--explain")


def test_sql_as_table_json_and_csv(shop: Path) -> None:
    query = (
        "SELECT type, count(*) AS n FROM events WHERE type IN ('click', 'purchase') GROUP BY "
        "type ORDER BY type"
    )
    rows = must_json("-C", shop, "sql", query)["rows"]
    assert [row["type"] for row in rows] == ["click", "purchase"]
    assert (
        must("-C", shop, "sql", query, "--csv")
        == f"type,n\nclick,{rows[0]['n']}\npurchase,{rows[1]['n']}\n"
    )
    assert f"{rows[0]['n']:,}" in must("-C", shop, "sql", query)
    assert "more rows" in must("-C", shop, "sql", "SELECT event_id FROM events", "--rows", 3)


def test_sql_runs_nothing_in_a_spreadsheet(shop: Path) -> None:
    """Texts that were sent may begin as formulas do; numbers, and what a program asks for, stay as
    they are.
    """
    texts = ["=1+1", "+cmd|x", "-2+3", "@SUM(1)", "\t=1", "-5", "+3.5e2", "a=b", "-", "", "=5"]
    query = (
        " UNION ALL ".join(
            f"SELECT {place} AS n, '{text}' AS t, -{place}.5 AS v"
            for place, text in enumerate(texts)
        )
        + " ORDER BY n"
    )
    for more, marked in (([], {0, 1, 2, 3, 4, 10}), (["--as-is"], set())):
        rows = list(csv.reader(must("-C", shop, "sql", query, "--csv", *more).splitlines()))[1:]
        assert [row[1] for row in rows] == [
            f"'{text}" if place in marked else text for place, text in enumerate(texts)
        ]
        assert [row[2] for row in rows] == [f"-{place}.5" for place in range(len(texts))]


def test_a_reader_that_stops_early_is_no_error(shop: Path) -> None:
    line = f"{sys.executable} -m tailorbird -C {shop} sql 'SELECT * FROM events' --csv | head -1"
    done = subprocess.run(
        ["sh", "-c", line], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 1


def test_features_list_and_show(shop: Path) -> None:
    names = [feature["name"] for feature in must_json("-C", shop, "features", "list")["features"]]
    sizes = must_json("-C", shop, "features", "list", "--bytes")
    kinds = {kind["entity"]: kind for kind in sizes["kinds"]}
    identified = must_json(
        "-C",
        shop,
        "sql",
        "SELECT count(DISTINCT anonymous_id) AS n FROM events WHERE type = 'identify'",
    )
    assert sizes["aliases"]["count"] == identified["rows"][0]["n"]
    assert kinds["user"]["entities"] > 0
    assert 0 < kinds["user"]["state_bytes_each"] < 2_000
    assert (kinds["user"]["expired"], kinds["user"]["dropped"]) == (0, 0)
    assert {"item_clicks_7d", "user_recent", "price_to_habit"} <= set(names)
    someone = must_json(
        "-C",
        shop,
        "sql",
        "SELECT user_id AS u FROM events WHERE type = 'click' AND user_id IS NOT NULL ORDER "
        "BY ts DESC LIMIT 1",
    )
    user = someone["rows"][0]["u"]
    shown = must_json("-C", shop, "features", "show", f"user:{user}", "--events", 3)
    assert shown["person"] == user
    assert shown["features"]["user_clicks_7d"] > 0
    assert len(shown["events"]) == 3
    assert "item_clicks_7d" not in shown["features"]
    item = must_json("-C", shop, "recommend")["items"][0]["item_id"]
    assert (
        "item_clicks_7d"
        in must_json("-C", shop, "features", "show", f"user:{user}", "--item", item)["features"]
    )
    assert shown["unheard_of"] == []


def test_features_show_an_item_alone_and_names_entities_without_events(shop: Path) -> None:
    query = (
        "SELECT item_id AS i, count(*) AS n FROM events WHERE type = 'click' AND counts GROUP "
        "BY i ORDER BY n DESC, i LIMIT 1"
    )
    item = must_json("-C", shop, "sql", query)["rows"][0]["i"]
    shown = must_json("-C", shop, "features", "show", f"item:{item}", "--events", 3)
    assert shown["features"]["item_clicks_7d"] > 0
    assert not [name for name in shown["features"] if name.startswith("user")]
    assert (len(shown["events"]), shown["unheard_of"]) == (3, [])
    explained = must_json("-C", shop, "features", "show", f"item:{item}", "--why", "item_clicks_7d")
    assert explained["value"] == shown["features"]["item_clicks_7d"]
    then = must_json("-C", shop, "features", "show", f"item:{item}", "--at", "2020-01-01")
    assert (then["features"]["item_clicks_7d"], then["now"]["item_clicks_7d"]) == (
        0,
        shown["features"]["item_clicks_7d"],
    )
    output = must("-C", shop, "features", "show", "user:nobody-here", "--item", "nothing-here")
    assert "The lake has no event of nobody-here" in output
    assert "The lake has no event of nothing-here" in output
    assert_refused(
        tailorbird("-C", shop, "features", "show", "item:a", "--item", "b"),
        "expected a person to go with it",
        status=2,
    )


def test_features_show_a_category_and_a_person_in_it_now_then_and_explained(shop: Path) -> None:
    query = (
        "SELECT person AS u, item_profile AS c, session_id AS s, max(ts) AS last FROM events "
        "WHERE type = 'click' AND counts "
        "AND item_profile LIKE '%category%' GROUP BY u, c, s ORDER BY count(*) DESC, u, c, s "
        "LIMIT 1"
    )
    row = must_json("-C", shop, "sql", query)["rows"][0]
    category, person = f"item.category:{json.loads(row['c'])['category']}", f"user:{row['u']}"
    shown = must_json("-C", shop, "features", "show", category, "--events", 4)
    assert set(shown["features"]) == {"category_ctr_7d", "category_ctr_28d", "category_price_28d"}
    assert (len(shown["events"]), shown["unheard_of"]) == (4, [])
    explained = must_json(
        "-C", shop, "features", "show", category, person, "--why", "user_category_clicks_28d"
    )
    assert explained["value"] == len(explained["events"]) > 0
    assert {event["person"] for event in explained["events"]} == {row["u"]}
    both = must_json("-C", shop, "features", "show", category, person, "--at", row["last"])
    assert (
        0
        <= both["features"]["user_category_clicks_28d"]
        <= both["now"]["user_category_clicks_28d"]
        == explained["value"]
    )
    assert both["person"] == row["u"]
    assert all(event["ts"] < row["last"] for event in both["events"])
    output = must("-C", shop, "features", "show", "item.category:no-such-thing")
    assert "The lake has no event of item.category:no-such-thing" in output
    assert_refused(
        tailorbird("-C", shop, "features", "show", f"session:{row['s']}"),
        "declares nothing about session",
        status=2,
    )
    wrong = tailorbird("-C", shop, "features", "show", category, "--why", "user_clicks_7d")
    assert_refused(wrong, "user_clicks_7d is not about item.category", status=2)


def test_features_of_a_past_time_next_to_the_present(shop: Path) -> None:
    [most] = must_json(
        "-C",
        shop,
        "sql",
        "SELECT person AS u, min(ts) AS first, max(ts) AS last, max(p) AS p FROM events "
        "WHERE type = 'click' GROUP BY person ORDER BY count(*) DESC LIMIT 1",
    )["rows"]
    user, last = f"user:{most['u']}", most["last"]
    then = must_json("-C", shop, "features", "show", user, "--at", last)
    assert then["features"]["user_clicks_7d"] > 0
    assert "now" in then
    assert all(event["ts"] < last for event in then["events"])
    explained = must_json(
        "-C", shop, "features", "show", user, "--why", "user_clicks_7d", "--at", last
    )
    assert explained["value"] == then["features"]["user_clicks_7d"] == len(explained["events"])
    less = must_json("-C", shop, "features", "show", user, "--at", last, "--known", most["p"] - 1)
    assert less["p"] == most["p"] - 1
    nothing = must_json(
        "-C", shop, "features", "show", user, "--why", "user_clicks_7d", "--at", last, "--known", 0
    )
    assert (nothing["value"], nothing["events"]) == (0.0, [])
    assert_refused(
        tailorbird("-C", shop, "features", "show", user, "--known", 10**12),
        "the lake knows events up to",
        status=1,
    )
    assert_refused(
        tailorbird("-C", shop, "features", "show", user, "--known", -1),
        "expected a position",
        status=2,
    )
    assert "then" in must("-C", shop, "features", "show", user, "--at", last)


def test_features_verify_compares_a_sample_of_the_state_with_the_lake(shop: Path) -> None:
    report = must_json("-C", shop, "features", "verify", "--samples", 100)
    assert report["samples"] == 100
    assert report["compared"] > 100 * 20
    assert (report["unequal"], report["by_feature"], report["examples"]) == (0, {}, [])
    assert "5 people of the lake" in must("-C", shop, "features", "verify", "--samples", 5)


def test_a_feature_is_explained_by_its_events(shop: Path) -> None:
    query = (
        "SELECT user_id AS u, count(*) AS n FROM events WHERE type = 'click' AND counts AND "
        "user_id IS NOT NULL "
        "GROUP BY u ORDER BY n DESC, u LIMIT 1"
    )
    most = must_json("-C", shop, "sql", query)["rows"][0]
    explanation = must_json(
        "-C", shop, "features", "show", f"user:{most['u']}", "--why", "user_clicks_7d"
    )
    assert explanation["value"] == len(explanation["events"]) == most["n"]
    first = explanation["events"][0]["ts"]
    before = must_json(
        "-C",
        shop,
        "features",
        "show",
        f"user:{most['u']}",
        "--why",
        "user_clicks_7d",
        "--at",
        "2020-01-01",
    )
    assert (before["value"], before["events"]) == (0, [])
    assert all(event["type"] == "click" and event["ts"] >= first for event in explanation["events"])
    wrong = tailorbird("-C", shop, "features", "show", "user:u", "--why", "user_clics_7d")
    assert_refused(wrong, "did you mean user_clicks_7d?", status=2)
    assert_refused(
        tailorbird(
            "-C", shop, "features", "show", "user:u", "--why", "user_clicks_7d", "--at", "noon"
        ),
        "expected a time",
        status=2,
    )


def test_lake_verify_and_quarantine(shop: Path) -> None:
    assert must_json("-C", shop, "lake", "verify")
    assert "every row of it is accounted for" in must("-C", shop, "lake", "verify")
    counts = must_json("-C", shop, "lake", "quarantine", "--rows", 2)
    assert len(counts["samples"]) == 2
    assert sum(row["rows"] for row in counts["counts"]) >= 2
    assert "Refused, by reason" in must("-C", shop, "lake", "quarantine")
    code = counts["counts"][0]["code"]
    (only,) = must_json("-C", shop, "lake", "quarantine", "--reason", code, "--limit", 1)["counts"]
    assert only == counts["counts"][0]
    assert (only["replayed"], only["first"] <= only["last"]) == (0, True)
    assert must_json("-C", shop, "lake", "quarantine", "--since", "2100-01-01")["counts"] == []
    assert_refused(
        tailorbird("-C", shop, "lake", "replay", "--reason", "bad_tiem"),
        "nothing was refused for 'bad_tiem'",
        code,
        status=2,
    )


def test_the_lake_is_compacted_and_read_as_of_a_version(copy: Path) -> None:
    first = must_json("-C", copy, "lake", "events")
    for number in range(2):
        event = {
            "event_id": f"late-{number}",
            "type": "click",
            "user_id": "u1",
            "item_id": "i1",
            "ts": "2026-01-02T12:00:00Z",
        }
        (copy / "late.jsonl").write_text(json.dumps(event) + "\n")
        must("-C", copy, "import", "tailorbird", copy / "late.jsonl")
    before = must_json("-C", copy, "lake", "events")
    assert before["rows"] == first["rows"] + 2
    assert must_json("-C", copy, "lake", "compact", "--all-days")["removed_files"] > 0
    assert must_json("-C", copy, "lake", "compact", "--all-days") == {
        "removed_files": 0,
        "commits": 0,
    }
    assert must_json("-C", copy, "lake", "vacuum")["tables"] == {}, (
        "readers of today still have their files"
    )
    time.sleep(1.1)  # the shortest time to keep is a second
    briefly = {"TAILORBIRD_LAKE__HISTORY": "1s"}
    assert must_json("-C", copy, "lake", "vacuum", "--keep", "30d", env=briefly)["tables"] == {}, (
        "and keep what is asked for"
    )
    planned = must_json("-C", copy, "lake", "vacuum", "--dry-run", env=briefly)["tables"]
    assert (
        planned == must_json("-C", copy, "lake", "vacuum", "--keep", "1s", "--dry-run")["tables"]
    ), "which deletes nothing"
    deleted = must_json("-C", copy, "lake", "vacuum", "--keep", "1s")["tables"]
    assert planned.keys() == deleted.keys() == {"events", *deleted}
    assert must_json("-C", copy, "lake", "verify")["faults"] == []
    now = must_json("-C", copy, "lake", "events")
    assert (now["rows"], now["positions"]) == (before["rows"], before["positions"])
    trained = must_json("-C", copy, "models", "show")
    out = copy / "read.parquet"
    summary = must_json("-C", copy, "lake", "events", "--bundle", trained["version"], "--out", out)
    assert summary["rows"] == first["rows"]
    assert out.stat().st_size > 0
    assert "has 0 rows" in must("-C", copy, "lake", "events", "--at-version", 0)
    assert_refused(
        tailorbird("-C", copy, "lake", "events", "--at-version", 9_999), "no version 9999", status=2
    )
    assert_refused(
        tailorbird("-C", copy, "lake", "vacuum", "--keep", "often"), "expected a duration", status=2
    )


def test_the_data_of_a_day_is_checked(copy: Path) -> None:
    (row,) = must_json(
        "-C", copy, "sql", "SELECT CAST(max(day) AS STRING) AS day FROM events WHERE NOT timeless"
    )["rows"]
    out = copy / "page.html"
    report = must_json("-C", copy, "checks", "run", "--day", row["day"], "--out", out)
    status = {check["name"]: check["status"] for check in report["checks"]}
    assert (status["gaps"], status["duplicates"], status["volume"]) == ("ok", "ok", "none")
    assert row["day"] in out.read_text()
    assert (copy / "data" / "checks" / f"{row['day']}.json").exists()
    (copy / "contract.toml").write_text("[purchase]\ndaily_min = 1000000\n")
    (copy / "told.py").write_text("import sys; open('told.json', 'w').write(sys.stdin.read())")
    env = {"TAILORBIRD_CHECKS__ALERT": f"{sys.executable} {copy / 'told.py'}"}
    failed = tailorbird(
        "-C", copy, "checks", "run", "--day", row["day"], "--alert", cwd=copy, env=env
    )
    assert failed.returncode == 1
    assert "at least 1,000,000 are declared" in failed.stdout
    assert [
        one["name"]
        for one in json.loads((copy / "told.json").read_text())["checks"]
        if one["status"] == "failed"
    ] == ["volume"]
    assert_refused(
        tailorbird("-C", copy, "checks", "run", "--day", "2001-01-01"),
        "no event of 2001-01-01",
        status=1,
    )
    assert_refused(
        tailorbird("-C", copy, "checks", "run", "--day", "monday"), "expected a day", status=2
    )
    assert_refused(
        tailorbird("-C", copy, "checks", "run", "--day", "2100-01-01"), "has not come yet", status=2
    )


def test_lake_verify_finds_a_changed_byte(copy: Path) -> None:
    archived = next(
        path
        for path in (copy / "data" / "lake" / "archive").rglob("*")
        if path.is_file() and path.stat().st_size > 10_000
    )
    content = bytearray(archived.read_bytes())
    content[5_000] ^= 1
    archived.write_bytes(content)
    done = tailorbird("-C", copy, "lake", "verify")
    assert done.returncode == 1
    assert archived.name in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_models_are_listed_shown_promoted_and_rolled_back(copy: Path) -> None:
    versions = must_json("-C", copy, "models", "list")["versions"]
    newest = next(one["version"] for one in versions if one["aliases"] == ["champion"])
    oldest = versions[-1]["version"]
    assert must_json("-C", copy, "models", "show")["version"] == newest
    assert "Quality" in must("-C", copy, "models", "show", newest)
    if newest != oldest:
        output = must("-C", copy, "models", "promote", oldest, "--why", "to see")
        shown = must_json("-C", copy, "models", "show")
        assert (shown["version"], "It has no model" in output) == (oldest, not shown["heads"])
        must("-C", copy, "models", "rollback", "--why", "seen")
        assert must_json("-C", copy, "models", "show")["version"] == newest
    assert_refused(
        tailorbird("-C", copy, "models", "promote", "v9999", "--why", "x"),
        "no version 'v9999'",
        status=2,
    )


def test_a_damaged_model_is_not_promoted(copy: Path) -> None:
    folder = copy / "data" / "registry"
    version = must_json("-C", copy, "models", "show")["version"]
    file = next(path for path in (folder / version).rglob("*.onnx"))
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert_refused(tailorbird("-C", copy, "models", "show"), version)
    assert_refused(tailorbird("-C", copy, "evaluate"), version)


def test_evaluate_compares_the_champion_with_the_baselines(shop: Path) -> None:
    champion = must_json("-C", shop, "models", "show")["version"]
    evaluation = must_json("-C", shop, "evaluate", "--quick")
    assert {champion, "popular:24h", "popular:7d"} <= set(evaluation["results"])
    for figures in evaluation["results"].values():
        assert figures["ndcg_10_low"] <= figures["ndcg_10"] <= figures["ndcg_10_high"]
    assert list(evaluation["learned_until"]) == [champion]
    assert "learned from what came before" in must("-C", shop, "evaluate", champion, "--quick")
    assert_refused(tailorbird("-C", shop, "evaluate", "v9999"), "no version 'v9999'", status=2)


def test_an_experiment_without_exposure_is_reported_as_such(shop: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert "Nobody has been in this experiment yet" in must(
        "-C", shop, "experiment", "report", "--html", page
    )
    assert "<svg" in page.read_text()


def test_guess_proposes_a_mapping_with_ten_rows_and_reasons(fresh: Path) -> None:
    rows = "".join(f"{1_700_000_000 + i},u{i},i{i}\n" for i in range(20))
    (fresh / "clicks.csv").write_text("time,user_id,item_id\n" + rows)
    done = tailorbird("import", "--guess", "clicks.csv", cwd=fresh)
    assert done.returncode == 0
    assert "its name is usual for it" in done.stderr
    assert done.stderr.count('"type":"click"') == 10
    (fresh / "mapping.toml").write_text(done.stdout)
    compacting = FileLock(fresh / "data" / "lake" / "ledger.jsonl")
    output = must("import", "mapping", "clicks.csv", "--mapping", "mapping.toml", cwd=fresh)
    assert "Imported 20 of 20 rows" in output
    assert "import the same again" in output
    compacting.release()
    report = must_json("import", "mapping", "clicks.csv", "--mapping", "mapping.toml", cwd=fresh)
    assert (report["already"], report["routed"]) == (
        True,
        {"accepted": 20, "duplicates": 0, "quarantined": 0},
    )
    assert "imported before" in must(
        "import", "mapping", "clicks.csv", "--mapping", "mapping.toml", cwd=fresh
    )


def test_up_ends_its_roles_in_order_after_a_broken_pipe(copy: Path) -> None:
    """As of `up | tee log` of which a Ctrl-C ended `tee` first."""
    up = subprocess.Popen(
        [sys.executable, "-m", "tailorbird", "-C", str(copy), "up", "--port", "0", "--no-train"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TAILORBIRD_SERVE__LOG_FORMAT="json"),
    )
    assert up.stdout is not None
    assert up.stderr is not None
    try:
        assert {"time", "role", "message"} <= json.loads(up.stdout.readline()).keys()
        up.stdout.close()
        assert (up.wait(120), up.stderr.read()) == (0, "")
    finally:
        up.kill()


@pytest.mark.nightly
@pytest.mark.slow
def test_up_waits_for_a_server_that_drains_longer_than_another_role_may_take_to_stop(
    copy: Path,
) -> None:
    drain_s = STOP_TIMEOUT_S + 1
    up = subprocess.Popen(
        [sys.executable, "-m", "tailorbird", "-C", str(copy), "up", "--port", "0", "--no-train"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(TAILORBIRD_SERVE__DRAIN_FOR=f"{drain_s:.0f}s"),
    )
    try:
        url = address_of(copy, up)
        until(lambda: is_answering(url), 60, "the server does not answer")
        stopped_at = time.monotonic()
        up.send_signal(signal.SIGTERM)
        output, _ = up.communicate(timeout=120)
    finally:
        up.kill()
    assert up.returncode == 0
    assert time.monotonic() >= stopped_at + drain_s
    assert "did not stop" not in output


def test_up_answers_though_the_registry_is_damaged_and_starts_all_once_it_is_mended(
    copy: Path,
) -> None:
    aliases = copy / "data" / "registry" / "aliases.json"
    intact = aliases.read_bytes()
    aliases.write_bytes(b"{")
    command = [
        sys.executable,
        "-m",
        "tailorbird",
        "-C",
        str(copy),
        "up",
        "--no-train",
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    try:
        url = address_of(copy, process)
        deadline = time.monotonic() + 120
        # the log is being read
        while not (answer := _post(f"{url}/v1/recommend", {"slot": "home", "user_id": "nobody"}))[
            "items"
        ]:
            assert time.monotonic() < deadline
        assert answer["model"] == "fallback"
        assert "model" in answer["degraded"]
        assert (
            _post(
                f"{url}/v1/events",
                {"event_id": "meanwhile", "type": "click", "item_id": "i1", "user_id": "u1"},
            )["accepted"]
            == 1
        )
        aliases.write_bytes(intact)
        while not must_json("-C", copy, "sql", "SELECT 1 FROM events WHERE event_id = 'meanwhile'")[
            "rows"
        ]:
            assert time.monotonic() < deadline
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_answers_of_a_running_server_reach_lake_parity_and_report(
    served: tuple[Path, str], tmp_path: Path
) -> None:
    project, url = served
    for number in range(30):
        who = {"user_id": f"u{number:06}", "session_id": f"s{number}"}
        answer = _post(f"{url}/v1/recommend", {"slot": "home", **who})
        shown = [item["item_id"] for item in answer["items"]]
        seen = {
            "event_id": f"i{number}",
            "type": "impression",
            "items": shown,
            "request_id": answer["request_id"],
            **who,
        }
        clicked = {
            "event_id": f"c{number}",
            "type": "click",
            "item_id": shown[0],
            "request_id": answer["request_id"],
            **who,
        }
        assert (
            _post(f"{url}/v1/events", seen)["accepted"]
            == _post(f"{url}/v1/events", clicked)["accepted"]
            == 1
        )
    recommendation = must_json("-C", project, "recommend", "--user", EXAMPLE_USER)
    assert len(recommendation["items"]) == 12
    assert must_json("-C", project, "recommend", "--url", url)["items"]
    assert_refused(tailorbird("-C", project, "recommend", "--size", 1_000), "<= 200", status=2)
    deadline = time.monotonic() + 60
    query = "SELECT count(*) AS n FROM answers"
    while must_json("-C", project, "sql", query)["rows"][0]["n"] < 31:
        assert time.monotonic() < deadline
    report = must_json("-C", project, "features", "verify")
    assert report["answers"] >= 31
    assert report["compared"] > 0
    assert report["unequal"] == 0
    rescored = must_json("-C", project, "models", "verify")
    # the holdout of the previous version may have answered some of them
    by_version = rescored["versions"]
    versions = by_version.values()
    champion = max(by_version, key=lambda name: by_version[name]["scores"])
    assert rescored["unequal"] == sum(version["other_bits"] for version in versions) == 0
    # what arms without a model showed is passed over
    assert sum(version["answers"] + version["skipped"] for version in versions) >= 31
    assert sum(version["scores"] for version in versions) >= 60
    assert "what the bundle says" in must("-C", project, "models", "verify", "champion")
    changed = tmp_path / "changed"
    shutil.copytree(
        project, changed, ignore=shutil.ignore_patterns("*.lock", "stream", "state", "run")
    )
    day = must_json("-C", changed, "sql", "SELECT max(ts) AS newest FROM answers")["rows"][0][
        "newest"
    ][:10]
    assert _check_of_features(changed, day)["status"] == "ok"
    _change_a_feature(changed / "data" / "lake" / "answers")
    check = _check_of_features(changed, day)
    assert check["status"] == "failed"
    assert re.match(r"\d+ values of price_to_category differ from the lake", check["explanation"])
    calibration = project / "data" / "registry" / champion / "calibration.json"
    intact = calibration.read_bytes()
    calibration.write_bytes(intact + b" ")
    damaged = tailorbird("-C", project, "models", "verify")
    assert (damaged.returncode, "are not compared" in damaged.stderr) == (1, True)
    calibration.write_bytes(intact)
    page = tmp_path / "report.html"
    experiment_report = must_json(
        "-C", project, "experiment", "report", "home", "--since", "1h", "--html", page
    )
    assert sum(arm["users"] for arm in experiment_report["arms"]) >= 30
    assert sum(arm["clicks"] for arm in experiment_report["arms"]) == 30
    assert experiment_report["verdict"] in page.read_text()


def test_import_where_the_roles_are_running_leaves_the_rest_to_them(
    served: tuple[Path, str], tmp_path: Path
) -> None:
    project, _ = served
    event = (
        '{"event_id": "late", "type": "wish", "ts": "2026-01-02T03:04:05Z", "user_id": '
        '"nobody-else"}'
    )
    (tmp_path / "e.jsonl").write_text(event.replace("wish", "view"))
    assert "If it is `up` or a role, it processes these events" in must(
        "-C", project, "import", "tailorbird", tmp_path / "e.jsonl"
    )
    deadline = time.monotonic() + 30
    query = "SELECT count(*) AS n FROM events WHERE user_id = 'nobody-else'"
    while must_json("-C", project, "sql", query)["rows"][0]["n"] != 1:
        assert time.monotonic() < deadline


def test_up_twice_is_refused(served: tuple[Path, str]) -> None:
    assert_refused(tailorbird("-C", served[0], "up"), "running already", status=1)


def test_import_finds_out_the_format_itself(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(
        "USER_ID,ITEM_ID,TIMESTAMP\nu,i,1586735164\nu,i,soon\n"
    )
    report = must_json("-C", fresh, "import", "auto", tmp_path / "interactions.csv")
    assert (report["format"], report["accepted"], report["refused"]) == (
        "personalize",
        1,
        {"bad_time": 1},
    )
    assert report["examples"] == [
        f'{tmp_path}/interactions.csv:3: $.TIMESTAMP: expected seconds since 1970, got "soon"'
    ]
    assert must_json("import", "--guess", tmp_path / "interactions.csv") == {
        "format": "personalize"
    }


def test_import_prints_what_it_skipped(fresh: Path, tmp_path: Path) -> None:
    rows = [
        {"event_name": name, "event_timestamp": 1586735164000000, "user_pseudo_id": "v"}
        for name in ("scroll", "page_view", "scroll")
    ]
    (tmp_path / "e.json").write_text("\n".join(json.dumps(row) for row in rows))
    assert "Left out, since they say nothing about people and items: 2 scroll." in must(
        "-C", fresh, "import", "ga4", tmp_path / "e.json"
    )


def test_what_was_refused_is_replayed_after_a_fix(fresh: Path) -> None:
    events = [
        {
            "event_id": f"e{n}",
            "type": "zoomed",
            "user_id": "u",
            "item_id": "i",
            "ts": "2026-01-02T03:04:05Z",
        }
        for n in range(3)
    ]
    (fresh / "events.jsonl").write_text(
        "\n".join(
            json.dumps(event)
            for event in [*events, {**events[0], "event_id": "e9", "type": "click"}]
        )
    )
    must("import", "tailorbird", "events.jsonl", cwd=fresh)
    before = must_json("lake", "replay", "--reason", "unknown_type", cwd=fresh)
    assert (before["accepted"], before["refused"]) == (0, {"unknown_type": 3})
    settings = fresh / "tailorbird.toml"
    settings.write_text(settings.read_text().replace("types = []", 'types = ["zoomed"]'))
    dry = must_json("lake", "replay", "--reason", "unknown_type", "--dry-run", cwd=fresh)
    assert (dry["accepted"], dry["routed"]) == (3, None)
    # as `lake compact` holds it, which routes nothing
    compacting = FileLock(fresh / "data" / "lake" / "ledger.jsonl")
    output = " ".join(must("lake", "replay", "--reason", "unknown_type", cwd=fresh).split())
    compacting.release()
    assert "If it is `up` or a role, it processes these events" in output
    assert "After any other command, replay the same again" in output
    output = must("lake", "replay", "--reason", "unknown_type", cwd=fresh)
    assert "Routed 3 events, 0 repeats, 0 to quarantine" in output
    assert (
        must_json("lake", "replay", "--reason", "unknown_type", cwd=fresh)["replayed_before"] == 3
    )
    assert must_json("lake", "quarantine", cwd=fresh)["counts"][0]["replayed"] == 3
    assert must_json("sql", "SELECT count(*) AS n FROM events WHERE type = 'zoomed'", cwd=fresh)[
        "rows"
    ] == [{"n": 3}]
    assert must_json("lake", "verify", cwd=fresh)["faults"] == []
    tailorbird("train", cwd=fresh)  # too few events for a model, and enough for an index
    assert_refused(
        tailorbird("lake", "events", "--bundle", "v0001", cwd=fresh),
        "v0001 was trained on no events",
        "models list",
        status=2,
    )


def test_doctor_names_an_attribute_that_no_item_has(copy: Path) -> None:
    slots = copy / "slots.py"
    slots.write_text(slots.read_text().replace("item.stock > 0", "item.stok > 0"))
    output = tailorbird("-C", copy, "doctor").stdout
    assert "item.stok is asked for, and no item has it" in output
    assert "did you mean item.stock?" in output


def test_rule_costs_are_printed_and_a_formula_is_set_from_the_shell(copy: Path) -> None:
    report = json.loads(must("-C", copy, "rules", "report", "--requests", "5", "--json"))
    assert "rule item.stock > 0" in {rule["rule"] for rule in report["rules"]}
    assert (copy / "data" / "reports" / "rules-home.html").exists()
    must("-C", copy, "formula", "set", "home", "2*click", "--why", "a test")
    [home] = [
        each
        for each in json.loads(must("-C", copy, "formula", "show", "--json"))["formulas"]
        if each["slot"] == "home"
    ]
    assert (home["formula"], home["version"], home["why"]) == ("2.0*click", "f0001", "a test")
    assert "orders by -1.0*click" in must(
        "-C", copy, "formula", "set", "home", "-1.0*click", "--why", "what nobody wants"
    )
    refused = tailorbird("-C", copy, "formula", "set", "home", "clik", "--why", "a test")
    assert refused.returncode == 2
    assert "did you mean click?" in refused.stderr
