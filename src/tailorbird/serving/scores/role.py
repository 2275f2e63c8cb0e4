"""The score role: scores people as their events arrive, and appends the scores to a log of its own.

    routed log ──► triggers ──► wait until the state has these events ──► pipeline, churn models ──►
    score log ──► consumers

Exactly once: a block of the score log covers the rows of the routed log that it read, so that
position and scores are one append (`serving.scores.log`). What must be remembered about a person
(risk above the threshold, time of the last score) is a function of that log, and is replayed from
it at the start. Before a block that says so is deleted as too old, it is repeated in a new one. A
score is true once its event is counted, so the role waits for the state.

Whom a `NextBest` scores after which event is a function of the routed log alone. A `ChurnScore`
scores a person once for all events that are read together. While no model answers, nothing is
scored, and that is counted.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from tailorbird import faults
from tailorbird.errors import NotReadyError
from tailorbird.events import Clock, Context
from tailorbird.ranking.scores import ChurnScore, NextBest, Score
from tailorbird.serving.messages import ChurnResponse, RecommendQuery, RecommendResponse
from tailorbird.serving.scores.log import (
    BLOCK_KIND,
    LOG_NAME,
    READ_BYTES,
    Scored,
    ScoredItem,
    ScoreFigures,
    ScoreRecord,
    decode_scores,
    encode_scores,
)
from tailorbird.serving.scores.memory import ScoreMemory
from tailorbird.serving.scores.triggers import read_triggers
from tailorbird.stream import Address, Block, LogReader, LogWriter, open_reader, open_writer

POLL_S = 0.01
REFRESH_INTERVAL_S = 0.5  # between refreshes of models, formulas and items
REPORT_INTERVAL_S = 5.0
BATCH_BYTES = 4 << 20  # of the routed log per step
# Events per append that trigger a score: some seconds of work, which a crash loses.
EVENTS_MAX = 100
EMPTY_AFTER_S = 5.0  # after which an empty block records progress
PRUNE_EVERY_S = 60.0
log = logging.getLogger(__name__)


class ScoringModels(Protocol):
    """The models of the role, as `cli.roles.scoring.Models`."""

    def refresh(self) -> None:
        """Load new models, formulas and items."""
        ...

    def reached_position(self) -> int:
        """Return the position that all states have reached from which scores read; 0 while one is
        missing.
        """
        ...

    def next_best(self, query: RecommendQuery) -> RecommendResponse:
        """Return the best items. Raise NotReadyError without a model."""
        ...

    def churn(self, user_id: str, model: str) -> ChurnResponse:
        """Return the churn probability. Raise NotReadyError without a model."""
        ...


@dataclass(frozen=True)
class ScoreReport:
    """The outcome of a step: rows of the routed log (0: there were none), scores appended, and the
    offset behind them.
    """

    rows: int
    scores: int
    end: int


class ScoreRole:
    """The one writer of the score log.

    Args:
        routed_address: the router's log; it need not exist yet.
        score_log_address: the address of the score log. A new log begins where the routed log ends: the past
            is not scored.
        keep_us: how long scores are kept.
    Raises:
        LockedError: another role writes the log.
    """

    def __init__(
        self,
        routed_address: Address,
        score_log_address: Address,
        declared_scores: Sequence[Score],
        models: ScoringModels,
        clock: Clock,
        *,
        keep_us: int,
    ) -> None:
        self._routed_address = routed_address
        self._score_log_address = score_log_address
        self._models = models
        self._clock = clock
        self._keep_us = keep_us
        self._declared_scores = list(declared_scores)
        self._trigger_types = sorted({type_ for score in declared_scores for type_ in score.on})
        self._reader: LogReader | None = None
        self._writer: LogWriter | None = None
        self._memory = ScoreMemory(declared_scores, keep_us)
        self._carried_records: list[ScoreRecord] = []  # to be repeated with the next append
        # Positions before which records are carried, or were repeated.
        self._carried_before = self._rewritten_before = 0
        self._position = 0
        self._appended_at = time.monotonic()
        self.figures = ScoreFigures()

    def step(self, stop: threading.Event | None = None) -> ScoreReport:
        """Read a batch of the routed log, score, and append.

        A batch has about 4 MB, and at most `EVENTS_MAX` events that trigger a score. Waits for the
        state until `stop` is set.

        Raises:
            StorageError: a log could not be read or written; the next start continues where the log
                ends.
        """
        reader = self._open()
        if reader is None or self._writer is None:
            return ScoreReport(0, 0, 0)
        if self._position < reader.start():
            log.warning(
                "rows %d to %d of the routed log are gone, and were not scored",
                self._position,
                reader.start() - 1,
            )
            return self._append_scores([], reader.start())
        blocks = reader.read(self._position, bytes_max=BATCH_BYTES)
        if not blocks:
            return self._append_progress()
        end = blocks[-1].end
        triggers = read_triggers(blocks, self._position, self._routed_address, self._trigger_types)
        if len(triggers) > EVENTS_MAX:
            end = triggers[EVENTS_MAX]["p"]
            triggers = triggers[:EVENTS_MAX]
        if triggers and not self._wait_for_states(end - 1, stop):
            return ScoreReport(0, 0, self._position)
        scores = [
            scored
            for declared_score in self._declared_scores
            for scored in self._score_triggers(declared_score, triggers)
        ]
        scores.sort(key=lambda scored: scored.p)
        faults.fire_if_armed("score.scored")
        if (
            not scores
            and not self._carried_records
            and time.monotonic() - self._appended_at < EMPTY_AFTER_S
        ):
            # Reading these again after a crash loses nothing.
            rows = end - self._position
            self._position = end
            self.figures.rows += rows
            return ScoreReport(rows, 0, end)
        return self._append_scores(scores, end)

    def run(
        self, stop: threading.Event, *, report: Callable[[int], None] = lambda position: None
    ) -> None:
        """Step while there are rows, else check again every few milliseconds, until `stop` is set.

        Args:
            report: called every few seconds with the position that the log has recorded.
        """
        prune_at = refresh_at = report_at = 0.0
        self._open()  # What happens from now on is scored, also while the models are loaded.
        while not stop.is_set():
            if time.monotonic() >= refresh_at:
                self._models.refresh()
                refresh_at = time.monotonic() + REFRESH_INTERVAL_S
            if self._writer is not None and time.monotonic() >= report_at:
                report(self._writer.end())
                report_at = time.monotonic() + REPORT_INTERVAL_S
            if not self.step(stop).rows:
                stop.wait(POLL_S)
            if time.monotonic() >= prune_at:
                self.prune()
                prune_at = time.monotonic() + PRUNE_EVERY_S

    def prune(self) -> int:
        """Delete the blocks whose scores are older than `keep_us`, and return their number.

        Scores in them that are still needed are repeated with the next rows. Until then the blocks
        stay, and a later call deletes them.
        """
        if self._writer is None:
            return 0
        self._memory.forget_old()
        prune_before, records = self._expired_records(self._clock.now() - self._keep_us)
        carried_records = {
            (record.name, record.person): msgspec.structs.replace(record, held=True, reasons=[])
            for record in records
            if self._memory.needs(record)
        }
        if carried_records and prune_before > self._rewritten_before:
            self._carried_records = list(carried_records.values())
            self._carried_before = prune_before
            return 0
        return self._writer.prune(prune_before) if prune_before else 0

    def _expired_records(self, keep_since: int) -> tuple[int, list[ScoreRecord]]:
        """Return where the blocks that predate `keep_since` end, or 0, and their scores."""
        prune_before = 0
        records = list[ScoreRecord]()
        try:
            with open_reader(self._score_log_address) as reader:
                position = reader.start()
                while blocks := reader.read(position, bytes_max=READ_BYTES):
                    for stored_block in blocks:
                        if _written_at(stored_block.block.receipt) >= keep_since:
                            return prune_before, records
                        prune_before = position = stored_block.end
                        records += decode_scores(stored_block)
        except NotReadyError:
            return 0, []
        return prune_before, records

    def close(self) -> None:
        for opened_log in (self._reader, self._writer):
            if opened_log is not None:
                opened_log.close()
        self._reader = self._writer = None

    def __enter__(self) -> "ScoreRole":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # The steps

    def _open(self) -> LogReader | None:
        if self._reader is None:
            try:
                self._reader = open_reader(self._routed_address)
            except NotReadyError:  # there is no router yet
                return None
            first_position = max(1, self._reader.end())
            writer = open_writer(
                self._score_log_address, partition=LOG_NAME, first_position=first_position
            )  # type: ignore[arg-type]
            self._writer = writer  # type: ignore[assignment]
            self._position = writer.end()
            self._replay_log()
        return self._reader

    def _replay_log(self) -> None:
        """Restore what the log says about people."""
        with open_reader(self._score_log_address) as reader:
            position = reader.start()
            while blocks := reader.read(position):
                for scored in (
                    record for stored_block in blocks for record in decode_scores(stored_block)
                ):
                    self._memory.apply(scored)
                position = blocks[-1].end

    def _wait_for_states(self, log_position: int, stop: threading.Event | None) -> bool:
        """Wait until the states have row `log_position`; return False if stopped before."""
        while self._models.reached_position() < log_position:
            if stop is None or stop.wait(POLL_S):
                return False
            self._models.refresh()
        return True

    def _score_triggers(self, score: Score, triggers: Iterable[dict]) -> list[Scored]:
        scored_people: list[Scored] = []
        matching_rows = [row for row in triggers if row["type"] in score.on]
        for row in (
            self._memory.due_rows(score, matching_rows)
            if isinstance(score, NextBest)
            else {row["person"]: row for row in matching_rows}.values()
        ):
            try:
                scored = (
                    self._score_churn(score, row)
                    if isinstance(score, ChurnScore)
                    else self._score_next_best(score, row)
                )
            except NotReadyError:
                self.figures.unscored_by_name[score.name] += 1
                continue
            if scored is not None:
                scored_people.append(scored)
        return scored_people

    def _score_churn(self, score: ChurnScore, row: Mapping) -> Scored | None:
        if row["user_id"] is None:
            return None  # the model knows people by their user id
        response = self._models.churn(row["user_id"], score.model)
        if not response.known:
            return None  # strangers cannot leave
        was_above = self._memory.is_above(score.name, row["person"])
        if was_above == (response.gone > (score.below if was_above else score.above)):
            return None
        crossed_direction = "below" if was_above else "above"
        reasons = [reason.text for reason in response.reasons]
        return self._build_score(
            score,
            row,
            model=response.model,
            gone=response.gone,
            crossed=crossed_direction,
            reasons=reasons,
        )

    def _score_next_best(self, score: NextBest, row: Mapping) -> Scored:
        query = RecommendQuery(
            slot=score.slot,
            user_id=row["user_id"],
            anonymous_id=row["anonymous_id"],
            session_id=row["session_id"],
            size=score.size or None,
            context=Context(device=row["device"], country=row["country"]),
        )
        response = self._models.next_best(query)
        items = [ScoredItem(item.item_id, item.score or 0.0) for item in response.items]
        return self._build_score(score, row, model=response.model, items=items)

    def _build_score(self, score: Score, row: Mapping, **fields) -> Scored:
        return Scored(
            id=f"{row['p']}-{score.name}",
            name=score.name,
            p=row["p"],
            event_id=row["event_id"],
            type=row["type"],
            ts=row["ts"],
            scored_at=self._clock.now(),
            person=row["person"],
            user_id=row["user_id"],
            anonymous_id=row["anonymous_id"],
            **fields,
        )

    def _append_progress(self) -> ScoreReport:
        """Record progress in the log if that has not been done for long."""
        assert self._writer is not None
        if (
            self._position > self._writer.end()
            and time.monotonic() - self._appended_at >= EMPTY_AFTER_S
        ):
            self._append_scores([], self._position)
        return ScoreReport(0, 0, self._position)

    def _append_scores(self, scores: list[Scored], end: int) -> ScoreReport:
        assert self._writer is not None
        rows = end - self._position
        start = self._writer.end()
        if end > start:
            faults.fire_if_armed("score.before_append")
            receipt = msgspec.json.encode({"received_at": self._clock.now()})
            # Carried records come first, so that a new score of the same person overrides them.
            self._writer.append(
                [
                    Block(
                        BLOCK_KIND,
                        end - start,
                        encode_scores([*self._carried_records, *scores]),
                        receipt,
                    )
                ]
            )
            faults.fire_if_armed("score.after_append")
            if self._carried_records:
                self._carried_records = []
                self._rewritten_before = self._carried_before
        self._position = end
        self._appended_at = time.monotonic()
        for scored in scores:
            self._memory.apply(scored)
            self.figures.scores[scored.name] += 1
        self.figures.rows += rows
        self.figures.position = end
        return ScoreReport(rows, len(scores), end)


class _Receipt(msgspec.Struct, frozen=True):
    received_at: int = 0


_decode_receipt = msgspec.json.Decoder(_Receipt).decode


def _written_at(receipt: bytes) -> int:
    return _decode_receipt(receipt).received_at if receipt else 0
