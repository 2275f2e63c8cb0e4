"""`features plan|apply|prune|backfill`: what each prints and does, on a small project with a few
hundred answers.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.support.commands import assert_refused, environment, must, must_json, tailorbird
from tests.support.roles import make_project
from tests.support.shops.evolving_shop import (
    change_features,
    make_item_events,
    make_visitor_events,
    promote,
)

from tailorbird.cli.main import run
from tailorbird.config import open_project
from tailorbird.events import SystemClock
from tailorbird.events.keys import hash64
from tailorbird.features.schemas import read_applied, state_folders
from tailorbird.features.state.state import open_state, read_position
from tailorbird.lake import Lake
from tailorbird.platform.inprocess import InProcessServer
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.messages import RecommendQuery
from tailorbird.stream import open_reader

pytestmark = pytest.mark.slow

CLOCK = SystemClock()
REQUEST_COUNT = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A project with answers in its lake; tests take copies."""
    project = make_project(tmp_path_factory.mktemp("change") / "shop")
    promote(project, project.features, "old")
    with (
        EventCollector(project.paths.stream, "serve-1", project.plan, CLOCK) as collector,
        InProcessRoles(project, CLOCK) as roles,
    ):
        collector.submit(json.dumps(make_item_events()).encode())
        roles.step()
        parts = InProcessServer(project, CLOCK, collector=collector, seed=1)
        for number in range(REQUEST_COUNT):
            collector.submit(json.dumps(make_visitor_events(number)).encode())
            answer = parts.pipeline.answer(RecommendQuery(slot="home", user_id=f"u{number % 7}"))
            assert answer.degraded == []
            roles.step()
        parts.close()
        collector.close()
        roles.drain()
    return project.root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "shop", ignore=shutil.ignore_patterns("*.lock"))
    return tmp_path / "shop"


def plan(project: Path, status: int) -> dict:
    done = tailorbird("-C", project, "features", "plan", "--json")
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def test_a_plan_without_a_change_has_status_0(project):
    plan_json = plan(project, 0)
    assert plan_json["schema"] == plan_json["applied"] == open_project(project).features.schema_hash
    assert (plan_json["changes"], plan_json["build"], plan_json["retrain"]) == ([], None, False)
    assert plan_json["bytes_before"] == plan_json["bytes_after"] > 0
    done = tailorbird("-C", project, "features", "plan")
    assert (done.returncode, "Nothing to do" in done.stdout) == (0, True)


def test_a_plan_lists_changes_and_costs(project):
    changed = change_features(open_project(project))
    plan_json = plan(project, 2)
    assert plan_json["schema"] == changed.features.schema_hash
    changes = {one["name"]: one for one in plan_json["changes"]}
    assert {name: one["change"] for name, one in changes.items()} == {
        "brand_views": "added",
        "user_dear": "added",
        "item_clicks_1d": "changed",
        "device": "removed",
    }
    assert changes["item_clicks_1d"]["changed_fields"] == "window: 1d by 2h → 2d by 4h"
    lines = (project / "features.py").read_text().splitlines()
    place = changes["brand_views"]["location"]
    assert place.startswith("features.py:")
    assert lines[int(place.partition(":")[2]) - 1].startswith("brand_views =")
    records = {one["entity"]: one for one in plan_json["records"]}
    layouts = {one.entity.name: one for one in changed.features.layout.entities}
    assert (
        records["user"]["state_after"]
        == layouts["user"].state_bytes
        > records["user"]["state_before"]
    )
    assert records["item"]["entities"] == 40
    assert 0 < records["item"]["state_mean"] < records["item"]["state_before"], (
        "as written, without its zeros"
    )
    assert 0 < records["item"]["state_mean_sampled"] < records["item"]["state_after"]
    assert (
        records["item.maker"]["state_before"],
        records["item.maker"]["entities"],
        records["item.maker"]["sampled"],
    ) == (0, None, 5)
    assert plan_json["attached"] == ["item.maker", "item.stock"], (
        "which no event carries yet, so they are looked up; item.price they do"
    )
    count = {name: one["entities"] or 0 for name, one in records.items()}
    assert plan_json["bytes_after"] == sum(
        count[name] * (one["state_after"] + one["reading_after"]) for name, one in records.items()
    )
    assert plan_json["build"]["rows"] == Lake(project / "data" / "lake").count("events")
    assert (
        0
        < plan_json["build"]["seconds_least"]
        <= plan_json["build"]["seconds"]
        <= plan_json["build"]["seconds_most"]
    )
    assert (plan_json["champion"], plan_json["retrain"]) == ("v0001", True)
    proofs = {one["name"]: one for one in plan_json["proofs"]}
    assert proofs["user_spend_28d"]["units_max"] * proofs["user_spend_28d"]["events"] < 1 << 63
    assert proofs["user_spend_28d"]["events"] >= 1 << 30
    done = tailorbird("-C", project, "features", "plan", "--no-measure")
    for text in ("brand_views", "mean now", "No sum overflows", "features apply", "train"):
        assert text in done.stdout
    assert read_applied(project / "data" / "state").schema == plan_json["applied"], (
        "a plan changes nothing"
    )


def test_a_plan_of_a_broken_file_names_the_line(project):
    with open(project / "features.py", "a") as file:
        file.write('count("x", item, "klick", window="7d")\n')
    assert_refused(
        tailorbird("-C", project, "features", "plan"),
        "features.py:",
        "'klick' is no event type",
        status=2,
    )


def position(project: Path):
    opened = open_project(project, use_applied=True)
    store = open_state(opened.paths.state, opened.features)
    with store.snapshot() as snapshot:
        read = read_position(snapshot)
    store.close()
    return read


def test_a_change_is_applied_without_up_resumed_rolled_back_and_pruned(project):
    state, old = project / "data" / "state", open_project(project).features.schema_hash
    new = change_features(open_project(project)).features.schema_hash
    assert_refused(
        tailorbird("-C", project, "features", "apply"), "nobody can be asked", "--yes", status=2
    )
    assert read_applied(state).schema == old
    killed = tailorbird(
        "-C",
        project,
        "features",
        "apply",
        "--yes",
        env={"TAILORBIRD_FAULTS": "worker.before_commit=kill@1"},
    )
    assert killed.returncode == -9
    summary = must_json("-C", project, "features", "apply", "--yes")
    assert (summary["schema"], summary["ready"]) == (new, True)
    with open_reader(project / "data" / "stream" / "routed.db") as log:
        assert position(project).log_position == log.end() - 1
    assert must_json("-C", project, "features", "apply")["changed"] is False, "nothing to ask about"
    assert must_json("-C", project, "features", "prune")["removed"] == {}, (
        "the champion reads the old one"
    )
    assert must_json("-C", project, "features", "verify")["unequal"] == 0, (
        "answers of the old schema too"
    )
    output = must("-C", project, "features", "apply", "--back", "--yes")
    assert "features.py still declares another schema" in output
    assert read_applied(state).schema == old
    removed = must_json("-C", project, "features", "prune")
    assert (list(removed["removed"]), removed["kept"]) == ([new], [old])
    assert state_folders(state) == [old]
    assert_refused(
        tailorbird("-C", project, "features", "apply", "--back", "--yes"),
        "no earlier schema",
        status=1,
    )


def test_train_uses_features_py_if_nothing_runs(project):
    changed = change_features(open_project(project))
    # too few answers to learn from; what counts is what it would have learned from
    tailorbird("-C", project, "train", "--quick")
    assert read_applied(project / "data" / "state").schema == changed.features.schema_hash


def rows(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in sorted(folder.glob("rows-*.parquet"))])


def test_a_backfill_of_logged_answers_is_what_was_logged(project, tmp_path):
    features = open_project(project).features
    summary = must_json("-C", project, "features", "backfill", "--out", tmp_path / "out")
    table = rows(tmp_path / "out")
    logged = (
        Lake(project / "data" / "lake")
        .table("answers")
        .sort_by([("ts", "ascending"), ("request_id", "ascending")])
    )
    assert (summary["requests"], summary["rows"], table.num_rows) == (
        REQUEST_COUNT,
        table.num_rows,
        len(pc.list_flatten(logged["items"])),
    )
    assert table["item"].to_pylist() == pc.list_flatten(logged["items"]).to_pylist()
    read = (
        pc.list_flatten(logged["numeric"])
        .to_numpy()
        .astype(np.float32)
        .reshape(-1, len(features.numeric))
    )
    for place, name in enumerate(features.numeric):
        assert np.array_equal(table[name].to_numpy(), read[:, place], equal_nan=True), name
    sequences = pq.read_table(tmp_path / "out" / "requests-00000.parquet")
    assert len(sequences["user_recent.ts"][-1]) > 3
    assert table["ts"].to_pylist() == [
        one
        for one, items in zip(logged["ts"].to_pylist(), logged["items"], strict=True)
        for _ in items
    ]
    texts = pq.read_table(tmp_path / "out" / "categories.parquet").to_pydict()
    text_of = dict(zip(texts["hash"], texts["text"], strict=True))
    assert all(hash64(text) == key for key, text in text_of.items())
    keys = {key for name in features.categorical for key in table[name].to_pylist() if key}
    keys |= {
        key
        for name in ("item", "type")
        for each in sequences[f"user_recent.{name}"].to_pylist()
        for key in each
        if key
    }
    assert keys
    assert keys <= text_of.keys(), "each hash has its text"


def test_only_an_added_feature_is_computed_and_spans_are_respected(project, tmp_path):
    out = tmp_path / "out"
    summary = must_json(
        "-C",
        project,
        "features",
        "backfill",
        "--out",
        out,
        "--only",
        "item_clicks_7d",
        "--only",
        "price",
    )
    assert summary["columns"] == ["item_clicks_7d", "price"]
    [first] = (out / "columns").glob("*/rows-00000.parquet")
    stamp = first.stat().st_mtime_ns
    summary = must_json(
        "-C", project, "features", "backfill", "--out", out, "--only", "user_clicks_7d"
    )
    assert set(summary["columns"]) == {"item_clicks_7d", "price", "user_clicks_7d"}
    assert first.stat().st_mtime_ns == stamp
    groups = [pq.read_schema(file).names for file in (out / "columns").glob("*/rows-00000.parquet")]
    assert sorted(groups) == [["item_clicks_7d", "price"], ["user_clicks_7d"]]
    assert_refused(
        tailorbird("-C", project, "features", "backfill", "--out", out, "--from", "2100-01-01"),
        "no answer was logged in that time",
        status=1,
    )


def test_a_killed_backfill_resumes_with_the_same_result(project, tmp_path):
    size = 60_000
    newest = pc.max(Lake(open_project(project).paths.lake).responses(["ts"])["ts"])
    people = pa.array([f"u{row % 7}" for row in range(size)])
    pq.write_table(
        pa.table(
            {
                "person": people,
                "item": pa.array([f"i{row % 5}" for row in range(size)]),
                "ts": pa.repeat(newest, size),
            }
        ),
        tmp_path / "wanted.parquet",
    )
    words = [
        "-C",
        project,
        "features",
        "backfill",
        "--requests",
        tmp_path / "wanted.parquet",
        "--memory",
        "16MiB",
        "--json",
        "--out",
    ]
    out = tmp_path / "killed"
    running = subprocess.Popen(
        [sys.executable, "-m", "tailorbird", *map(str, [*words, out])],
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    while not (finished := list(out.rglob("rows-00002.parquet"))) and running.poll() is None:
        time.sleep(0.002)
    running.kill()
    assert running.wait() == -signal.SIGKILL, "it was killed before its end"
    done = {
        file: file.stat().st_mtime_ns for file in finished[0].parent.glob("rows-0000[01].parquet")
    }
    must(*words, out)
    assert {file: file.stat().st_mtime_ns for file in done} == done, "finished parts are kept"
    must(*words, tmp_path / "whole")
    for pattern in ("rows-*.parquet", "requests-*.parquet"):
        files = sorted((tmp_path / "whole").glob(pattern))
        assert files
        assert all(file.read_bytes() == (out / file.name).read_bytes() for file in files)


def test_a_backfill_of_a_file_of_requests(project, tmp_path):
    events = Lake(project / "data" / "lake").events(["type", "person", "item_id", "ts"])
    clicks = events.filter(pc.equal(events["type"], "click")).sort_by("ts")
    pq.write_table(
        pa.table({"person": clicks["person"], "item": clicks["item_id"], "ts": clicks["ts"]}),
        tmp_path / "asked.parquet",
    )
    must(
        "-C",
        project,
        "features",
        "backfill",
        "--requests",
        tmp_path / "asked.parquet",
        "--out",
        tmp_path / "out",
        "--only",
        "user_clicks_7d",
    )
    table = rows(tmp_path / "out")
    assert {"person", "item", "ts"} <= set(table.column_names), "as they were asked for"
    assert table["person"].to_pylist() == clicks["person"].to_pylist()
    moments = clicks["ts"].cast(pa.int64()).to_numpy()
    people = np.array(clicks["person"].to_pylist())
    before = [
        int(np.sum((people == who) & (moments < t))) for who, t in zip(people, moments, strict=True)
    ]
    assert table["user_clicks_7d"].to_pylist() == before
    pq.write_table(pa.table({"who": ["u1"]}), tmp_path / "wrong.parquet")
    wrong = tailorbird(
        "-C",
        project,
        "features",
        "backfill",
        "--requests",
        tmp_path / "wrong.parquet",
        "--out",
        tmp_path / "out",
    )
    assert_refused(wrong, "expected columns person, item and ts, found who", status=2)
    new = tailorbird(
        "-C",
        project,
        "features",
        "backfill",
        "--requests",
        tmp_path / "wrong.parquet",
        "--out",
        tmp_path / "new",
    )
    assert_refused(new, "expected columns person, item and ts, found who", status=2)
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "out" / "columns.lock").exists()
    near = tailorbird(
        "-C", project, "features", "backfill", "--out", tmp_path / "out", "--only", "user_clicks"
    )
    assert_refused(near, "features.py declares no feature 'user_clicks'", "did you mean", status=2)
    small = tailorbird(
        "-C", project, "features", "backfill", "--out", tmp_path / "out", "--memory", "lots"
    )
    assert_refused(small, "expected a size such as 2GB", status=2)


def test_a_folder_keeps_to_its_first_run_however_the_lake_grows_and_is_for_nothing_else(
    project, tmp_path
):
    out, ask = tmp_path / "out", tmp_path / "asked.parquet"
    events = Lake(project / "data" / "lake").events(["person", "item_id", "ts"]).slice(0, 20)
    table = pa.table(
        {
            "person": events["person"],
            "item": pa.array([f"i{row}" for row in range(20)]),
            "ts": events["ts"],
        }
    )
    pq.write_table(table, ask)
    command = (
        "-C",
        project,
        "features",
        "backfill",
        "--requests",
        ask,
        "--out",
        out,
        "--only",
        "user_clicks_7d",
    )
    first = must_json(*command)
    [part] = (out / "columns").glob("*/rows-00000.parquet")
    stamp = part.stat().st_mtime_ns
    opened = open_project(project)
    with (
        EventCollector(opened.paths.stream, "serve-1", opened.plan, CLOCK) as collector,
        InProcessRoles(opened, CLOCK) as roles,
    ):
        collector.submit(json.dumps(make_visitor_events(1_000)).encode())
        collector.close()
        roles.drain()
    lake = Lake(project / "data" / "lake")
    assert (
        lake.newest_log_position() == pc.max(lake.table("events", ["p"])["p"]).as_py() > first["p"]
    )
    assert must_json(*command)["p"] == first["p"]
    assert part.stat().st_mtime_ns == stamp, "nothing was computed again"
    pq.write_table(table.slice(1), ask)
    assert_refused(tailorbird(*command), str(out), "other requests", status=2)
    assert part.stat().st_mtime_ns == stamp
    state = project / "data" / "state"
    before = sorted(state.iterdir())
    assert_refused(
        tailorbird("-C", project, "features", "backfill", "--out", state),
        str(state),
        "something else than a backfill",
        status=2,
    )
    assert sorted(state.iterdir()) == before


def test_an_interrupted_backfill_prints_that_it_can_be_resumed(
    project, tmp_path, monkeypatch, capsys
):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tailorbird.features.offline.shards.backfill_to", interrupted)
    monkeypatch.setenv("TAILORBIRD_PROJECT", str(project))
    with pytest.raises(SystemExit) as end:
        run(["features", "backfill", "--out", str(tmp_path / "out")])
    assert end.value.code == 130
    assert "run the same command again" in capsys.readouterr().err
