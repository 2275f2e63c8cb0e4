"""Candidate tables whose store goes out of reach: the sources are empty from then on."""

import numpy as np

from tailorbird.candidates.contract import Board
from tailorbird.candidates.protocol import Epoch, NoTables
from tailorbird.errors import StorageError
from tailorbird.serving.models.candidates import FailSafeTables

KEYS = np.array([1, 2], np.uint64)


class Broken(NoTables):
    """Tables whose store dies with the first read."""

    def __init__(self) -> None:
        super().__init__({"boards": Epoch(7, 8)})

    def neighbours(self, keys):
        raise StorageError("the server did not answer lately")


def test_after_a_read_that_failed_everything_is_empty_and_the_reason_is_told_once():
    problems: list[str] = []
    tables = FailSafeTables(Broken(), problems.append)
    assert tables.epochs == {"boards": Epoch(7, 8)}
    assert len(tables.neighbours(KEYS).keys) == 0
    assert tables.epochs == {}
    assert len(tables.leaderboard(Board(0, "")).items) == 0
    assert tables.sessions() is None
    assert tables.facts(KEYS).first_seen.tolist() == [0, 0]
    assert problems == ["the server did not answer lately"]
