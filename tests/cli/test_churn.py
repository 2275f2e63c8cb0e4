"""From churn.py to a file of scores, by the command line."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.cli.kit import must, must_json, tailorbird

FEATURES = """
from tailorbird.features import count, entity, time_since, time_since_first

user = entity("user")
since = time_since("since", user, "purchase")
age = time_since_first("age", user, "purchase")
bought = count("bought", user, "purchase")
bought_28d = count("bought_28d", user, "purchase", window="28d", hop="7d")
"""
CHURN = """
from tailorbird.ranking import Churn, Contact

churn = Churn(window="28d", active="84d", period="7d", recency="since", frequency="bought", age="age", contact=Contact(cost=0.5))
"""
MAPPING = """
[[source]]
file = "purchases.parquet"
type = "purchase"
ts = "ts"
user_id = "user"
item_id = "item"
"""


def purchases(file: Path, people: int = 600, days: int = 200) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(people):
        at, rate, gone = rng.uniform(0, days / 2), rng.gamma(1.5, 0.05), rng.beta(1.0, 6.0)
        while at < days:
            rows.append((f"u{number}", int((20_000 + at) * 86_400_000_000)))
            if rng.random() < gone:
                break
            at += rng.exponential(1 / max(rate, 1e-3)) + 1
    user, ts = zip(*sorted(rows, key=lambda row: row[1]), strict=True)
    pq.write_table(pa.table({"user": user, "item": ["i"] * len(ts), "ts": pa.array(ts, pa.timestamp("us"))}), file)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("churn") / "shop"
    must("init", folder)
    (folder / "features.py").write_text(FEATURES)
    (folder / "slots.py").write_text('from tailorbird.ranking import Slot\n\nhome = Slot("home")\n')
    (folder / "churn.py").write_text(CHURN)
    (folder / "mapping.toml").write_text(MAPPING)
    purchases(folder / "purchases.parquet")
    must("-C", folder, "import", "mapping", folder / "purchases.parquet", "--mapping", folder / "mapping.toml")
    return folder


@pytest.mark.slow
def test_train_list_and_score(project: Path, tmp_path: Path) -> None:
    early = tailorbird("-C", project, "score", "churn", "--out", tmp_path / "early.parquet")
    assert early.returncode == 1
    assert "there is no champion of churn yet" in early.stderr

    trained = must_json("-C", project, "train", "churn", "--quick", "--as-of", "latest")
    assert trained["version"] == "v0001"
    assert trained["results"]["tailorbird"]["auc"] > 0.65
    assert Path(trained["report"]).read_text().count("<svg") >= 5
    if not trained["promoted"]:
        must("-C", project, "models", "promote", "v0001", "--why", "a test", "--churn", "churn")
    assert must_json("-C", project, "models", "list", "--churn", "churn")["versions"][0]["aliases"] == ["champion"]

    told = must_json("-C", project, "score", "churn", "--out", tmp_path / "churn.parquet", "--as-of", "latest")
    table = pq.read_table(tmp_path / "churn.parquet")
    assert told["people"] == table.num_rows > 100
    gone = table["gone"].to_numpy()
    assert ((gone > 0) & (gone < 1)).all()
    assert (np.diff(gone) <= 0).all()
    assert (table["purchases"].to_numpy() > 0).all()
    assert len(set(table["person"].to_pylist())) == table.num_rows


def test_a_name_that_is_not_declared_is_refused(project: Path, tmp_path: Path) -> None:
    done = tailorbird("-C", project, "score", "churn", "chrun", "--out", tmp_path / "x.parquet")
    assert done.returncode == 2
    assert "churn.py declares no 'chrun'; it declares churn" in done.stderr


def test_a_type_that_does_not_exist_is_refused(project: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for name in ("tailorbird.toml", "features.py", "slots.py"):
        (tmp_path / "p" / name).write_text((project / name).read_text())
    (tmp_path / "p" / "churn.py").write_text(CHURN.replace("Churn(window", 'Churn(types=("purchse",), window'))
    done = tailorbird("-C", tmp_path / "p", "check")
    assert done.returncode == 2
    assert "'purchse' is no event type" in done.stderr
    assert "did you mean purchase?" in done.stderr
    assert json.dumps(done.stderr).count("Traceback") == 0
