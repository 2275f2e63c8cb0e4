"""The log of scores: its format and its reader. Its one writer is the role of
`serving.scores.role`.

    routed    1 ─────────── 40 │ 41 ──────────── 66 │ 67 ──────────── 90
    scores    1 ─────────────────────── 66 (3)      │ 67 ── 90 (none)

A block spans as many positions as the routed rows that it covers. The end of the log therefore
tells the progress of the role, in the same append as the scores themselves: after a crash it
continues there, no score is duplicated and none is missing. The payload of a block is JSON, one
score a line. The log is a file (`stream/scores.db`) or a topic (`scores`). Only consumers read it.
It is no raw log, so that no score is an event and no feature counts it.

Scores that the role must remember beyond the deletion of their block are repeated in a later block
(`ScoreRecord.held`), for the role alone.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from tailorbird.errors import NotReadyError
from tailorbird.stream import Address, LogReader, StoredBlock, open_reader

BLOCK_KIND = "scores"
LOG_NAME = "scores"
READ_BYTES = 1 << 20


class ScoredItem(msgspec.Struct, frozen=True):
    """An item and its value."""

    item_id: str
    score: float


class Scored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One score of one person.

    Attributes:
        id: of this score, the same whenever it is read: `p` and `name` tell it from all others of
            the person.
        name: of what is declared in scores.py.
        p: the routed row after which the person was scored; `event_id`, `type` and `ts` are that
            event's.
        scored_at: microseconds, UTC, as all times.
        model: the version that said so.
        gone, crossed: of a ChurnScore: the chance of leaving, and whether it went `above` the
            threshold or came back `below`.
        items: of a NextBest, best first.
        reasons: of a ChurnScore: what moves it most.
    """

    id: str
    name: str
    p: int
    event_id: str
    type: str
    ts: int
    scored_at: int
    person: str
    user_id: str | None = None
    anonymous_id: str | None = None
    model: str
    gone: float | None = None
    crossed: str = ""
    items: list[ScoredItem] | None = None
    reasons: list[str] = []


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Scores from a position on. Continue from `next`; `begins` is the start of the log, before
    which scores were deleted as too old.
    """

    scores: list[Scored]
    next: int
    begins: int


class ScoreRecord(Scored, frozen=True, kw_only=True, omit_defaults=True):
    """A score as it is stored in a block. `held` marks a repetition from a deleted block, which
    consumers have already read.
    """

    held: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ScoreRecord).decode


def encode_scores(scores: Sequence[Scored]) -> bytes:
    """Encode the payload of a block."""
    return b"\n".join(map(_encode, scores))


def decode_scores(stored_block: StoredBlock) -> list[ScoreRecord]:
    """Decode the scores of a block, with repeated ones. Raise msgspec.DecodeError if it contains
    none.
    """
    return (
        [_decode(line) for line in stored_block.block.payload.split(b"\n")]
        if stored_block.block.kind == BLOCK_KIND and stored_block.block.payload
        else []
    )


@dataclass
class ScoreFigures:
    """Counters of the role since its start; `scores` by name."""

    rows: int = 0
    scores: Counter[str] = field(default_factory=Counter)
    unscored_by_name: Counter[str] = field(default_factory=Counter)
    position: int = 0


@dataclass
class ScoreFeed:
    """Reads the log for any number of consumers, each with its own position. Thread-safe."""

    address: Address

    def __post_init__(self) -> None:
        self._reader: LogReader | None = None
        self._lock = threading.Lock()

    def read(self, start: int, *, bytes_max: int = READ_BYTES) -> Scores:
        """Read scores from `start` on, in whole blocks of about `bytes_max`.

        They begin at the start of the log if that is later.

        Raises:
            NotReadyError: nothing was scored yet.
        """
        with self._lock:
            reader = self._reader = self._reader or open_reader(self.address)
            log_start = reader.start()
            end = reader.end()
            start = max(start, log_start)
            if start >= end:
                return Scores(
                    scores=[], next=max(start, 0) if start <= end else end, begins=log_start
                )
            blocks = reader.read(start, bytes_max=bytes_max)
        scores = [
            score
            for stored_block in blocks
            for score in decode_scores(stored_block)
            if score.p >= start and not score.held
        ]
        return Scores(
            scores=list[Scored](scores), next=blocks[-1].end if blocks else start, begins=log_start
        )

    def iterate_from(self, start: int) -> Iterator[Scores]:
        """Yield one read after another, up to the current end."""
        while True:
            page = self.read(start)
            if page.next <= start and not page.scores:
                return
            yield page
            start = page.next

    def close(self) -> None:
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None


def not_scored_error(error: NotReadyError) -> NotReadyError:
    """Return the error for a log to which no score was ever appended."""
    return NotReadyError(
        "nothing was scored yet",
        where=error.where,
        fix="declare what to score in scores.py, and run tailorbird up",
    )
