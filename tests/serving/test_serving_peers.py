"""Whom the benchmark of serving is held against: that it is given what makes the rows that we
score, and what is said where it is not.
"""

import json
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow.parquet as pq
import pytest
from benchmarks import serving_peers
from benchmarks.peers.install import SERVING, interpreter, requirements
from benchmarks.serving_site import Site, Size

QUESTIONS = 5


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(
        tmp_path_factory.mktemp("site") / "site",
        Size(people=400, items=1_000, events=6_000, trees=10),
    )
    made.make()
    return made


@pytest.fixture(scope="module")
def questions(site: Site) -> list[serving_peers.Question]:
    return serving_peers.prepare_peers(site, site.requests(QUESTIONS), site.folder / "peers")


@pytest.mark.nightly
@pytest.mark.slow
def test_what_the_peer_looks_up_makes_the_rows_that_we_score(
    site: Site, questions: list[serving_peers.Question]
) -> None:
    folder = site.folder / "peers"
    description, catalogue = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("views", "catalogue")
    )
    views = {}
    for name, view in description["views"].items():
        table = pq.read_table(folder / f"{name}.parquet").to_pydict()
        rows = zip(*(table[key] for key in view["keys"]), strict=True)
        views[name] = {
            key: [table[column][place] for column in view["columns"]]
            for place, key in enumerate(rows)
        }
    model = lightgbm.Booster(model_file=folder / "model.txt")
    for question in questions:
        body = question.body
        matrix = np.full((len(body["items"]), len(description["columns"])), np.nan, np.float32)
        place = {column: at for at, column in enumerate(description["columns"])}
        for column, values in body["given"].items():
            matrix[:, place[column]] = np.array(values, np.float32)
        for row, item in enumerate(body["items"]):
            request_values = {
                "user": body["user_id"],
                "item": item,
                "category": catalogue[item],
                "country": body["country"],
            }
            for name, view in description["views"].items():
                for column, value in zip(
                    view["columns"],
                    views[name][tuple(request_values[key] for key in view["keys"])],
                    strict=True,
                ):
                    matrix[row, place[column]] = value
        scores = np.sort(np.asarray(model.predict(matrix)))[::-1][: serving_peers.SHOWN]
        serving_peers.check_scores(
            json.dumps({"items": [{"score": score} for score in scores.tolist()]}).encode(),
            question,
        )


@pytest.mark.slow
def test_an_answer_with_other_scores_is_refused(questions: list[serving_peers.Question]) -> None:
    wrong = [{"score": score + 0.001} for score in questions[0].scores.tolist()]
    with pytest.raises(AssertionError, match=r"the peer's scores differ by 0\.001"):
        serving_peers.check_scores(json.dumps({"items": wrong}).encode(), questions[0])


def test_without_an_environment_it_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_PEERS", str(tmp_path))
    assert all(why.endswith("make peers") for why in serving_peers.store_problems().values())
    assert [each.partition("==")[0] for each in requirements(f"{SERVING}.txt")] == [
        "feast[redis]",
        "lightgbm",
        "fastapi",
        "uvicorn[standard]",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not interpreter(SERVING).exists(), reason="needs the environment of make peers")
@pytest.mark.parametrize("kind", ["feast_sqlite", "feast_valkey"])
def test_the_peer_scores_as_we_do(
    site: Site, questions: list[serving_peers.Question], kind: str
) -> None:
    from benchmarks.serving import Connection, to_request

    if why := serving_peers.store_problems()[kind]:
        pytest.skip(why)
    with serving_peers.run_peer(kind, site.folder / "peers") as port:
        connection = Connection(port)
        for question in questions:
            serving_peers.check_scores(
                connection.ask(to_request("/recommend", question.body))[1], question
            )
        connection.close()
