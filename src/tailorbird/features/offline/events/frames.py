"""Frames of events for backfills: the columns of each past event, and cached extracts."""

import secrets
from dataclasses import dataclass
from functools import partial
from threading import RLock

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.features.arithmetic.finish import further_values
from tailorbird.features.arithmetic.runs import Runs
from tailorbird.features.declare.declarations import Entity
from tailorbird.features.event_columns.columns import Frame
from tailorbird.features.event_columns.extracts import (
    Extract,
    ProfileExtract,
    compute_extract,
    extract_profiles,
)
from tailorbird.features.expr.expression import Expression
from tailorbird.features.layout.layout import LastEvents, Profile, Source, Step
from tailorbird.features.offline.asof_runs import ConcatenatedRuns
from tailorbird.features.offline.bulk import RaggedSequence
from tailorbird.features.offline.events.ragged import EventRuns
from tailorbird.features.offline.hashing import hash_texts, identify_texts

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]

Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

# Columns of profile events.
_PROFILE_COLUMNS = (
    "p",
    "event_id",
    "type",
    "ts",
    "user_id",
    "anonymous_id",
    "item_id",
    "items",
    "counts",
    "properties",
)


class PastFrame(Frame):
    """A frame whose text entities have identities (`offline.hashing`) as keys, which only group."""

    def __init__(self, events: pa.Table, seed: int) -> None:
        super().__init__(events, hash_texts)
        self._seed = seed
        self._identities: dict[str, Keys] = {}
        # Entities are computed concurrently, and each column is computed once.
        self.lock = RLock()

    def text(self, name: str) -> Keys:
        with self.lock:
            return super().text(name)

    def bits(self, value: Expression) -> Int64s:
        with self.lock:
            return super().bits(value)

    def key(self, entity: Entity) -> tuple[Keys, Bools]:
        with self.lock:
            return super().key(entity)

    def key_field(self, entity: Entity, name: str) -> Keys:
        if not has_text_keys(entity):
            return super().key_field(entity, name)
        return self.identity(name)

    def identity(self, name: str) -> Keys:
        """Return a column of text as identities."""
        with self.lock:
            if name not in self._identities:
                self._identities[name] = self.text_column(
                    name, partial(identify_texts, seed=self._seed)
                )
            return self._identities[name]

    def profile_keys(self, ids: pa.ChunkedArray) -> Keys:
        return identify_texts(ids, seed=self._seed)


class FrameCache:
    """The events, with cached extracts."""

    def __init__(self, events: pa.Table, seed: int | None = None) -> None:
        """Prepare a frame; caches with the same `seed` have the same identities."""
        self.events = events
        self.seed = secrets.randbits(64) if seed is None else seed
        self.frame = PastFrame(events, self.seed)
        self._extracts: dict[Source, Extract] = {}
        self._profiles: dict[Profile, ProfileExtract] = {}

    def extract(self, source: Source) -> Extract:
        with self.frame.lock:
            if source not in self._extracts:
                self._extracts[source] = compute_extract(source, self.frame)
            return self._extracts[source]

    def profiles(self, profile: Profile) -> ProfileExtract:
        if profile not in self._profiles:
            columns = [name for name in _PROFILE_COLUMNS if name in self.events.column_names]
            type_codes, type_names = self.frame.type_codes
            is_profile = pa.array(
                np.array([name == profile.type for name in type_names], np.bool_)[type_codes]
            )
            frame = PastFrame(self.events.select(columns).filter(is_profile), self.seed)
            self._profiles[profile] = extract_profiles(profile.type, profile.attributes, frame)
        return self._profiles[profile]

    def ids(self, rows: Intps) -> Keys:
        """Return tie-breaking ids. Hashing is expensive, so only rows with ties are hashed."""
        event = self.frame.event(rows)
        unique_events, inverse = np.unique(event, return_inverse=True)
        tied_events = Frame(self.events.take(pa.array(unique_events)), hash_texts)
        id_of_event = tied_events.id[tied_events.index == 0]
        with np.errstate(over="ignore"):
            return id_of_event[inverse] + self.frame.index[rows].astype(np.uint64)


def has_text_keys(entity: Entity) -> bool:
    """Return whether all fields are plain columns of text, so that identities can serve as keys."""
    return bool(entity.fields) and all(
        name in ("user", "item", "session", "device", "country") for name in entity.fields
    )


@dataclass(frozen=True)
class AllRuns:
    """The concatenated last events of all requests; `rows` map the series to the frame."""

    frame: PastFrame
    concatenated_runs: ConcatenatedRuns
    rows: Intps

    def sequence(self, step: Step) -> RaggedSequence:
        concatenated_runs = self.concatenated_runs
        rows = self.rows[concatenated_runs.indices] if step.of else self.rows
        values = further_values(step, (self.frame.bits(expression)[rows] for expression in step.of))
        return RaggedSequence(
            concatenated_runs.offsets,
            concatenated_runs.item,
            concatenated_runs.type,
            concatenated_runs.ts,
            values,
        )


@dataclass(frozen=True)
class ChunkRuns:
    """The last events of each request of a chunk, as rows of the frame."""

    frame: PastFrame
    event_runs: EventRuns
    rows: Intps

    def runs(self, sequence: LastEvents, t: Int64s, request_session: Keys) -> Runs:
        """Return the runs of requests at t (m,) with session identities (m,), 0 if none."""
        frame = self.frame
        rows = self.rows
        item = frame.text("item")
        type = frame.text("type")
        session = frame.identity("session")
        values = frame.bits(sequence.of[0]).view(np.uint64) if sequence.of else item
        return Runs(
            self.event_runs.offsets,
            ts=frame.ts[rows],
            item=item[rows],
            type=type[rows],
            session=session[rows],
            t=t,
            request_session=request_session,
            value=values[rows],
        )
