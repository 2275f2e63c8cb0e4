"""Whether a bundle says now what it said when it answered: the scores of logged answers, computed again from their logged features.

No state and no server takes part: features, items and formula are those of the lake's `answers`, model, calibration and index those of the
bundle. Compared are answers whose scores are the model's value and nothing else: not those of searches, nor of slots with boosts. Left out
are items that came after the bundle: the server knew attributes of them that the bundle does not. They also move the ranks of popularity of
all others, so that answers of a catalogue that has grown may differ.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa

from tailorbird.events import hash64s
from tailorbird.events.schema import micros
from tailorbird.features import Rows
from tailorbird.features import Sequence as Recent
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.finish import values_of
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.formula import parse_formula

EXAMPLES_MAX = 20
READ = (
    *("request_id", "ts", "schema_hash", "slot", "model", "query", "formula", "degraded"),
    *("items", "scores", "numeric", "categorical", "sequences"),
)

_sequences = msgspec.msgpack.Decoder(dict[str, list[list[int]]])


@dataclass(frozen=True)
class Moved:
    """A score that was logged otherwise than it is computed."""

    request_id: str
    item: str
    logged: float
    computed: float


@dataclass
class Rescored:
    """What came of a comparison.

    Attributes:
        answers, scores: how many were compared.
        unequal: scores that differ in any bit of a float32; `examples`: some of them.
        skipped: answers that cannot be compared.
        later: scores of items that the bundle does not know.
    """

    answers: int = 0
    scores: int = 0
    unequal: int = 0
    skipped: int = 0
    later: int = 0
    examples: list[Moved] = field(default_factory=list)


def rescored(bundle: Bundle, features: FeatureSet, answers: pa.Table, *, boosted: Collection[str] = ()) -> Rescored:
    """Score logged answers of a bundle again and compare.

    Args:
        features: what its rows are read by.
        answers: rows of the lake's `answers`, with the columns `READ`.
        boosted: slots whose scores are more than the model's value.
    """
    report = Rescored()
    times = micros(answers["ts"]).tolist()
    for t, answer in zip(times, answers.drop_columns(["ts"]).to_pylist(), strict=True):
        skipped = (
            answer["model"] != bundle.version or answer["schema_hash"] != features.schema_hash or not answer["formula"]
            or answer["query"] is not None or answer["slot"] in boosted or answer["degraded"] or not answer["items"]
        )  # fmt: skip
        if skipped:
            report.skipped += 1
            continue
        _compare(bundle, features, answer, t, report)
    return report


def _compare(bundle: Bundle, features: FeatureSet, answer: dict, t: int, report: Rescored) -> None:
    keys, count = hash64s(answer["items"]), len(answer["items"])
    rows = Rows(
        np.array(answer["numeric"], np.float32).reshape(count, len(features.numeric)),
        np.array(answer["categorical"], np.int64).view(np.uint64).reshape(count, len(features.categorical)),
        _recent(features, answer["sequences"]),
        t=t,
        commit=0,
        p=0,
    )
    value = bundle.score(rows, keys, objective=parse_formula(answer["formula"], where="the log")).value.astype(np.float32)
    logged, known = np.array(answer["scores"], np.float32), bundle.index.find(keys) >= 0
    report.answers += 1
    report.scores += int(known.sum())
    report.later += int((~known).sum())
    differ = np.flatnonzero(known & (value != logged)).tolist()
    report.unequal += len(differ)
    for place in differ[: EXAMPLES_MAX - len(report.examples)]:
        report.examples.append(Moved(answer["request_id"], answer["items"][place], float(logged[place]), float(value[place])))


def _recent(features: FeatureSet, packed: bytes) -> dict[str, Recent]:
    """The sequences as the log keeps them, see `features.Sequence.lists`."""
    steps = {step.name: step for step in features.layout.steps if step.kind == "sequence"}
    found = {}
    for name, (items, types, ts, *more) in (_sequences.decode(packed) if packed else {}).items():
        values = values_of(steps[name], [np.array(bits, np.uint64).view(np.int64) for bits in more])
        found[name] = Recent(np.array(items, np.uint64), np.array(types, np.uint64), np.array(ts, np.int64), values)
    return found
