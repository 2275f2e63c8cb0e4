"""The client of threads: the asynchronous one, on a loop of its own in a thread of its own."""

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from tailorbird.client.asynchronous import AsyncClient
from tailorbird.serving.messages import Answer, ChurnAnswer, Item, Receipts, Similar

T = TypeVar("T")


class Client:
    """Talks to a server from any thread. Takes what `AsyncClient` takes; make it after a fork, for its thread does not survive one.

    Call `close`, or use it in `with`: what was tracked within the last moments is sent then.
    """

    def __init__(self, urls: str | Sequence[str], **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tailorbird-client", daemon=True)
        self._thread.start()
        try:
            self._client = self._wait(_made(urls, settings))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """Tracked events that no server has taken yet."""
        return self._client.waiting

    @property
    def retried(self) -> int:
        """Requests that were tried again."""
        return self._client.retried

    def recommend(self, slot: str, **query: Any) -> Answer:
        """As `AsyncClient.recommend`."""
        return self._wait(self._client.recommend(slot, **query))

    def rank(self, slot: str, items: Sequence[str], **query: Any) -> Answer:
        """As `AsyncClient.rank`."""
        return self._wait(self._client.rank(slot, items, **query))

    def search(self, text: str, **query: Any) -> Answer:
        """As `AsyncClient.search`."""
        return self._wait(self._client.search(text, **query))

    def churn(self, user_id: str, model: str = "churn", *, explain: bool = False) -> ChurnAnswer:
        """As `AsyncClient.churn`."""
        return self._wait(self._client.churn(user_id, model, explain=explain))

    def similar(self, item_id: str, size: int = 12, slot: str = "") -> Similar | None:
        """As `AsyncClient.similar`."""
        return self._wait(self._client.similar(item_id, size, slot))

    def item(self, item_id: str) -> Item | None:
        """As `AsyncClient.item`."""
        return self._wait(self._client.item(item_id))

    def send(self, events: Sequence[Mapping[str, Any]]) -> Receipts:
        """As `AsyncClient.send`."""
        return self._wait(self._client.send(events))

    def track(self, type: str, **fields: Any) -> str:
        """As `AsyncClient.track`."""
        return self._client.track(type, **fields)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """As `AsyncClient.flush`."""
        return self._wait(self._client.flush(timeout_s))

    def close(self, timeout_s: float = 5.0) -> int:
        """As `AsyncClient.close`; a second call does nothing."""
        if not self._thread.is_alive():
            return 0
        try:
            return self._wait(self._client.close(timeout_s))
        finally:
            self._stop()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _made(urls: str | Sequence[str], settings: dict[str, Any]) -> AsyncClient:
    return AsyncClient(urls, **settings)
