"""The client for threads: the asynchronous one, on an event loop in a thread of its own."""

import asyncio
import os
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar, Unpack

from tailorbird.client.asynchronous import AsyncClient
from tailorbird.client.parameters import ClientSettings, EventFields, QueryOptions, SearchOptions
from tailorbird.client.transport import ClosedError
from tailorbird.errors import TailorbirdError, UsageError
from tailorbird.pages.notebook import text_html
from tailorbird.serving.messages import ChurnResponse, Item, Receipts, RecommendResponse, Similar

T = TypeVar("T")


class Client:
    """A client for any thread, with the parameters of `AsyncClient`.

    Create it after a fork, which its thread does not survive. Call `close`, or use it in `with`, to
    send the events that were tracked last.
    """

    def __init__(self, urls: str | Sequence[str], **settings: Unpack[ClientSettings]) -> None:
        self._process_id = os.getpid()
        self._lock = threading.Lock()
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tailorbird-client", daemon=True
        )
        self._thread.start()
        try:
            self._client = self._run(_create_client(urls, settings))
        except BaseException:
            self._stop_loop()
            raise

    def __repr__(self) -> str:
        return repr(self._client).removeprefix("Async")

    _repr_html_ = text_html

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def waiting_count(self) -> int:
        """The number of tracked events that no server has taken yet."""
        return self._client.waiting_count

    @property
    def retry_count(self) -> int:
        """The number of requests that were retried."""
        return self._client.retry_count

    def recommend(self, slot: str, **query: Unpack[QueryOptions]) -> RecommendResponse:
        """Recommend items for a slot, see `AsyncClient.recommend`."""
        return self._run(self._client.recommend(slot, **query))

    def rank(
        self, slot: str, items: Sequence[str | int], **query: Unpack[QueryOptions]
    ) -> RecommendResponse:
        """Order the caller's own items, see `AsyncClient.rank`."""
        return self._run(self._client.rank(slot, items, **query))

    def search(self, text: str, **query: Unpack[SearchOptions]) -> RecommendResponse:
        """Find items by words, see `AsyncClient.search`."""
        return self._run(self._client.search(text, **query))

    def churn(
        self, user_id: str | int, model: str = "churn", *, explain: bool = False
    ) -> ChurnResponse:
        """Return the probability that a user leaves, see `AsyncClient.churn`."""
        return self._run(self._client.churn(user_id, model, explain=explain))

    def similar(self, item_id: str | int, size: int = 12, slot: str = "") -> Similar | None:
        """Return items related to an item, see `AsyncClient.similar`."""
        return self._run(self._client.similar(item_id, size, slot))

    def item(self, item_id: str | int) -> Item | None:
        """Return an item of the live index, see `AsyncClient.item`."""
        return self._run(self._client.item(item_id))

    def send(self, events: Sequence[Mapping[str, Any]]) -> Receipts:
        """Send events and wait until they are durable, see `AsyncClient.send`."""
        return self._run(self._client.send(events))

    def track(self, type: str, **fields: Unpack[EventFields]) -> str:
        """Queue an event, see `AsyncClient.track`."""
        self._require_open()
        return self._client.track(type, **fields)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until all tracked events are decided, see `AsyncClient.flush`."""
        return self._run(self._client.flush(timeout_s))

    def close(self, timeout_s: float = 5.0) -> int:
        """Send what waits, spool the rest and close, see `AsyncClient.close`."""
        with self._lock:
            if self._is_closed:
                return 0
            self._is_closed = True
        try:
            return self._submit(self._client.close(timeout_s)).result()
        finally:
            self._stop_loop()

    def _require_open(self) -> None:
        if os.getpid() != self._process_id:
            raise UsageError(
                "the client was made before a fork, and its thread stayed behind",
                fix="make one in each process",
            )
        if self._is_closed:
            raise ClosedError

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            with self._lock:  # `close` ends earlier calls, and none begins after it
                self._require_open()
                future = self._submit(coroutine)
        except TailorbirdError:
            coroutine.close()
            raise
        try:
            return future.result()
        except CancelledError:
            raise ClosedError from None

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _stop_loop(self) -> None:
        self._submit(_cancel_tasks()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_tasks() -> None:
    """Cancel what other threads still wait for, so that they get an error."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _create_client(urls: str | Sequence[str], settings: ClientSettings) -> AsyncClient:
    return AsyncClient(urls, **settings)
