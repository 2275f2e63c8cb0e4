"""Synonyms: what stands beside a query, and what a search finds by it."""

import pytest

from tailorbird.retrieval.synonyms import Synonyms
from tailorbird.retrieval.text import TextIndex

GROUPS = [["tv", "television"], ["HDD", "hard drive", "hard disk"], ["tv", "telly"]]


def test_phrases_of_a_group_are_synonyms():
    synonyms = Synonyms.from_groups(GROUPS)
    assert synonyms.phrases_for("a TV stand") == [("television",), ("telly",)]
    assert synonyms.phrases_for("external hard-drive") == [("hdd",), ("hard", "disk")]
    assert synonyms.phrases_for("hard drive or hdd?") == [("hard", "disk")]
    assert synonyms.phrases_for("drive hard") == synonyms.phrases_for("") == []


@pytest.mark.parametrize(
    "groups", [["tv television"], [["tv"]], [["tv", "!?"]], [["tv", "one two three four five"]]]
)
def test_what_is_no_group_is_refused(groups):
    with pytest.raises(ValueError, match="is no"):
        Synonyms.from_groups(groups)


def test_synonym_matches_rank_below_exact_matches():
    index = TextIndex.from_documents(
        {"title": ["red telly", "blue tv", "hard disk case", "hard shell for a disk", "AND OR NOT"]}
    )
    synonyms = Synonyms.from_groups(GROUPS)
    assert index.search("tv", 5)[0].tolist() == [1]
    assert index.search("tv", 5, synonyms.phrases_for("tv"))[0].tolist() == [1, 0]
    rows, scores = index.search("hdd", 5, synonyms.phrases_for("hdd"))
    assert rows.tolist() == [2]  # a phrase, not its words
    assert scores[0] > 0
