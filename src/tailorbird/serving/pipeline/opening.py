"""Opening of a request: its person, bundle, features and experiment arm, with fallback bundles."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from tailorbird.candidates.batch import segment_keys
from tailorbird.candidates.protocol import CandidateRequest, CandidateTables
from tailorbird.candidates.query import RequestLists
from tailorbird.events import HOUR, MINUTE, Clock
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.features import ReadRequest
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.retrieval import Index
from tailorbird.serving.experiments import Assignment
from tailorbird.serving.messages import Query, SearchQuery
from tailorbird.serving.pipeline.protocols import (
    ArmAssigner,
    BundleSelector,
    FeatureAccess,
    FeatureProvider,
    FormulaProvider,
    IndexOverlay,
    TableProvider,
)
from tailorbird.serving.pipeline.request import (
    Request,
    context_fields,
    normalise_country,
    pseudonymise_query,
    require_contract,
    require_filters,
)
from tailorbird.serving.pipeline.stages import ModelUnavailableError, Stages

T = TypeVar("T")


class RequestOpener:
    """Opens requests, and runs work on them by the bundle of their person. Thread-safe.

    The arguments are those of `Pipeline`.
    """

    def __init__(
        self,
        bundle_selector: BundleSelector,
        feature_provider: FeatureProvider,
        table_provider: TableProvider,
        index_overlay: IndexOverlay,
        formula_provider: FormulaProvider,
        stages: Stages,
        slots: Mapping[str, Slot],
        arm_assigner: ArmAssigner,
        *,
        clock: Clock,
        pseudonyms: Pseudonyms | None,
    ) -> None:
        self._bundle_selector = bundle_selector
        self._feature_provider = feature_provider
        self._table_provider = table_provider
        self._index_overlay = index_overlay
        self._formula_provider = formula_provider
        self._stages = stages
        self._slots = slots
        self._arm_assigner = arm_assigner
        self._clock = clock
        self._pseudonyms = pseudonyms
        self._last_index: Index | None = None

    def current_bundle_and_index(self) -> tuple[Bundle | None, Index | None]:
        """Return the bundle that serves, and the current items."""
        bundle = self._bundle_selector.current()
        return bundle, self.current_index(bundle)

    def current_index(self, bundle: Bundle | None) -> Index | None:
        """Return the current items; those of the last index where the bundle has none."""
        index = self._index_overlay.overlay_for(bundle.index if bundle else None)
        if index is not None and len(index):
            self._last_index = index
            return index
        return self._last_index

    def run_query(self, query: Query, slot: Slot, answer_request: Callable[[Request], T]) -> T:
        """Check the query, open it with this person's bundle, or that of the arm, and answer it.

        Where its model fails, the fallback bundle answers, and then none.
        """
        now = self._clock.now()
        require_contract(query, now)
        require_filters(query)
        query = pseudonymise_query(normalise_country(query), self._pseudonyms)
        request_id = self._stages.draw_id()
        anonymous_id = query.anonymous_id
        if query.user_id is None and anonymous_id is None:
            anonymous_id = f"stranger-{request_id}"
        assigned_bundle = self._bundle_selector.for_person(query.user_id or f"anon:{anonymous_id}")
        assignment: Assignment | None = None
        failure_reason = ""
        fallback_bundles = self._fallback_chain(assigned_bundle)
        while True:  # an answer without a model cannot lose it
            bundle, may_score = next(fallback_bundles)
            with (
                self._feature_provider.open_features(bundle) as feature_access,
                self._table_provider.tables() as tables,
            ):
                request = self._open_request(
                    query,
                    slot,
                    now,
                    bundle,
                    feature_access,
                    tables,
                    request_id,
                    anonymous_id,
                    assignment,
                )
                assignment = request.assignment
                arm_bundle = (
                    self._bundle_selector.for_version(assignment.version)
                    if assignment.version
                    else None
                )
                if arm_bundle is not None and arm_bundle is not assigned_bundle:
                    # The person and the arm are known only now, and this bundle has its own state.
                    assigned_bundle = arm_bundle
                    fallback_bundles = self._fallback_chain(arm_bundle)
                    continue
                request.may_score = may_score
                request.failure_reason = failure_reason
                request.assigned_version = (
                    assigned_bundle.version if assigned_bundle is not None else ""
                )
                if bundle is not assigned_bundle or (
                    bundle is not None and may_score and self._bundle_selector.is_fallback(bundle)
                ):
                    request.mark_degraded("previous_model")
                elif not may_score:
                    request.mark_degraded("model")
                try:
                    return answer_request(request)
                except ModelUnavailableError as error:
                    failure_reason = failure_reason or error.reason

    def open_arm_requests(self, request: Request) -> list[Request]:
        """Return the request as each arm of an interleaved experiment sees it; else itself."""
        if not request.assignment.interleaved:
            return [request]
        arm_requests = []
        for assignment in request.assignment.interleaved:
            slot = self._slots[assignment.slot] if assignment.slot else request.slot
            formula = self._formula_provider.formula_for(slot)
            arm_requests.append(replace(request, assignment=assignment, slot=slot, formula=formula))
        return arm_requests

    def _fallback_chain(
        self, assigned_bundle: Bundle | None
    ) -> Iterator[tuple[Bundle | None, bool]]:
        """Yield the bundles to answer with in turn, and whether their model may score.

        That of the last one may not.
        """
        if assigned_bundle is not None:
            yield assigned_bundle, True
            champion = self._bundle_selector.current()
            fallback = (
                champion if champion is not assigned_bundle else self._bundle_selector.previous()
            )
            if fallback is not None and fallback.heads:
                yield fallback, True
        yield assigned_bundle, False

    def _open_request(
        self,
        query: Query,
        slot: Slot,
        now: int,
        bundle: Bundle | None,
        feature_access: FeatureAccess,
        tables: CandidateTables,
        request_id: str,
        anonymous_id: str | None,
        assignment: Assignment | None,
    ) -> Request:
        """Identify the person, and assign the arm unless it was assigned already."""
        index = self.current_index(bundle)
        context = query.context
        local_hour = (now + (context.utc_offset_min or 0) * MINUTE) // HOUR % 24
        search_text = query.query if isinstance(query, SearchQuery) else None
        read_request = ReadRequest(
            person=None,
            anonymous_id=anonymous_id,
            session_id=query.session_id,
            device=context.device,
            country=context.country,
            local_hour=local_hour,
            now=now,
            query=search_text,
            user_id=query.user_id,
        )
        request = Request(
            request_id, slot, query, bundle, feature_access, index, now, read_request, anonymous_id
        )
        request.person = query.user_id or f"anon:{anonymous_id}"
        request.formula = self._formula_provider.formula_for(slot)
        with self._stages.time_stage("person"):
            self._load_person(request)
        recent_events = request.recent_events
        segments = segment_keys(
            {"device": context.device, "country": context.country, "referrer": context.referrer}
        )
        candidate_request = (
            CandidateRequest(segments=segments)
            if recent_events is None
            else CandidateRequest(recent_events.item, recent_events.ts, segments)
        )
        request.ranked_lists = RequestLists(tables, candidate_request, strict=False)
        request.requested_slot = slot.name
        session_key = query.session_id or request.person
        request.assignment = assignment or self._arm_assigner.assign(
            slot,
            request.person,
            session_key,
            query.arm or "",
            lambda condition: condition.holds(request.user_features, context_fields(request), now),
        )
        if request.assignment.slot:
            request.slot = self._slots[request.assignment.slot]
            request.formula = self._formula_provider.formula_for(request.slot)
        if bundle is not None and not len(bundle.index):
            request.mark_degraded("index")
        return request

    def _load_person(self, request: Request) -> None:
        """Read the person's recent items and own columns, which candidate sources need."""
        user_rows = self._stages.features.read_person(request)
        if user_rows is None:
            return
        request.person = user_rows.person or request.person
        if (
            not request.has_stale_features
        ):  # identity is fixed within a request, even if merged meanwhile
            request.read_request = replace(
                request.read_request,
                person=user_rows.person,
                now=max(request.read_request.now, user_rows.t),
            )
        sequence_names = list(user_rows.sequences)
        sequence_name = request.bundle.encoder.sequence if request.bundle is not None else ""
        if sequence_name in user_rows.sequences or sequence_names:
            request.sequences = user_rows.sequences
            request.recent_events = user_rows.sequences[
                sequence_name if sequence_name in user_rows.sequences else sequence_names[0]
            ]
        user_values = user_rows.numeric[0].tolist()
        request.user_features = {
            name: None if user_values[position] != user_values[position] else user_values[position]
            for position, name in request.feature_access.user_columns
        }
