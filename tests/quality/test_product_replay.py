"""The real commands on a small news day, which is then served.

Lists know all earlier clicks, and beat current popularity.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.quality.product import project
from benchmarks.quality.product.baselines import run_baselines
from benchmarks.quality.product.figures import score_lists
from benchmarks.quality.product.log import draw_questions, make_log, read_rows, write_files
from benchmarks.quality.product.replay import SIZE, UNKNOWN, read_stream, replay
from benchmarks.quality.product.sets import Cut, DataSet, Small

from tailorbird.config import open_project
from tailorbird.events import DAY, HOUR, SECOND

T = 1_500_000_000_000_000 // DAY * DAY
DAYS, AN_HOUR, TOPICS = 3, 6, 4  # days of the log, articles that come each hour, topics
NEWS = DataSet(
    name="news",
    title="A small news site",
    folder="news",
    events="clicks.parquet",
    time="ts",
    person="user_id",
    session="session_id",
    item="item_id",
    cuts={"dev": lambda low, high: Cut(low, T + (DAYS - 1) * DAY, high + 1)},
    small=Small(2),
    repeats=False,
)


def write_clicks(folder: Path) -> None:
    """Write clicks of readers with a favourite topic, who come for four articles.

    New and good articles are read, and forgotten within hours.
    """
    rng = np.random.default_rng(0)
    hours = DAYS * 24
    born = np.repeat(np.arange(hours), AN_HOUR)
    quality, topic = rng.exponential(1.0, len(born)), rng.integers(0, TOPICS, len(born))
    rows: list[tuple[int, int, int, int]] = []
    for session in range(2_400):
        user = int(rng.integers(0, 600))
        begin = rng.uniform(4, hours)
        published = np.flatnonzero(born < begin)
        weight = quality[published] * np.exp(-(begin - born[published]) / 4) * np.where(topic[published] == user % TOPICS, 4.0, 1.0)
        read = rng.choice(published, 4, replace=False, p=weight / weight.sum())
        rows += [(T + int(begin * HOUR) + 40 * SECOND * place, user, session, int(item)) for place, item in enumerate(read)]
    ts, user, session, item = (np.array(column) for column in zip(*sorted(rows), strict=True))
    times = pa.array(ts, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"ts": times, "user_id": user, "session_id": session, "item_id": item}), folder / "clicks.parquet")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """Import, train and replay."""
    folder = tmp_path_factory.mktemp("news")
    write_clicks(folder)
    rows, cut = read_rows(NEWS, folder, "dev", small=False)
    log = make_log(NEWS, rows, cut)
    questions = draw_questions(NEWS, log, 600)
    write_files(NEWS, folder, rows, cut, folder / "train", test=False)
    write_files(NEWS, folder, rows, cut, folder / "test", test=True)
    project_facts = project.make_project(folder / "imported", folder / "train")
    assert project_facts["steps"]["import"]["report"]["accepted"] == log.test_from
    root = Path(project_facts["root"])
    trained = project.train(project_facts, root, 7, ["--quick"])
    stream = read_stream(open_project(root), root / "mapping.toml", folder / "test", cut.end)
    assert (len(stream.lines), stream.refused) == (len(log) - log.test_from, 0)
    return log, questions, trained, replay(root, stream, log, questions, seed=7)


@pytest.mark.nightly
@pytest.mark.slow
def test_what_is_served_beats_what_is_popular_at_the_same_moment(served: tuple) -> None:
    log, questions, trained, lists = served
    assert trained["report"]["promoted"] or trained["report"]["instead"], trained["report"]["reasons"]
    baselines, _ = run_baselines(NEWS, log, questions)
    weight = np.ones(len(log.items))
    ours = score_lists(lists.lists, questions, weight)["ndcg_10"].mean()
    ndcg_by_baseline = {name: score_lists(each, questions, weight)["ndcg_10"].mean() for name, each in baselines.items()}
    assert ours > max(ndcg_by_baseline[name] for name in ("clicked_1h", "clicked_24h", "clicked_7d")), (ours, ndcg_by_baseline)
    assert lists.candidate_recall.mean() > 0.85, "what nobody had read before is in no list"


@pytest.mark.nightly
@pytest.mark.slow
def test_what_is_served_knows_every_row_before_the_question(served: tuple) -> None:
    log, questions, _, lists = served
    assert lists.lists.shape == (len(questions), SIZE)
    assert (lists.lists < UNKNOWN).all()
    assert (lists.candidates > 0).all()
    for at, listed, recall in zip(questions.at, lists.lists, lists.candidate_recall, strict=True):
        clicked_items = log.item[:at][log.person[:at] == log.person[at]]
        assert not np.isin(listed, clicked_items).any(), "the slot hides what a person clicked before"
        assert recall or log.item[at] not in listed


def test_a_failing_command_reports_it(tmp_path: Path) -> None:
    failed = project.run_command(["tailorbird", "-C", str(tmp_path), "train"], may_fail=True)
    assert failed["failed"].startswith("ended with ")
    with pytest.raises(SystemExit, match="ended with"):
        project.run_command(["tailorbird", "-C", str(tmp_path), "train"])


@pytest.mark.nightly
@pytest.mark.slow
def test_training_as_of_the_latest_event_knows_the_last_hour(served: tuple) -> None:
    """Check that the report's hourly popularity is as good as live popularity."""
    log, questions, trained, _ = served
    baselines, _ = run_baselines(NEWS, log, questions)
    live = score_lists(baselines["clicked_1h"], questions, np.ones(len(log.items)))["ndcg_10"].mean()
    assert trained["report"]["results"]["popular:1h"]["ndcg_10"] > 0.7 * live
