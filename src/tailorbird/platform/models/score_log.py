"""The log of scores of a project: churn scores and next items of people, by the role `score`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from tailorbird.config import Project
from tailorbird.errors import NotReadyError
from tailorbird.platform.frames import Frame

if TYPE_CHECKING:
    from tailorbird.serving.scores.log import ScoreFeed


@contextmanager
def open_scores(project: Project) -> "Iterator[ScoreFeed]":
    """Open the reader of scores.

    Raises:
        NotReadyError: nothing has been scored yet; from inside the block, too.
    """
    from tailorbird.serving.scores.log import ScoreFeed, not_scored_error

    score_feed = ScoreFeed(project.stream.scores)
    try:
        yield score_feed
    except NotReadyError as error:
        raise not_scored_error(error) from None
    finally:
        score_feed.close()


def read_scores(project: Project, start_position: int = 0) -> Frame:
    """Return all scores from a position on."""
    with open_scores(project) as score_feed:
        score_rows = [
            msgspec.to_builtins(score)
            for page in score_feed.iterate_from(start_position)
            for score in page.scores
        ]
    return Frame(pa.Table.from_pylist(score_rows))
