"""The state of one request in the pipeline: the person, what was gathered, and the candidates."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.candidates.protocol import NO_TABLES, CandidateRequest
from tailorbird.candidates.query import RequestLists
from tailorbird.events import Event, Receipt, RoutePlan, check_body
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.features import ReadRequest, Rows
from tailorbird.features import Sequence as EventSequence
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle, Scores
from tailorbird.ranking.tower import UserQuery
from tailorbird.retrieval import Index, TextColumn
from tailorbird.retrieval.columns import is_boolean
from tailorbird.serving.experiments import Assignment
from tailorbird.serving.messages import Query, QueryError, RankQuery
from tailorbird.serving.pipeline.explain import select_feature_rows
from tailorbird.serving.pipeline.formulas import Formula
from tailorbird.serving.pipeline.protocols import FeatureAccess

RowIndices = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

AnyQuery = TypeVar("AnyQuery", bound=Query)

SEARCH_LIFT_MAX = 1.0  # a hit is lifted to at most twice its text score
_encode = msgspec.json.Encoder().encode
_ROUTE_PLAN = RoutePlan()


@dataclass
class Request:
    """The state of one request: its query, its person, and what was gathered so far."""

    id: str
    slot: Slot
    query: Query
    bundle: Bundle | None
    feature_access: FeatureAccess
    index: Index | None
    now: int
    read_request: ReadRequest
    anonymous_id: str | None
    search_text: str | None = None
    person: str = ""  # the id that features know, else that of the query
    assignment: Assignment = field(default_factory=Assignment)
    requested_slot: str = ""  # `slot` may be that of an arm
    formula: Formula = field(default_factory=lambda: Formula({}))
    ranked_lists: RequestLists = field(
        default_factory=lambda: RequestLists(NO_TABLES, CandidateRequest())
    )
    live_columns: Matrix | None = None  # of the scored candidates, computed from `ranked_lists`
    recent_events: EventSequence | None = None
    sequences: Mapping[str, EventSequence] = field(default_factory=dict)
    user_query: UserQuery | None = None  # the person's vector, if retrieval computed it
    user_features: Mapping[str, str | float | bool | None] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)
    may_score: bool = True  # whether the bundle's model may score
    has_stale_features: bool = False  # features of an earlier request are used
    assigned_version: str = ""  # the version selected for the person
    failure_reason: str = ""  # why it did not answer: `error`, `not_finite`, or `breaker_open`
    shadow_version: str = ""  # version that computed `shadow_scores`
    shadow_scores: list[float] = field(default_factory=list)
    shadow_us: int = 0
    champion_us: int = 0  # that the answering version took for the same items; 0: not timed
    contributed_counts: dict[str, int] = field(
        default_factory=dict
    )  # by source: number of candidates that it found first
    started_at: float = field(default_factory=time.perf_counter)

    @property
    def arm(self) -> str:
        """The arm that answers; "" outside an experiment."""
        return self.assignment.arm

    @property
    def policy(self) -> str:
        """The policy that answers."""
        return self.assignment.policy

    @property
    def judged_baseline(self) -> str:
        """The baseline judged best, if it answers although a model was intended; otherwise ""."""
        return self.bundle.baseline if self.bundle is not None and self.policy == "model" else ""

    def mark_degraded(self, code: str) -> None:
        """Name what the answer lacks, once, by a code of `degraded`."""
        if code not in self.degraded:
            self.degraded.append(code)


@dataclass(frozen=True)
class Candidates:
    """Items to be ranked: rows of the index (-1: not in it), ids, keys, the source of each, and its
    score there.
    """

    rows: RowIndices
    ids: Sequence[str]
    keys: Keys
    sources: Sequence[str]
    scores: Floats

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, positions: RowIndices) -> "Candidates":
        """Return the candidates at some positions, in that order."""
        position_list = positions.tolist()
        ids = [self.ids[position] for position in position_list]
        sources = [self.sources[position] for position in position_list]
        return Candidates(
            self.rows[positions], ids, self.keys[positions], sources, self.scores[positions]
        )

    def concat(self, other: "Candidates") -> "Candidates":
        """Append other candidates, which must be distinct from these."""
        return Candidates(
            np.concatenate([self.rows, other.rows]),
            [*self.ids, *other.ids],
            np.concatenate([self.keys, other.keys]),
            [*self.sources, *other.sources],
            np.concatenate([self.scores, other.scores]),
        )


@dataclass(frozen=True)
class Ranking:
    """Candidates with the values that order them, shape (n,), and what the model read and said.

    Attributes:
        model_values: the values before those of the search are added.
        text_values: the values before boosts.
        feature_rows: features of the candidates, if they were read.
        live_columns: of the candidates, if the model scored.
    """

    candidates: Candidates
    model_values: Floats
    text_values: Floats
    values: Floats
    feature_rows: Rows | None = None
    scores: Scores | None = None
    live_columns: Matrix | None = None

    def select(self, positions: RowIndices) -> "Ranking":
        """Return the candidates at some positions, in that order."""
        scores = self.scores
        if scores is not None:
            heads = {name: column[positions] for name, column in scores.heads.items()}
            scores = Scores(heads, scores.value[positions])
        return Ranking(
            self.candidates.select(positions),
            self.model_values[positions],
            self.text_values[positions],
            self.values[positions],
            None
            if self.feature_rows is None
            else select_feature_rows(self.feature_rows, positions),
            scores,
            None if self.live_columns is None else self.live_columns[positions],
        )


NO_CANDIDATES = Candidates(np.zeros(0, np.intp), (), np.zeros(0, np.uint64), (), np.zeros(0))


def context_fields(request: Request) -> dict[str, Any]:
    """Return the fields of `context.*` in rules and conditions."""
    return msgspec.structs.asdict(request.query.context) | {
        "local_hour": request.read_request.local_hour
    }


def require_contract(query: Query, now: int) -> None:
    """Refuse ids and context that the contract would refuse in the answer's own event.

    Such an answer could not be logged.
    """
    probe_event = Event(
        "query",
        "search",
        ts=now,
        user_id=query.user_id,
        anonymous_id=query.anonymous_id or "anyone",
        session_id=query.session_id,
        items=query.items if isinstance(query, RankQuery) else None,
        context=query.context,
    )
    _, refusals = check_body(_encode(probe_event), Receipt(now), _ROUTE_PLAN)
    for refusal in refusals:
        raise QueryError(refusal.message, path=refusal.path, code=refusal.code)


def normalise_country(query: AnyQuery) -> AnyQuery:
    """Return the query with its country in capital letters, as the router stores it.

    Training then reads for the answer what was read here.
    """
    country = query.context.country
    if country is None or country.isupper():
        return query
    return msgspec.structs.replace(
        query, context=msgspec.structs.replace(query.context, country=country.upper())
    )


def pseudonymise_query(query: AnyQuery, pseudonyms: Pseudonyms | None) -> AnyQuery:
    """Return the query under the pseudonyms of its people, if the project has such."""
    if pseudonyms is None:
        return query
    user_id = query.user_id and pseudonyms.user_id(query.user_id)
    anonymous_id = query.anonymous_id and pseudonyms.anonymous_id(query.anonymous_id)
    return msgspec.structs.replace(query, user_id=user_id, anonymous_id=anonymous_id)


def require_filters(query: Query) -> None:
    """Refuse filters that no attribute could match, rather than show nothing."""
    for name, condition in query.filters.items():
        if isinstance(condition, dict):
            values = _require_range(name, condition)
        else:
            values = condition if isinstance(condition, list) else [condition]
            for value in values:
                if not isinstance(value, str | int | float):
                    raise QueryError(
                        f"expected a text, a number or a list of them, got {_json_kind(value)}",
                        path=_field_path(name),
                    )
        if any(isinstance(value, int) and abs(value) >= 1 << 63 for value in values):
            raise QueryError("expected a number of at most 64 bits", path=_field_path(name))


def _require_range(name: str, bounds: Mapping[str, Any]) -> list[Any]:
    """Return the bounds of a range, or raise QueryError."""
    fix = f'{{"{name[:60]}": {{"min": 10, "max": 50}}}}, or only one of the two'
    if not bounds:
        raise QueryError(
            "expected min, max or both, got an empty object", path=_field_path(name), fix=fix
        )
    for key, value in bounds.items():
        if key not in ("min", "max"):
            raise QueryError(
                f"a range has min and max, and no {key[:60]!r}", path=_field_path(name), fix=fix
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            fix = (
                f"leave {key} out where there is no bound"
                if value is None
                else "write it as a number"
            )
            raise QueryError(
                f"expected a number, got {_json_kind(value)}",
                path=f"{_field_path(name)}.{key}",
                fix=fix,
            )
    return list(bounds.values())


def _json_kind(value: Any) -> str:
    """Return the JSON kind of a value for error messages."""
    if isinstance(value, bool):
        return "true or false"
    kind_by_type = {
        str: "a text",
        list: "a list",
        dict: "an object",
        int: "a number",
        float: "a number",
    }
    return kind_by_type.get(type(value), "null")


def filter_mask(index: Index, rows: RowIndices, query: Query) -> Mask:
    """Return which candidates have the attributes that the query requires."""
    mask = np.ones(rows.size, bool)
    for name, condition in query.filters.items():
        column = index.attributes.get(name)
        if column is None:
            raise QueryError(
                f"no item has an attribute {name[:60]!r}",
                path=_field_path(name),
                code="unknown_attribute",
            )
        if isinstance(condition, dict):
            if isinstance(column, TextColumn):
                raise QueryError(
                    "expected a text or a list of texts: only a number has min and max",
                    path=_field_path(name),
                )
            mask &= (column[rows] >= float(condition.get("min", -np.inf))) & (
                column[rows] <= float(condition.get("max", np.inf))
            )
            continue
        values = condition if isinstance(condition, list) else [condition]
        if any(isinstance(value, bool) for value in values) and not is_boolean(column):
            raise QueryError(
                "expected a text or a number, as items have here, which is not true or false",
                path=_field_path(name),
            )
        if isinstance(column, TextColumn):
            mask &= np.isin(column.codes[rows], [column.code(str(value)) for value in values])
        else:
            if any(isinstance(value, str) for value in values):
                raise QueryError(
                    "expected a number or a list of numbers, got text", path=_field_path(name)
                )
            mask &= np.isin(column[rows], [float(value) for value in values])
    return mask


def require_facets(request: Request, names: Sequence[str]) -> None:
    """Refuse facets of an attribute that no item has, rather than leave them out.

    As with `filters`, this applies once there are items.
    """
    if request.index is None or not len(request.index):
        return
    for name in names:
        if name not in request.index.attributes:
            raise QueryError(
                f"no item has an attribute {name[:60]!r}", path="$.facets", code="unknown_attribute"
            )


def _field_path(attribute: str) -> str:
    return f"$.filters.{attribute[:60]}"


def lift_text_scores(text_scores: Floats, model_values: Floats) -> Floats:
    """Multiply text scores by a lift of the ranker, at most 1 + SEARCH_LIFT_MAX."""
    highest = float(model_values.max(initial=0.0))
    relative_values = (
        np.maximum(model_values, 0.0) / highest if highest > 0 else np.zeros_like(model_values)
    )
    return text_scores * (1.0 + SEARCH_LIFT_MAX * relative_values)
