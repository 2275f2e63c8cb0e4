"""Vectors of people in churn: kept where what people choose says who leaves, read alike offline and
online, and as groups of people.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from tests.support.churn_columns import declare_habits

from tailorbird.events import DAY, ROUTED
from tailorbird.features import FeatureSet, entity, sequence
from tailorbird.features.declare.checks import collect_features
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.ranking import Churn, Contact
from tailorbird.ranking.bundle import write_bundle
from tailorbird.ranking.calibration import Identity
from tailorbird.ranking.churn.bundle import CHURN_HEAD, ChurnBundle, space_files
from tailorbird.ranking.churn.plan import ChurnPlan, Part
from tailorbird.ranking.encode.rows import RaggedArrays
from tailorbird.ranking.tower_net import TOLERANCE
from tailorbird.registry import TrainingWindow
from tailorbird.training.fit.towers import TowerSettings
from tailorbird.training.tasks.churn.backtest import ChurnBacktest, ChurnSettings, run_backtest
from tailorbird.training.tasks.churn.segments import find_segments, group_by_taste
from tailorbird.training.tasks.churn.training_rows import FitSettings

pytestmark = pytest.mark.slow

pytest.importorskip("torch", reason="needs the extra `deep`")
pytest.importorskip("onnxscript", reason="needs the extra `deep`")

BEGIN = 20_000 * DAY
CHURN = Churn(window="28d", period="7d")
TOWER = TowerSettings(
    width=4,
    layers=1,
    heads=2,
    length=6,
    batch=32,
    steps_min=60,
    steps_max=60,
    interactions_min=100,
    rate=2e-2,
)
SETTINGS = ChurnSettings(
    FitSettings(gbdt=GbdtSettings(trees=30, rate=0.1, patience=10), rows=5_000),
    cuts=3,
    grid_rows=9_000,
    lateness_us=0,
    replicates=50,
    vectors=TOWER,
)


def declared():
    with collect_features() as declarations:
        user = entity("user")
        declare_habits(user)
        sequence("recent", user, "purchase", length=16)
    return FeatureSet.from_declarations(declarations)


def log(people=500, days=200, seed=0):
    """All buy alike often; who buys things q… leaves soon, who buys things l… stays."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(people):
        leaving = number % 2
        at, leaving_rate = float(rng.uniform(0, days * 0.8)), (0.35 if leaving else 0.01)
        while at < days:
            item = f"{'lq'[leaving]}{rng.integers(0, 8)}"
            row = {
                "type": "purchase",
                "ts": BEGIN + int(at * DAY),
                "person": f"u{number}",
                "item_id": item,
                "price": 2.0,
                "quantity": 1.0,
            }
            rows.append(row)
            if rng.random() < leaving_rate:
                break
            at += rng.exponential(9) + 1
    rows.sort(key=lambda row: row["ts"])
    full = [
        {
            "p": p,
            "event_id": str(p),
            "received_at": row["ts"],
            "counts": True,
            "timeless": False,
            **row,
        }
        for p, row in enumerate(rows, 1)
    ]
    return pa.Table.from_pylist(full, schema=ROUTED)


@pytest.fixture(scope="module")
def backtest():
    return run_backtest(declared(), CHURN, log(), now=BEGIN + 200 * DAY, settings=SETTINGS)


def test_vectors_are_used_if_they_separate_people(backtest: ChurnBacktest):
    assert backtest.tower is not None
    assert "are among the columns" in backtest.vectors_note
    assert backtest.people.columns.numeric[-1] == "user_vector_4"
    without_vectors = run_backtest(
        declared(), CHURN, log(), now=BEGIN + 200 * DAY, settings=replace(SETTINGS, vectors=None)
    )
    with_auc, without_auc = (
        each.cut_metrics[-1].results["tailorbird"]["auc"].value
        for each in (backtest, without_vectors)
    )
    assert with_auc > without_auc


def test_a_bundle_reads_them_as_training_did(backtest: ChurnBacktest, tmp_path):
    cut = backtest.cuts[-1]
    who, origin = cut.scores.person[:50], cut.scores.window.origin
    table = backtest.people.read_projected(origin, who, [origin])[0]
    matrix = cut.fitted.matrix(table)
    plan = ChurnPlan(
        "churn", ("purchase",), 28 * DAY, 0, 0, 7 * DAY, 4, 1 << 60, (Part("trees", "direct"),)
    )
    write_bundle(
        tmp_path / "bundle",
        created_at=origin,
        features=declared(),
        encoder=cut.fitted.encoder,
        models={"model/trees.onnx": cut.fitted.export("trees")},
        heads=plan.heads("none"),
        index=None,
        calibration={CHURN_HEAD: Identity()},
        extra_files=plan.files(),
        golden=matrix,
        window=TrainingWindow(0, origin),
        tower=space_files(backtest.people.space, backtest.tower),
    )
    bundle = ChurnBundle.load(tmp_path / "bundle", schema_hash=None)
    assert bundle.feature_columns.numeric == backtest.people.columns.numeric[:-4]
    batch = backtest.people.with_columns(bundle.feature_columns, bundle.space).read_projected(
        origin, who, [origin]
    )[0]
    np.testing.assert_allclose(batch.numeric, table.numeric, atol=TOLERANCE)
    people = backtest.activity.people.decode(who)
    past = log().filter(pa.array(log()["ts"].cast(pa.int64()).to_numpy() < origin))
    for at in (0, 7, 49):
        mine = past.filter(pa.compute.equal(past["person"], people[at]))
        keys = bundle.space.index.keys[bundle.space.index.find_ids(mine["item_id"].to_pylist())]
        one = RaggedArrays(np.array([0, len(keys)]), keys, mine["ts"].cast(pa.int64()).to_numpy())
        online = bundle.with_user_vector(table.numeric[at : at + 1, :-4], one)
        np.testing.assert_allclose(online[0], table.numeric[at], atol=TOLERANCE)
    probabilities = bundle.score([(table.numeric, table.categorical)]).churn_probability
    np.testing.assert_allclose(
        probabilities, cut.fitted.churn_probabilities(table, [])["trees"], atol=1e-5
    )


def test_groups_by_taste_are_named_by_what_they_choose(backtest: ChurnBacktest):
    cut = backtest.cuts[-1]
    who, origin = cut.scores.person, cut.scores.window.origin
    table = backtest.people.read_projected(origin, who, [origin])[0]
    groups = group_by_taste(backtest.people.space, table.numeric[:, -4:])
    assert sum(mask.sum() for mask in groups.values()) == len(who)
    leaving = np.array([int(name[1:]) % 2 for name in backtest.activity.people.decode(who)])
    for name, mask in groups.items():
        first = name.split("choose ")[1][0]
        if mask.sum() >= 30:
            assert abs(leaving[mask].mean() - (first == "q")) < 0.35
    taste_segments = find_segments(
        (),
        np.zeros((len(who), 0)),
        cut.probability,
        Contact(cost=0.1, value=100.0, success=0.5),
        groups,
    )
    assert taste_segments
    assert all(each.column == "taste" and each.lift > 1 for each in taste_segments)
