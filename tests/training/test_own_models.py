"""A project's own model and source are trained, judged, exported and served; the pages' examples
are what runs here.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tailorbird as tb
from tailorbird.errors import BundleError, DeclarationError, TailorbirdError
from tailorbird.models.deep.layout import build_layout
from tailorbird.models.deep.rows import Rows
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.own_models import (
    MODELS_FILE,
    OwnSession,
    own_estimator_classes,
    use_models_file,
)
from tailorbird.serving.models.bundles import probe_in_child
from tailorbird.training.own import OwnEstimator

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


def example(page: str) -> str:
    """Return the first Python block of a page."""
    block = re.search(r"^```python\n(.*?)^```", (HOW_TO / page).read_text(), re.M | re.S)
    assert block is not None
    return block[1]


def write_clicks(path: Path) -> None:
    rng = np.random.default_rng(7)
    users, n = 100, 3_000
    likes = rng.integers(0, 6, (users, 2))
    user = rng.integers(0, users, n)
    liked = likes[user, rng.integers(0, 2, n)]
    category = np.where(rng.random(n) < 0.8, liked, rng.integers(0, 6, n))
    item = category * 10 + np.minimum(rng.geometric(0.2, n) - 1, 9)
    ts = np.sort(rng.integers(0, 28 * 86_400, n)) + 1_764_547_200
    columns = {
        "user_id": [f"u{u}" for u in user],
        "item_id": [f"i{i}" for i in item],
        "timestamp": pa.array(ts * 1_000_000).cast(pa.timestamp("us", "UTC")),
        "event_type": ["click"] * n,
        "category": [f"c{c}" for c in category],
    }
    pq.write_table(pa.table(columns), path)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    write_clicks(folder / "clicks.parquet")
    shop = tb.Project.create(folder / "shop", data=folder / "clicks.parquet")
    shop.import_files(folder / "clicks.parquet")
    (shop.root / "models.py").write_text(example("own-models.md"))
    (shop.root / "sources.py").write_text(example("own-sources.md"))
    slots = (shop.root / "slots.py").read_text()
    changed = slots.replace("sources={", 'sources={"second_hop": 40, ', 1)
    assert changed != slots
    (shop.root / "slots.py").write_text(changed)
    yield shop
    use_models_file(None)


@pytest.mark.slow
def test_own_model_and_source_go_from_rows_to_a_served_list(shop) -> None:
    data = tb.training.Dataset.load(shop, slot="home", window="28d", quick=True).split_by_time()
    assert {"second_hop_rank", "second_hop_score"} <= set(data.train.columns)
    trees = tb.models.GBDT(leaves=7, trees=40).fit(data.train, data.valid)
    mine = OwnEstimator("linear", {"ridge": 3.0}).fit(data.train, data.valid)
    baselines = tb.models.baselines(["popular:7d", "second_hop+popular:7d"])
    report = tb.training.evaluate(
        {"mine": mine, "trees": trees, **baselines}, data.test, metrics=["ndcg@10", "auc"]
    )
    figures = report.results
    assert figures["trees"]["ndcg_10"] > figures["popular:7d"]["ndcg_10"]
    assert figures["mine"]["auc"] > 0.6
    assert figures["second_hop+popular:7d"]["ndcg_10"] != figures["popular:7d"]["ndcg_10"]
    assert len(report.to_frame()) == 4
    assert "mine" in repr(report)
    assert "<table>" in report._repr_html_()
    assert report.plot().axes

    version = shop.registry.add(mine, report)
    assert not version.is_champion
    version.promote(reason="a test")
    assert shop.registry.champion == version.version
    slate = shop.recommend("home", user_id="u7", size=5)
    assert slate.response.model == version.version
    assert len(slate) == 5

    path = next(path for path in shop.declarations.paths.registry.rglob(version.version))
    bundle = Bundle.load(path, schema_hash=None)
    assert isinstance(next(iter(bundle.sessions.values())), OwnSession)
    rows = data.inputs.validation_served_matrix[:50]
    assert np.allclose(bundle.raw_scores(rows)["click"], mine.score(rows)["click"], rtol=1e-9)

    probe_in_child(path)  # as a server does before it loads a bundle

    # The project's code no longer gives what it gave: the golden rows tell.
    code = (shop.root / "models.py").read_text()
    (shop.root / "models.py").write_text(
        code.replace("design @ slopes for", "2 * design @ slopes for")
    )
    use_models_file(shop.root / "models.py")
    with pytest.raises(BundleError, match="golden rows"):
        Bundle.load(path, schema_hash=None)
    (shop.root / "models.py").write_text(code)


@pytest.mark.slow
def test_train_fits_own_models_beside_trees_and_tune_searches_them(shop) -> None:
    result = shop.train(quick=True)
    assert any("for linear over gbdt" in note for note in result.report.notes)
    assert "second_hop+popular:7d" in result.results or any(
        name.startswith("second_hop+") for name in result.results
    )
    asked = shop.train(quick=True, architecture="linear", promote=False)
    assert asked.report.about["architecture"] == "linear"
    tuned = shop.tune(
        trials=2, splits=1, architectures=("linear",), quick=True, save_settings=False
    )
    assert {trial.architecture for trial in tuned.trials["linear"]} == {"linear"}
    assert len({trial.settings["ridge"] for trial in tuned.trials["linear"]}) == 2
    assert shop.backtest(
        splits=1, variants=False, quick=True, architecture="linear"
    ).architecture == ("linear")


def encoded() -> tb.models.EncodedRows:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(200, 3)).astype(np.float32)
    label = matrix[:, 0] > 0
    return tb.models.EncodedRows(Rows(matrix, {"click": label}), build_layout(("a", "b", "c"), {}))


COMPLETE = """
import numpy as np
import tailorbird as tb

@tb.models.register("mine")
class Mine:
    def fit(self, train, valid):
        return self
    def score(self, matrix):
        return {"click": np.zeros(len(matrix))}
    def save(self):
        return b""
    @staticmethod
    def load(data):
        return Mine()
"""


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("def fit", "def learn", "has no method fit"),
        ("def load", "def read", "has a method save and no load"),
        ("def score", "def predict", "has no method score"),
        ("def save", "def keep", "neither a method export nor save"),
        ("return self", "return None", "fit returned NoneType"),
        ("return self", "return 1 / 0", "ZeroDivisionError"),
        ("np.zeros(len(matrix))", "np.full(len(matrix), np.nan)", "gave nan for head click, row 0"),
        ("np.zeros(len(matrix))", "np.zeros((len(matrix), 2))", r"gave the shape \(100, 2\)"),
        ('"click"', '"buy"', "no head 'click', only buy"),
        ("import numpy", "import nothing_like_it", "ModuleNotFoundError"),
    ],
)
def test_a_wrong_class_is_reported_with_its_file(tmp_path, old, new, problem) -> None:
    (tmp_path / MODELS_FILE).write_text(COMPLETE.replace(old, new, 1))
    use_models_file(tmp_path / MODELS_FILE)
    with pytest.raises(TailorbirdError, match=problem) as caught:
        OwnEstimator("mine", {}).fit(encoded(), encoded())
    assert MODELS_FILE in str(caught.value.where)
    use_models_file(None)


def test_two_estimators_of_one_name_are_refused(tmp_path) -> None:
    twice = COMPLETE + COMPLETE.partition("import tailorbird as tb")[2].replace("Mine", "Other")
    (tmp_path / MODELS_FILE).write_text(twice)
    use_models_file(tmp_path / MODELS_FILE)
    with pytest.raises(DeclarationError, match="two estimators are named 'mine'"):
        own_estimator_classes()
    use_models_file(None)


def test_an_own_onnx_export_is_taken_by_head() -> None:
    rows = encoded()
    regression = tb.models.Logistic(penalty=0.5).fit(rows, rows)
    files, heads = regression.export()
    assert list(files) == [heads["click"].file] == ["model/click.onnx"]


def test_a_server_that_loads_own_models_stays_light(tmp_path) -> None:
    (tmp_path / MODELS_FILE).write_text(COMPLETE)
    code = (
        "import sys; from pathlib import Path; from tailorbird.ranking.own_models import *; "
        f"use_models_file(Path({str(tmp_path / MODELS_FILE)!r})); open_own_model(b'click\\n', model_path='model/mine.own'); "
        "import json; print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not {"torch", "lightgbm", "sklearn", "numba", "deltalake", "pandas"} & loaded
