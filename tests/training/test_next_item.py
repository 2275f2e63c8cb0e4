"""The next-item protocols on the optional folder of data: that they run, and that what must hold of any run holds."""

import numpy as np
import pytest
from benchmarks.quality.next_item import run
from benchmarks.quality.next_item_cases import CASES
from benchmarks.quality.next_item_run import asked, ndcg
from benchmarks.quality.running import default_data

from tailorbird.models.retrievers import Top

DATA = default_data()


def test_ndcg_of_lists_whose_answer_one_sees():
    top = Top(np.array([[4, 2, -1], [1, 3, 0], [7, 8, 9]], np.int32), np.ones((3, 3), np.float32))
    truth, offsets = np.array([4, 3, 0, 5]), np.array([0, 1, 3, 4])
    found = ndcg(top, truth, offsets)
    second = (1 / np.log2(3) + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    np.testing.assert_allclose(found, [1, second, 0])


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="needs the optional folder of real data sets")
@pytest.mark.parametrize("case", [case for case in CASES if case.name != "complete-journey"], ids=lambda case: case.name)
def test_questions_know_nothing_of_their_answer(case):
    if not (DATA / case.folder).is_dir():
        pytest.skip(f"needs {case.folder}")
    data = case.read(DATA / case.folder)
    low, high = (int(each) for each in np.quantile(data.ts, (0.8, 0.9)))
    questions = asked(case, data, low, high, 200)
    contexts = questions.contexts
    assert ((contexts.t >= low) & (contexts.t < high)).all()
    assert (contexts.ts <= contexts.t[contexts.owner]).all()
    for q in range(0, 200, 20):
        own = (data.person == questions.person[q]) & (data.ts == contexts.t[q])
        truth = questions.truth[questions.truth_offsets[q] : questions.truth_offsets[q + 1]]
        assert set(truth.tolist()) <= set(data.item[own].tolist())
        assert contexts.offsets[q + 1] - contexts.offsets[q] >= 1


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(DATA is None or not (DATA / "eshop-clothing").is_dir(), reason="needs eshop-clothing")
def test_the_default_is_what_was_best_in_the_validation_period_and_what_is_kept_is_not_made_again(tmp_path):
    from benchmarks.quality.next_item import _small

    case = next(case for case in CASES if case.name == "eshop-clothing")
    data = case.read(DATA / case.folder)
    found = run(_small(case), data, tmp_path, threads=1, seeds=0)
    again = run(_small(case), data, tmp_path, threads=1, seeds=0)
    assert again == found
    assert [len(values) for values in found["cold"]["models"].values()] == [5] * 5
    assert found["default"] == max(found["validated"], key=found["validated"].get)
    assert found["results"]["tailorbird"] == found["results"][found["default"]]
    assert found["results"]["tailorbird"]["ndcg_10"] > found["results"]["popular_7d"]["ndcg_10"]
