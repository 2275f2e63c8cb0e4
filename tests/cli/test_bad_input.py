"""Whatever is wrong from outside: one sentence on stderr with its remedy, a status that is not 0,
no traceback, nothing lost.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.commands import (
    assert_refused,
    environment,
    must,
    must_json,
    run_each,
    tailorbird,
)

from tailorbird.platform.runtime.leftovers import PARENT_VARIABLE
from tailorbird.platform.runtime.supervisor import STABLE_S

EVENT = (
    '{"event_id": "e1", "type": "click", "ts": "2026-01-02T03:04:05Z", "user_id": "u1", '
    '"item_id": "i1"}'
)


WRONG_USE = [
    (["trian"], 'Did you mean "train"?', 2),
    (["import", "--gues", "x"], "Did you mean --guess?", 2),
    (["models", "promote", "v0001"], "a promotion needs a reason", 2),
    (["sql", "--rows", "many", "SELECT 1"], "unable to convert", 2),
    (["-C"], "-C needs a folder", 2),
    (["import", "parquet", "."], "use one of tailorbird, metarank, movielens, personalize", 2),
    (["import", "tailorbird", "no-such-file.jsonl"], "no such file or folder", 1),
    (["import", "tailorbird"], "expected FORMAT and PATH", 2),
    (["import", "mapping", "."], "--mapping FILE", 2),
    (["import", "mapping", ".", "--mapping", "gone.toml"], "no such file", 2),
    (["import", "--guess", "no-such-file.csv"], "no such file or folder", 1),
    (["recommend", "--slot", "hme"], "no slot 'hme'", 2),
    (["train", "hme"], "did you mean home?", 2),
    (
        ["train", "churn"],
        'write into churn.py: from tailorbird.ranking import Churn; churn = Churn("churn", '
        'types=("purchase",)',
        2,
    ),
    (
        ["score", "churn", "--out", "scores.parquet"],
        "there is no churn.py yet, which would declare 'churn'",
        2,
    ),
    (["models", "list", "--churn", "leaving"], 'churn = Churn("leaving"', 2),
    (["train", "--window", "7x"], "expected a duration", 2),
    (["train", "--as-of", "yesterday"], "expected a time", 2),
    (
        ["train", "--architecture", "dcn", "--parameters", "{epochs"],
        """write a JSON object, such as '{"epochs": 5}'""",
        2,
    ),
    (["train", "--architecture", "dcn", "--parameters", "[5]"], "--parameters", 2),
    (
        ["train", "--architecture", "dcn", "--parameters", '{"epoch": 5}'],
        "dcn has no parameter 'epoch'",
        2,
    ),
    (
        ["train", "--architecture", "auto", "--parameters", '{"epochs": "5"}'],
        "Expected `int`, got `str` - at `$.epochs`",
        2,
    ),
    (["train", "--architecture", "mlp", "--parameters", '{"dropout": 1}'], "from 0 to below 1", 2),
    (
        ["train", "--architecture", "mlp", "--parameters", '{"rate": 1e38}'],
        "above 0 and at most 1e+06",
        2,
    ),
    (["train", "--seed", "-1"], "--seed: expected 0 to 1,000,000,000, got -1", 2),
    (["tune", "--seed", "-1"], "--seed: expected 0 to 1,000,000,000, got -1", 2),
    (["validate", "--seed=-1"], "--seed: expected 0 to 1,000,000,000, got -1", 2),
    (
        ["features", "rank", "--seed", "99999999999"],
        "--seed: expected 0 to 1,000,000,000, got 99999999999",
        2,
    ),
    (
        ["train", "--parameters", '{"epochs": 5}'],
        "these are parameters of nets, and trees were asked for",
        2,
    ),
    (["experiment", "report", "hme"], "no slot 'hme'", 2),
    (["experiment", "estimate", "--bundle", "v9999"], "there is no version 'v9999'", 2),
    (["experiment", "report", "search"], "runs no experiment", 2),
    (["recommend", "--size", "1000"], "<= 200", 2),
    (["features", "show"], "expected user:ID", 2),
    (["features", "show", "u1"], "expected user:ID", 2),
    (["features", "show", "usr:u1"], "did you mean user:u1?", 2),
    (["features", "show", "user:u1", "user:u2"], "user is asked for twice", 2),
    (["features", "show", "item.category:"], "expected item.category:VALUE", 2),
    (["features", "show", "position:0"], "expected position of 1 to", 2),
    (["features", "show", "country:NO"], "declares nothing about country", 2),
    (
        ["features", "show", "user:u1", "item.category:c", "--item", "i1"],
        "expected one person to go with it",
        2,
    ),
    (["recommend", "--url", "http://127.0.0.1:9"], "no answer from", 1),
    (["recommend"], "nothing to recommend yet", 1),
    (["train"], "tailorbird import", 1),
    (["evaluate"], "tailorbird train makes one", 1),
    (["models", "list"], "tailorbird train makes one", 1),
    (["models", "show"], "there is no version", 2),
    (["models", "rollback", "--why", "x"], "no earlier champion", 1),
    (["sql", "SELECT 1"], "nothing in the lake yet", 1),
    (["experiment", "report"], "slot home runs no experiment", 2),
    (["features", "verify"], "nothing in the lake yet", 1),
    (["lake", "verify"], "nothing in the lake yet", 1),
    (["lake", "quarantine"], "nothing in the lake yet", 1),
    (["lake", "quarantine", "--limit", "-3"], "expected 0 or more, got -3", 2),
    (["simulate", "--out", "tailorbird.toml"], "already there", 2),
    (["simulate", "--out", "new.jsonl", "--days", "0"], "at least 1 day", 2),
    (["simulate", "--out", "new.jsonl", "--seed", "-1"], "--seed: expected 0 or more, got -1", 2),
    (["init", "."], "already there; nothing was written", 2),
]


@pytest.fixture(scope="module")
def wrong_use_results(
    untouched: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("wrong")
    project = shutil.copytree(untouched, folder / "fresh")
    return run_each([words for words, _, _ in WRONG_USE], cwd=project)


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", range(len(WRONG_USE)), ids=lambda place: " ".join(WRONG_USE[place][0])
)
def test_wrong_use(wrong_use_results: list[subprocess.CompletedProcess[str]], place: int) -> None:
    _, expected, status = WRONG_USE[place]
    assert_refused(wrong_use_results[place], expected, status=status)


def test_a_folder_that_is_no_project(tmp_path: Path) -> None:
    assert_refused(
        tailorbird("check", cwd=tmp_path), "no tailorbird.toml", "tailorbird init DIR", status=2
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[serve]\nprot = 1",
            "tailorbird.toml:2: unknown key serve.prot; did you mean serve.port?",
        ),
        ("[server]\nport = 1", "tailorbird.toml:1: unknown section server; did you mean serve?"),
        ("[serve]\nport = 'high'", "tailorbird.toml:2: serve.port: expected `int`"),
        ("[serve]\nport = 70000", "serve.port: expected `int` <= 65535"),
        ("[train]\nwindow = 'a week'", "train.window: expected a duration"),
        ("[train]\nslot = 'hoem'", "did you mean home?"),
        ("serve = [", "not valid TOML"),
        ("serve = 3", "expected a section [serve]"),
    ],
)
def test_wrong_settings(fresh: Path, text: str, expected: str) -> None:
    (fresh / "tailorbird.toml").write_text(text)
    assert_refused(tailorbird("check", cwd=fresh), expected, status=2)


def test_a_wrong_variable(fresh: Path) -> None:
    assert_refused(
        tailorbird("check", cwd=fresh, env={"TAILORBIRD_SERVE__PROT": "1"}),
        "environment",
        "TAILORBIRD_SERVE__PORT",
        status=2,
    )
    assert_refused(
        tailorbird("check", cwd=fresh, env={"TAILORBIRD_SERVE__PORT": "x"}),
        "environment TAILORBIRD_SERVE__PORT",
        status=2,
    )


@pytest.mark.slow
def test_unreadable_rows_are_quarantined_and_the_rest_is_imported(fresh: Path) -> None:
    invalid_rows = [
        "not json",
        '{"event_id": "e2", "type": "click", "ts": "2026-01-02T03:04:05Z", "user_id": 5, '
        '"item_id": "i"}',
    ]
    (fresh / "events.jsonl").write_text("\n".join([EVENT, *invalid_rows]) + "\n")
    done = tailorbird("import", "tailorbird", "events.jsonl", cwd=fresh)
    assert done.returncode == 0, done.stderr
    assert "Imported 1 of 3 rows" in done.stdout
    assert "events.jsonl:2: $: expected JSON" in done.stdout
    assert "events.jsonl:3: $.user_id: expected" in done.stdout
    quarantine = must_json("lake", "quarantine", cwd=fresh)
    assert {sample["body"] for sample in quarantine["samples"]} == set(invalid_rows)
    assert_refused(
        tailorbird("lake", "quarantine", "--reason", "bad_tim", cwd=fresh),
        "the reasons there are: malformed_json, wrong_type",
        status=2,
    )
    (data,) = (fresh / "data" / "lake" / "events").glob("day=2*/*.parquet")
    data.write_bytes(data.read_bytes()[:-300])
    assert_refused(
        tailorbird("lake", "events", "--out", "out.parquet", cwd=fresh),
        data.name,
        "lake repair",
        status=1,
    )
    data.unlink()
    assert_refused(
        tailorbird("lake", "events", "--out", "out.parquet", cwd=fresh),
        data.name,
        "lake repair",
        status=1,
    )
    (fresh / "data" / "lake" / "ledger.jsonl").unlink()
    assert_refused(tailorbird("lake", "compact", cwd=fresh), "ledger.jsonl is missing", status=1)
    assert "lake ledger: restore it from the backup" in tailorbird("doctor", cwd=fresh).stdout


def test_a_fully_unreadable_file_is_an_error_and_is_quarantined(fresh: Path) -> None:
    (fresh / "events.jsonl").write_text("not json\nnor this\n")
    done = tailorbird("import", "tailorbird", "events.jsonl", cwd=fresh)
    assert_refused(done, "none of its 2 rows is an event", "tailorbird lake quarantine", status=1)
    (counted,) = must_json("lake", "quarantine", cwd=fresh)["counts"]
    assert (counted["code"], counted["rows"], counted["paths"]) == ("malformed_json", 2, {"$": 2})


def test_an_empty_file_is_an_error(fresh: Path) -> None:
    (fresh / "events.jsonl").touch()
    assert_refused(
        tailorbird("import", "tailorbird", "events.jsonl", cwd=fresh),
        "no row was found in it",
        status=1,
    )
    (fresh / "mapping.toml").write_bytes("# für Klicks".encode("latin-1"))
    assert_refused(
        tailorbird("import", "mapping", "events.jsonl", "--mapping", "mapping.toml", cwd=fresh),
        "mapping.toml: cannot be read",
        "iconv",
        status=1,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["import", "tailorbird", "events.jsonl"],
        ["up"],
        ["run", "router"],
        ["run", "serve"],
        ["run", "lake"],
        ["run", "worker"],
        ["train"],
        ["recommend"],
        ["sql", "SELECT 1"],
    ],
    ids=" ".join,
)
def test_a_data_path_that_is_a_file(fresh: Path, words: list[str]) -> None:
    (fresh / "events.jsonl").write_text(EVENT)
    (fresh / "data").rmdir()
    (fresh / "data").write_text("in the way")
    assert_refused(tailorbird(*words, cwd=fresh), "project.data needs a folder", status=2)
    assert (fresh / "data").read_text() == "in the way"


def test_a_folder_below_data_that_cannot_be_made(fresh: Path) -> None:
    (fresh / "events.jsonl").write_text(EVENT)
    (fresh / "data" / "stream").write_text("in the way")
    assert_refused(tailorbird("import", "tailorbird", "events.jsonl", cwd=fresh), "data/stream")


@pytest.mark.slow
def test_an_explicit_port_in_use_is_an_error(fresh: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words in (["run", "serve"], ["up"]):
            assert_refused(
                tailorbird(*words, "--port", port, cwd=fresh),
                f"port {port} is in use",
                "--port 0",
                status=2,
            )


def test_a_slot_for_gorse_that_is_not_there(fresh: Path) -> None:
    done = tailorbird("run", "serve", cwd=fresh, env={"TAILORBIRD_SERVE__GORSE_SLOT": "nope"})
    assert_refused(done, "serve.gorse_slot: there is no slot 'nope'", "use one of home", status=2)


@pytest.mark.slow
def test_a_public_address_without_a_key(fresh: Path) -> None:
    assert_refused(tailorbird("run", "serve", "--host", "0.0.0.0", cwd=fresh), "key", status=2)
    done = tailorbird("up", cwd=fresh, env={"TAILORBIRD_SERVE__HOST": "0.0.0.0"})
    assert done.returncode == 2
    assert "cannot run as it is set up" in done.stdout


@pytest.mark.slow
def test_a_role_that_finds_out_late_that_it_cannot_run_ends_all_the_same(
    fresh: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, time\nif {PARENT_VARIABLE!r} in os.environ: time.sleep({2 * STABLE_S})\n"
    )
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = tailorbird(
        "up", cwd=fresh, env={"TAILORBIRD_SERVE__HOST": "0.0.0.0", "PYTHONPATH": path}
    )
    assert done.returncode == 2
    assert "starting it again" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("DROP TABLE events", "can only be read here"),
        ("SELECT 1; SELECT 2", "several"),
        ("SELEC 1", "expected one of SELECT"),
        ("SELECT nope FROM events", "cannot be run"),
        ("", "is empty"),
    ],
)
def test_sql_that_is_no_select(shop: Path, query: str, expected: str) -> None:
    before = must_json("sql", "SELECT count(*) AS n FROM events", cwd=shop)
    assert_refused(tailorbird("sql", query, cwd=shop), expected, status=2)
    assert must_json("sql", "SELECT count(*) AS n FROM events", cwd=shop) == before


ENDLESS = (
    "SELECT count(*) FROM events a, events b, events c, events d WHERE a.ts < b.ts AND c.ts "
    "< d.ts AND a.ts < d.ts"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bound", "expected"),
    [(["--timeout", "1s"], "gave up after 1 s"), (["--memory", "20MB"], "needs more than 19 MiB")],
)
def test_a_query_is_bound_in_time_and_memory(shop: Path, bound: list[str], expected: str) -> None:
    # A program that has loaded an engine sets no bounds, since threads do not survive a fork.
    done = tailorbird("sql", ENDLESS, *bound, cwd=shop, timeout=60, fork=False)
    assert_refused(done, expected, status=2)


@pytest.mark.slow
def test_a_query_ends_on_ctrl_c(shop: Path) -> None:
    command = [sys.executable, "-m", "tailorbird", "sql", ENDLESS]
    # which a shell ignores for what runs in its background
    query = subprocess.Popen(
        command,
        cwd=shop,
        env=environment(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children = Path(f"/proc/{query.pid}/task/{query.pid}/children")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(
        _computed_s(int(child)) > 3 for child in children.read_text().split()
    ):
        time.sleep(0.05)  # until the query itself is under way
    child = children.read_text().split()[0]
    os.killpg(query.pid, signal.SIGINT)
    assert query.wait(5) == 130
    assert not Path(f"/proc/{child}").exists()


def _computed_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_a_second_writer(fresh: Path) -> None:
    command = [sys.executable, "-m", "tailorbird", "run", "router"]
    first = subprocess.Popen(
        command, cwd=fresh, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        lock = fresh / "data" / "stream" / "routed.db.lock"
        while not (lock.exists() and lock.read_text().strip()):
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.02)
        assert_refused(
            tailorbird("run", "router", cwd=fresh), "routed.db", str(first.pid), status=1
        )
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait(10) == 0


def test_declarations_that_do_not_load(fresh: Path) -> None:
    (fresh / "features.py").write_text(
        "from tailorbird.features import count, entity\n\nx = count('x', entity('usr'), "
        "'click', window='1d')\n"
    )
    assert_refused(tailorbird("check", cwd=fresh), "features.py:3", status=2)
    must("config", "show", cwd=fresh)  # what does not need them goes on working


@pytest.mark.slow
def test_transforms_are_listed_and_an_invalid_one_names_its_line(fresh: Path) -> None:
    text = (
        fresh / "features.py"
    ).read_text() + "\nfrom tailorbird.features.transforms import impute, log, target, transform\n"
    (fresh / "features.py").write_text(
        text + 'transform("price", log(), impute("median"), indicator=True)\n'
    )
    assert "price: gives a model price, price_missing" in must("check", cwd=fresh)
    line = text.count("\n") + 1
    for wrong in (
        'transform("category", log())',
        'transform("colour")',
        'transform("category", target("wish"))',
    ):
        (fresh / "features.py").write_text(f"{text}{wrong}\n")
        assert_refused(tailorbird("check", cwd=fresh), f"features.py:{line}: transform: ", status=2)
