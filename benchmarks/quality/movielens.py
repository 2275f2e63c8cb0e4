"""MovieLens (latest-small, or one's own copy in any layout): the next film that a person rates, by global time.

python -m benchmarks.quality.movielens [--data PATH] [--small] [--json]
"""

from dataclasses import replace

from benchmarks.quality.running import Case, fewer, main
from tailorbird.events import DAY
from tailorbird.training.clicks import Scheme
from tailorbird.training.indexes import IndexSettings
from tailorbird.training.settings import TrainSettings


def settings(low: int, high: int) -> TrainSettings:
    """The last fifth of the ratings is judged; five years before are learned from."""
    return TrainSettings(
        window_us=high - low,
        lateness_us=0,
        scheme=Scheme(type="rating", popular=2_000, popular_window=3_650 * DAY, refresh=DAY, item_to_item=400),
        requests=40_000,
        test_requests=6_000,
        index=IndexSettings(),
        index_every_us=90 * DAY,
        windows={"7d": 7 * DAY, "30d": 30 * DAY, "365d": 365 * DAY, "ever": None},
    )


CASE = Case(
    name="movielens",
    title="MovieLens latest-small: which film does a person rate next?",
    folder="ml-latest-small",
    import_=("movielens",),
    settings=settings,
    small=lambda settings: replace(fewer(settings, requests=4_000, test=600), index_every_us=720 * DAY),
    protocol=(
        "One request before each rating of the last fifth of the time; the film that was rated is the truth, whatever the rating.",
        "People rate what they remember in sittings, seconds apart: this predicts typing, not watching.",
    ),
    expected={"SELECT count(*) FROM events WHERE type = 'rating'": 100_004, "SELECT count(*) FROM items": 9_125},
)

if __name__ == "__main__":
    main(CASE)
