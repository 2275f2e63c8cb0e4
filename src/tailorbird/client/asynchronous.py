"""The client for an event loop; `blocking` has the one for threads, which drives this one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack
from urllib.parse import quote
from uuid import uuid4

import msgspec

from tailorbird.client.outbox import BATCH_MAX, GATHER_S, QUEUE_MAX, Outbox
from tailorbird.client.parameters import EventFields, QueryOptions, SearchOptions
from tailorbird.client.transport import ClosedError, Reply, Transport, to_refused_error
from tailorbird.errors import UsageError
from tailorbird.events import Clock, SystemClock
from tailorbird.events.keys import to_id_text
from tailorbird.pages.notebook import text_html
from tailorbird.serving.messages import (
    ChurnResponse,
    EventDecision,
    Item,
    RankQuery,
    Receipts,
    RecommendQuery,
    RecommendResponse,
    SearchQuery,
    Similar,
)

T = TypeVar("T")
BODY_BYTES_MAX = 512 << 10
_encode = msgspec.json.Encoder().encode
_receipts_decoder = msgspec.json.Decoder(Receipts)


class AsyncClient:
    """A client of one server, or of several interchangeable ones. Create it within a running loop.

    `async with` closes it.

    Args:
        urls: the server's address, or several; where one does not answer, the next is called.
        key: of `tailorbird keys create`; a read key queries, a write key sends.
        timeout_s: for a request with all its attempts.
        attempts: how often a request is tried.
        batch_max: tracked events in one body.
        gather_s: how long `track` waits for more events.
        queue_max: how many tracked events may wait.
        spool: a folder of this client's own in which tracked events outlive the process when no
            server takes them.
    Raises:
        UsageError: an address is invalid.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        key: str = "",
        timeout_s: float = 2.0,
        attempts: int = 2,
        connections: int = 100,
        batch_max: int = BATCH_MAX,
        gather_s: float = GATHER_S,
        queue_max: int = QUEUE_MAX,
        spool: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._transport = Transport(
            [urls] if isinstance(urls, str) else urls,
            key,
            timeout_s=timeout_s,
            attempts=attempts,
            connections=connections,
        )
        self._clock = clock or SystemClock()
        self._timeout_s = timeout_s
        self._batch_max = batch_max
        self._outbox = Outbox(
            self._send_waiting_events,
            batch_max=batch_max,
            gather_s=gather_s,
            queue_max=queue_max,
            spool=spool,
        )
        self._is_closed = False

    def __repr__(self) -> str:
        return (
            f"AsyncClient({', '.join(self._transport.urls)}; {self.waiting_count} events waiting)"
        )

    _repr_html_ = text_html

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def waiting_count(self) -> int:
        """The number of tracked events that no server has taken yet."""
        return len(self._outbox)

    @property
    def retry_count(self) -> int:
        """The number of requests that were retried."""
        return self._transport.retry_count

    async def recommend(self, slot: str, **query: Unpack[QueryOptions]) -> RecommendResponse:
        """Recommend items for a slot of the site.

        Raises:
            RefusedError: the server refuses the query, with the reason.
            UnreachableError: no server answers; show what you would without recommendations.
            UsageError: the query is invalid, and was not sent.
            ClosedError: the client is closed.
        """
        return await self._query(
            "/v1/recommend", _to_query(RecommendQuery, {"slot": slot, **query})
        )

    async def rank(
        self, slot: str, items: Sequence[str | int], **query: Unpack[QueryOptions]
    ) -> RecommendResponse:
        """Order the caller's own items for a person. Raises as `recommend`."""
        return await self._query(
            "/v1/rank", _to_query(RankQuery, {"slot": slot, "items": list(items), **query})
        )

    async def search(self, text: str, **query: Unpack[SearchOptions]) -> RecommendResponse:
        """Find items by words, ordered for a person. Raises as `recommend`."""
        return await self._query("/v1/search", _to_query(SearchQuery, {"query": text, **query}))

    async def churn(
        self, user_id: str | int, model: str = "churn", *, explain: bool = False
    ) -> ChurnResponse:
        """Return the probability that a user leaves, by a model of churn.py.

        `explain` adds what moves the score. Raises as `recommend`.
        """
        query = {"model": model, "explain": "true" if explain else "false"}
        return _decode(
            await self._request(
                "GET", f"/v1/users/{quote(to_id_text(user_id), safe='')}/churn", query=query
            ),
            ChurnResponse,
        )

    async def similar(self, item_id: str | int, size: int = 12, slot: str = "") -> Similar | None:
        """Return items related to an item, or None if the live index does not know it.

        With a slot, they are those that its rules and lists allow for everybody. Raises as
        `recommend`.
        """
        query = {"size": str(size)} | ({"slot": slot} if slot else {})
        reply = await self._request(
            "GET", f"/v1/items/{quote(to_id_text(item_id), safe='')}/similar", query=query
        )
        return None if reply.status == 404 else _decode(reply, Similar)

    async def item(self, item_id: str | int) -> Item | None:
        """Return an item of the live index, or None. Raises as `recommend`."""
        reply = await self._request("GET", f"/v1/items/{quote(to_id_text(item_id), safe='')}")
        return None if reply.status == 404 else _decode(reply, Item)

    async def send(self, events: Sequence[Mapping[str, Any]]) -> Receipts:
        """Send events and wait until they are durable; return one decision for each, in order.

        A refused event is reported there and raises nothing. An event without `event_id` gets one,
        and one without `ts` the current time.

        Raises:
            UnreachableError: no server answered; some may have arrived. Send them again with the
                same `event_id`: they count once.
            RefusedError: the request as a whole is refused (its key, its size).
            ClosedError: the client is closed.
        """
        self._require_open()
        return await self._send_encoded([self._build_event(event) for event in events])

    def track(self, type: str, **fields: Unpack[EventFields]) -> str:
        """Queue an event to be sent soon with others, and return its `event_id`.

        Does not wait, and does not fail with the server.

        Raises:
            OutboxFullError: too many events wait already.
            UsageError: it cannot be encoded as JSON.
            ClosedError: the client is closed; the event was not taken.
        """
        self._require_open()
        event_id = fields.get("event_id") or uuid4().hex
        self._outbox.add(self._build_event({"type": type, **fields, "event_id": event_id}))
        return event_id

    async def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until all tracked events are decided; return False on timeout."""
        self._require_open()
        return await self._outbox.flush(timeout_s)

    async def close(self, timeout_s: float = 5.0) -> int:
        """Send what waits, spool the rest and close; return the number of lost events.

        Events are lost only without both a server and a spool. A second call does nothing. Calls
        from then on, and those that still wait for an answer, raise ClosedError.
        """
        if self._is_closed:
            return 0
        self._is_closed = True
        lost_events = await self._outbox.close(timeout_s)
        await self._transport.close()
        return lost_events

    def _require_open(self) -> None:
        if self._is_closed:
            raise ClosedError

    async def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        query: Mapping[str, str] | None = None,
    ) -> Reply:
        self._require_open()
        return await self._transport.request(method, path, body, query=query)

    def _build_event(self, event: Mapping[str, Any]) -> bytes:
        fields = {"event_id": uuid4().hex, "ts": self._clock.now(), **_with_text_ids(event)}
        return _encode_json(fields, "an event", str(event.get("type", "")))

    async def _send_waiting_events(self, events: Sequence[bytes]) -> Receipts:
        # The outbox repeats what fails, after a backoff of its own.
        return await self._send_encoded(events, has_backoff=True)

    async def _send_encoded(
        self, events: Sequence[bytes], *, has_backoff: bool = False
    ) -> Receipts:
        decisions: list[EventDecision] = []
        accepted_count = 0
        for batch in _split_batches(events, self._batch_max):
            receipts = await self._send_batch(batch, has_backoff)
            decisions += receipts.events
            accepted_count += receipts.accepted
        return Receipts(accepted_count, len(decisions) - accepted_count, decisions)

    async def _send_batch(self, batch: Sequence[bytes], has_backoff: bool) -> Receipts:
        reply = await self._transport.request(
            "POST", "/v1/events", b"[" + b",".join(batch) + b"]", has_backoff=has_backoff
        )
        if reply.status in (200, 400):
            try:
                receipts = _receipts_decoder.decode(reply.body)
            except msgspec.MsgspecError:
                raise to_refused_error(reply) from None  # the request as a whole was refused
            if len(receipts.events) == len(batch) or len(batch) == 1:
                return receipts
            # One event kept the server from splitting the body, so the others are sent again
            # without it.
            half_size = len(batch) // 2
            first_half = await self._send_batch(batch[:half_size], has_backoff)
            second_half = await self._send_batch(batch[half_size:], has_backoff)
            return Receipts(
                first_half.accepted + second_half.accepted,
                first_half.refused + second_half.refused,
                [*first_half.events, *second_half.events],
            )
        raise to_refused_error(reply)

    async def _query(self, path: str, query: msgspec.Struct) -> RecommendResponse:
        return _decode(
            await self._request("POST", path, _encode_json(query, "a question", path)),
            RecommendResponse,
        )


def _encode_json(document: Any, description: str, where: str) -> bytes:
    """Encode a document as JSON. Raise UsageError if that is impossible.

    That includes a text with half a surrogate pair, as Python decodes "\\ud83d" from JSON.
    """
    try:
        return _encode(document)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise UsageError(f"{description} cannot be written as JSON: {error}", where=where) from None


def _with_text_ids(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields whose ids are texts, also where numbers were given."""
    return {
        name: [to_id_text(id_) for id_ in value]
        if name in ("items", "exclude") and isinstance(value, list | tuple)
        else to_id_text(value)
        if name.endswith("_id")
        else value
        for name, value in fields.items()
    }


def _to_query(query_type: type[T], fields: dict[str, Any]) -> T:
    try:
        return msgspec.convert(
            _with_text_ids({name: value for name, value in fields.items() if value is not None}),
            query_type,
            from_attributes=True,
        )
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        raise UsageError(
            message[:1].lower() + message[1:], where=path.rstrip("`") or "query"
        ) from None


def _decode(reply: Reply, message_type: type[T]) -> T:
    if reply.status != 200:
        raise to_refused_error(reply)
    try:
        return msgspec.json.decode(reply.body, type=message_type)
    except msgspec.MsgspecError:
        raise to_refused_error(Reply(reply.status, b"")) from None


def _split_batches(events: Sequence[bytes], batch_max: int) -> list[list[bytes]]:
    batches: list[list[bytes]] = [[]]
    batch_bytes = 0
    for event in events:
        if batches[-1] and (
            len(batches[-1]) >= batch_max or batch_bytes + len(event) > BODY_BYTES_MAX
        ):
            batches.append([])
            batch_bytes = 0
        batches[-1].append(event)
        batch_bytes += len(event) + 1
    return [batch for batch in batches if batch]
