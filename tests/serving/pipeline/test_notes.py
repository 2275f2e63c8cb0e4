"""A list that is general, short or empty says why, and what to do."""

import msgspec

from tailorbird.serving.messages import RecommendResponse
from tailorbird.serving.pipeline.notes import explain_response

FULL = RecommendResponse(
    request_id="r1",
    slot="home",
    items=[],
    arm="",
    model="v0002",
    degraded=[],
    t=1_729_036_716_775_089,
)


def _explain(
    answer: RecommendResponse = FULL, user: str = "u1", has_history: bool = True, baseline: str = ""
) -> list[str]:
    return explain_response(
        answer, user=user, has_history=has_history, baseline=baseline, command="tailorbird -C shop"
    )


def test_a_personal_list_says_how_old_its_features_are_and_no_more() -> None:
    assert _explain() == ["features as of 2024-10-15 23:58 UTC"]


def test_what_was_missing_and_which_arm_answered() -> None:
    sentences = _explain(
        msgspec.structs.replace(
            FULL, degraded=["model", "items", "vectors"], arm="popular", experiment="fresh"
        )
    )
    assert "tailorbird train learns one" in sentences[1]
    assert "tailorbird doctor names the rule" in sentences[2]
    assert "arm popular of experiment fresh" in sentences[3]


def test_a_baseline_a_stranger_and_somebody_unknown() -> None:
    sentence = _explain(baseline="popular:7d")[1]
    assert (
        "the best judged baseline: popular:7d, the same list for everybody. tailorbird -C "
        "shop train learns one" in sentence
    )
    for personal in ("repeat+popular:7d", "popular:7d:category", "popular:24h:country"):
        assert "the same list" not in _explain(baseline=personal)[1]
    assert (
        _explain(user="")[1]
        == "for a stranger; for somebody: tailorbird -C shop recommend --user ID"
    )
    assert (
        _explain(user="u9", has_history=False)[1]
        == "nothing is known of user u9: the list is a stranger's"
    )


def test_a_model_that_the_gate_refused_is_named_with_the_command_that_serves_it() -> None:
    sentences = explain_response(
        FULL,
        user="u1",
        has_history=True,
        baseline="repeat+popular:7d",
        command="tailorbird",
        refused_version="v0003",
    )
    assert (
        "v0003 was learned and was not better beyond chance; to let it answer all the same: "
        "tailorbird models promote v0003" in sentences[1]
    )
