"""Memory of the score role: people above a threshold, and the time of each one's last score."""

from collections.abc import Iterable, Iterator, Sequence

from tailorbird.events import parse_duration
from tailorbird.ranking.scores import NextBest, Score
from tailorbird.serving.scores.log import Scored, ScoreRecord


class ScoreMemory:
    """The state of people by the score log; a key is (score, person)."""

    def __init__(self, declared_scores: Sequence[Score], keep_us: int) -> None:
        self._declared_names = {score.name for score in declared_scores}
        self._keep_us = keep_us
        self._people_above: set[tuple[str, str]] = set()  # with a risk above the threshold
        self._last_scored_ts: dict[tuple[str, str], int] = {}  # of the last scored event
        # Intervals of NextBests that exceed the retention of scores.
        interval_us_by_score = {
            score.name: parse_duration(score.every)
            for score in declared_scores
            if isinstance(score, NextBest)
        }
        self._long_interval_us_by_score = {
            name: interval_us
            for name, interval_us in interval_us_by_score.items()
            if interval_us > keep_us
        }

    def is_above(self, name: str, person: str) -> bool:
        """Return whether the person's risk was above the score's threshold."""
        return (name, person) in self._people_above

    def forget_old(self) -> None:
        """Forget times of scores that no interval reaches back to."""
        newest = max(self._last_scored_ts.values(), default=0)
        self._last_scored_ts = {
            key: ts
            for key, ts in self._last_scored_ts.items()
            if ts > newest - self._long_interval_us_by_score.get(key[0], self._keep_us)
        }

    def apply(self, scored: Scored) -> None:
        """Take over what a record of the log says of a person."""
        key = scored.name, scored.person
        if scored.crossed == "above":
            self._people_above.add(key)
        elif scored.crossed:
            self._people_above.discard(key)
        else:
            self._last_scored_ts[key] = scored.ts

    def needs(self, record: ScoreRecord) -> bool:
        """Return whether a score must be remembered, and no remaining block says so."""
        key = record.name, record.person
        if record.crossed:
            return (
                record.crossed == "above"
                and key in self._people_above
                and record.name in self._declared_names
            )
        return (
            record.name in self._long_interval_us_by_score
            and self._last_scored_ts.get(key) == record.ts
        )

    def due_rows(self, score: NextBest, rows: Iterable[dict]) -> Iterator[dict]:
        """Yield the rows that come at least `score.every` after the last of the same person."""
        interval_us = parse_duration(score.every)
        last_ts_by_person = {}
        for row in rows:
            previous_ts = last_ts_by_person.get(
                row["person"], self._last_scored_ts.get((score.name, row["person"]))
            )
            if previous_ts is None or row["ts"] >= previous_ts + interval_us:
                last_ts_by_person[row["person"]] = row["ts"]
                yield row
