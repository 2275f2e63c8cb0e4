"""From churn.py to a file of scores, by the command line."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.support.commands import environment, must, must_json, tailorbird
from tests.support.shops.churn_shop import CHURN, FEATURES, MAPPING, write_purchases

from tailorbird.cli.training.train import print_churn
from tailorbird.config import open_project
from tailorbird.events import HOUR, SimulatedClock
from tailorbird.lake import Lake
from tailorbird.privacy.files import writing_command
from tailorbird.ranking.churn.bundle import ChurnBundle
from tailorbird.serving.metrics import Metrics
from tailorbird.serving.models.churn import ChurnModels
from tailorbird.serving.models.schemas import LiveFeatureProvider
from tailorbird.training.backtests.leaks import find_backdated_imports
from tailorbird.training.tasks.churn.score import score_people

pytestmark = pytest.mark.slow


def write_users_table(bought: Path, file: Path) -> None:
    """A table of the users who bought, as it is exported on the last day: since when they are
    there, and what became of them.
    """
    spans = (
        pq.read_table(bought).group_by("user").aggregate([("ts", "min"), ("ts", "max")]).to_pylist()
    )
    end = max(each["ts_max"] for each in spans)
    rows = ["user,created_at,plan,exported"]
    for each in spans:
        plan = "cancelled" if each["ts_max"] < end - timedelta(days=30) else "paid"
        rows.append(f"{each['user']},{each['ts_min'].isoformat()},{plan},{end.isoformat()}")
    file.write_text("\n".join(rows) + "\n")


@contextmanager
def running(project: Path) -> Iterator[httpx.Client]:
    """`up` on the project, and a client of its server."""
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
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    try:
        wait_for(
            lambda: any((project / "data" / "run").glob("serve*.json")) and process.poll() is None
        )
        url = json.loads(next((project / "data" / "run").glob("serve*.json")).read_text())["url"]
        with httpx.Client(base_url=url, timeout=30) as http:
            yield http
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait_for(holds: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("churn") / "shop"
    must("init", folder)
    (folder / "features.py").write_text(FEATURES)
    (folder / "slots.py").write_text('from tailorbird.ranking import Slot\n\nhome = Slot("home")\n')
    (folder / "churn.py").write_text(CHURN)
    (folder / "mapping.toml").write_text(MAPPING)
    write_purchases(folder / "purchases.parquet")
    must(
        "-C",
        folder,
        "import",
        "mapping",
        folder / "purchases.parquet",
        "--mapping",
        folder / "mapping.toml",
    )
    return folder


@pytest.mark.slow
def test_train_list_and_score(project: Path, tmp_path: Path) -> None:
    early = tailorbird("-C", project, "score", "churn", "--out", tmp_path / "early.parquet")
    assert early.returncode == 1
    assert "there is no champion of churn yet" in early.stderr

    trained = must_json(
        "-C", project, "train", "churn", "--quick", "--as-of", "latest", "--no-promote"
    )
    assert trained["version"] == "v0001"
    assert trained["results"]["tailorbird"]["auc"] > 0.65
    assert Path(trained["report"]).read_text().count("<svg") >= 5
    unpromoted = tailorbird("-C", project, "score", "churn", "--out", tmp_path / "early.parquet")
    assert "score churn churn --version v0001 --out FILE" in unpromoted.stderr
    promoted = must(
        "-C", project, "models", "promote", "v0001", "--why", "a test", "--churn", "churn"
    )
    assert "models rollback --churn churn --why" in promoted, (
        "without it, the ranker would be rolled back"
    )
    assert must_json("-C", project, "models", "list", "--churn", "churn")["versions"][0][
        "aliases"
    ] == ["champion"]

    summary = must_json(
        "-C",
        project,
        "score",
        "churn",
        "--out",
        tmp_path / "churn.parquet",
        "--as-of",
        "latest",
        "--reasons",
        "20",
    )
    table = pq.read_table(tmp_path / "churn.parquet")
    assert summary["people"] == table.num_rows > 100
    newest = must_json("-C", project, "sql", "SELECT max(ts) AS ts FROM events WHERE NOT timeless")[
        "rows"
    ][0]["ts"]
    assert table["as_of"][0].as_py() - datetime.fromisoformat(newest) == timedelta(microseconds=1)
    assert datetime.fromisoformat(summary["log_until"]) == table["as_of"][0].as_py()
    after = (datetime.fromisoformat(newest) + timedelta(days=9, hours=1)).isoformat()
    output = must(
        "-C",
        project,
        "score",
        "churn",
        "--out",
        tmp_path / "after.parquet",
        "--as-of",
        after,
        "--reasons",
        "0",
    )
    assert "9 days before these scores: everybody counts as away since" in " ".join(output.split())
    next_day = (datetime.fromisoformat(newest) + timedelta(days=1, hours=1)).isoformat()
    output = must(
        "-C",
        project,
        "score",
        "churn",
        "--out",
        tmp_path / "after.parquet",
        "--as-of",
        next_day,
        "--reasons",
        "0",
    )
    assert "1 day before these scores: everybody counts" in " ".join(output.split())
    probabilities = table["gone"].to_numpy()
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert (np.diff(probabilities) <= 0).all()
    assert (table["purchases"].to_numpy() > 0).all()
    assert writing_command(tmp_path / "churn.parquet") == "score churn", "an erasure knows it again"
    assert len(set(table["person"].to_pylist())) == table.num_rows
    reasons = table["reasons"].to_pylist()
    assert all(reasons[:20])
    assert reasons[20:] == [None] * (table.num_rows - 20)
    assert summary["segments"]
    for segment in summary["segments"]:
        assert segment["people"] >= 30
        assert segment["lift"] > 1
        assert segment["expected"] > 0


@pytest.mark.slow
def test_a_server_and_the_batch_agree(project: Path, tmp_path: Path) -> None:
    """After the test above: the champion answers as soon as `up` has built the state, with what the
    lake gives.
    """
    with running(project) as http:
        wait_for(lambda: http.get("/v1/users/u1/churn").json().get("known"))
        server_answer = http.get("/v1/users/u1/churn", params={"explain": "true"}).json()
        assert server_answer["model"] == "v0001"
        assert 0 < server_answer["gone"] < 1
        assert {reason["column"] for reason in server_answer["reasons"]} <= {
            "since",
            "age",
            "bought",
            "bought_28d",
        }
        assert re.search(
            r"^(since|age|bought|bought_28d) is [\d,.]+( days| h| min| s)?: (raises|lowers) the chance of leaving from [\d.]+% to [\d.]+%$",
            server_answer["reasons"][0]["text"],
        )
        assert not http.get("/v1/users/nobody/churn").json()["known"]
        assert (
            http.get("/v1/users/u1/churn", params={"model": "chrun"}).json()["code"]
            == "unknown_model"
        )
        served = r'tailorbird_churn_bundle_info\{[^}]*name="churn"[^}]*version="v0001"[^}]*\} 1\.0'
        assert re.search(served, http.get("/metrics").text)

    opened = open_project(project)
    clock = SimulatedClock(int(time.time() * 1e6) + HOUR)
    schemas = LiveFeatureProvider(opened.paths.state, opened.features)
    models = ChurnModels({"churn": opened.paths.churn("churn")}, schemas, clock, Metrics())
    models.start()
    bundle = ChurnBundle.load(opened.paths.churn("churn") / "v0001", schema_hash=None)
    table = score_people(
        bundle, opened.churn["churn"], lake=opened.paths.lake, now=clock.now()
    ).table
    assert table.num_rows > 100
    for person, probability, bought in zip(
        *(table[name].to_pylist() for name in ("person", "gone", "purchases")), strict=True
    ):
        answer = models.answer(person, "churn")
        # A product of matrices in float32 is not that of one row to the last bit.
        assert (answer.gone, answer.purchases) == pytest.approx((probability, bought), rel=1e-5)
    models.stop()
    schemas.close()


def test_a_name_that_is_not_declared_is_refused(project: Path, tmp_path: Path) -> None:
    done = tailorbird("-C", project, "score", "churn", "chrun", "--out", tmp_path / "x.parquet")
    assert done.returncode == 2
    assert "churn.py declares no 'chrun'; it declares churn" in done.stderr


def test_options_of_a_slot_are_refused_for_a_churn_model(project):
    done = tailorbird(
        "-C",
        project,
        "train",
        "churn",
        "--window",
        "14d",
        "--architecture",
        "mmoe",
        "--incremental",
    )
    assert done.returncode == 2
    assert (
        "churn is a churn model, and --window, --architecture, --incremental are of a slot's"
        in done.stderr
    )


def make_shop_with_plans(folder: Path) -> None:
    """Of a churn model with the attribute `plan`; the purchases lie there and are not imported
    yet.
    """
    must("init", folder)
    plan = 'attribute("plan", user, "plan", kind="categorical")\n'
    (folder / "features.py").write_text(
        FEATURES.replace("import count", "import attribute, count") + plan
    )
    (folder / "churn.py").write_text(CHURN)
    (folder / "slots.py").write_text('from tailorbird.ranking import Slot\n\nhome = Slot("home")\n')
    write_purchases(folder / "purchases.parquet", people=150)


@pytest.mark.slow
def test_a_users_table_that_leaks_who_left_is_refused_unless_its_export_is_dated(
    tmp_path: Path,
) -> None:
    """Imported by the day of each sign-up, with what was known today; with the time of its export,
    nobody knew of it before.
    """
    results = []
    for arrival in ("", 'received_at = "exported"\n'):
        folder = tmp_path / f"shop{len(results)}"
        make_shop_with_plans(folder)
        write_users_table(folder / "purchases.parquet", folder / "users.csv")
        source = (
            f'file = "users.csv"\nkind = "users"\nts = "created_at"\n{arrival}user_id = '
            f'"user"\nproperties = {{ plan = "plan" }}\n'
        )
        (folder / "mapping.toml").write_text(f"{MAPPING}\n[[source]]\n{source}")
        must("-C", folder, "import", "mapping", folder, "--mapping", folder / "mapping.toml")
        results.append(
            tailorbird(
                "-C", folder, "train", "churn", "--quick", "--no-promote", "--as-of", "latest"
            )
        )
    dated_back, dated = results
    assert dated_back.returncode == 1
    assert "column plan looks past the origin" in " ".join(dated_back.stderr.split())
    assert dated.returncode == 0, dated.stderr


def write_segment_archive(bought: Path, file: Path) -> None:
    """Segment's archive of the same people: what they bought, and a plan that each told on the day
    of the first purchase.
    """
    rows, identified = [], set()
    for number, each in enumerate(pq.read_table(bought).to_pylist()):
        at, user = each["ts"].replace(tzinfo=UTC), each["user"]
        common = {
            "userId": user,
            "timestamp": at.isoformat(),
            "originalTimestamp": (at + timedelta(minutes=9)).isoformat(),
        }
        common |= {"sentAt": (at + timedelta(minutes=9)).isoformat(), "receivedAt": at.isoformat()}
        rows.append(
            common
            | {
                "type": "track",
                "messageId": f"t{number}",
                "event": "Order Completed",
                "properties": {"product_id": "i"},
            }
        )
        if user not in identified:
            rows.append(
                common
                | {
                    "type": "identify",
                    "messageId": f"i{user}",
                    "traits": {"plan": "paid" if int(user[-1]) % 2 else "free"},
                }
            )
            identified.add(user)
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")


@pytest.mark.slow
def test_traits_of_a_segment_archive_are_believed_as_segment_received_them(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    make_shop_with_plans(folder)
    write_segment_archive(folder / "purchases.parquet", folder / "segment.jsonl")
    must("-C", folder, "import", "segment", folder / "segment.jsonl")
    trained = tailorbird(
        "-C", folder, "train", "churn", "--quick", "--no-promote", "--as-of", "latest"
    )
    assert trained.returncode == 0, trained.stderr
    project = open_project(folder)
    assert (
        Lake(project.paths.lake).table("events", ["type"], ds.field("type") == "user").num_rows
        > 100
    )
    assert find_backdated_imports(Lake(project.paths.lake), project.features) == [], (
        "what `validate` asks"
    )


@pytest.mark.parametrize("name", ["churn.csv", "folder.parquet"])
def test_what_is_no_name_of_a_parquet_file_is_refused_before_anything_is_scored(
    project: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder.parquet").mkdir()
    done = tailorbird("-C", project, "score", "churn", "--out", tmp_path / name)
    assert done.returncode == 2
    assert f"{name} is no name of a Parquet file" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["folder.parquet"]


def test_a_baseline_without_a_figure_is_listed_last(capsys: pytest.CaptureFixture[str]) -> None:
    """One that overflows has no log loss: its cell is empty, and the training ends as any other."""
    figures = {
        "results": {
            "bg_nbd_count": {"auc": 0.5, "log_loss": None},
            "tailorbird": {"auc": 0.7, "log_loss": 0.4321},
            "rfm": {"log_loss": 0.5},
        },
        "origins": [{"origin": "2026-11-01T00:00:00Z"}],
    }
    report = SimpleNamespace(
        to_dict=lambda: figures,
        last=SimpleNamespace(cut=SimpleNamespace(churned=np.array([True, False]))),
        version="v0001",
        promoted=True,
        decision=SimpleNamespace(reason="first", reasons=("first",)),
        notes=(),
        curve=SimpleNamespace(best_k=0),
        page_path=None,
    )
    print_churn(report, "churn")  # type: ignore[arg-type]
    output = capsys.readouterr().out
    assert output.index("0.4321") < output.index("0.5000") < output.index("bg_nbd_count")
    assert "v0001 goes live" in output


def test_a_type_that_does_not_exist_is_refused(project: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for name in ("tailorbird.toml", "features.py", "slots.py"):
        (tmp_path / "p" / name).write_text((project / name).read_text())
    (tmp_path / "p" / "churn.py").write_text(
        CHURN.replace("Churn(window", 'Churn(types=("purchse",), window')
    )
    done = tailorbird("-C", tmp_path / "p", "check")
    assert done.returncode == 2
    assert "'purchse' is no event type" in done.stderr
    assert "did you mean purchase?" in done.stderr
    assert json.dumps(done.stderr).count("Traceback") == 0


@pytest.mark.slow
def test_the_time_after_the_end_of_a_log_is_not_churn(project: Path) -> None:
    """However long ago it was: behind its end nothing is known."""
    days = [(datetime.now(UTC) + timedelta(days=count)).date().isoformat() for count in (20, 60)]
    after, long_after = (
        must_json("-C", project, "train", "churn", "--quick", "--no-promote", "--as-of", day)
        for day in days
    )
    assert long_after["origins"] == after["origins"]
    assert long_after["results"] == after["results"]
