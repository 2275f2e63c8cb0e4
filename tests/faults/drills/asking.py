"""The client process of a drill, which retries a failed request once, as applications do.

    python -m tests.faults.drills.asking URL… --requests 30000 --rate 150 --out FILE

Requests are due at fixed times, and sent then unless `AT_ONCE` are under way; late ones are sent at
once. Latency counts from the time at which a request was due, the second try included, so that a
stall counts for all requests due meanwhile. There is a client for each server, which begins with
that one; each sends clicks too, as an application does: recorded, and sent by its outbox.
`drills.flood` sends more than servers can take.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tailorbird.client import AsyncClient
from tailorbird.errors import TailorbirdError

PEOPLE, ITEMS = 200, 40
TIMEOUT_S = 2.0
AT_ONCE = 8
CLICK_EVERY = 10  # requests
SENT_S = 60.0  # within which the outbox must be empty, once the last request was asked


@dataclass
class Tally:
    """Outcomes of the requests: send time (monotonic), latency, and missing parts."""

    began: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    lacked: list[str] = field(
        default_factory=list
    )  # codes joined by +, "" for none; "!" and the reason if there are no items
    models: Counter[str] = field(default_factory=Counter)
    retry_count: int = 0
    clicks: list[str] = field(default_factory=list)  # that were tracked
    unsent: int = 0  # of those, not decided when it was over

    def note(self, began: float, lacked: str, model: str = "") -> None:
        self.began.append(began)
        self.ms.append((time.monotonic() - began) * 1_000)
        self.lacked.append(lacked)
        self.models[model] += 1


async def send_requests(urls: list[str], requests: int, rate: float) -> Tally:
    """Send so many requests, at a rate or as fast as responses come."""
    tally, numbers, start = Tally(), iter(range(requests)), time.monotonic()
    async with AsyncExitStack() as stack:
        rotated_urls = [urls[index:] + urls[:index] for index in range(len(urls))]
        clients = [
            await stack.enter_async_context(AsyncClient(address, timeout_s=TIMEOUT_S, attempts=2))
            for address in rotated_urls
        ]

        async def send() -> None:
            for number in numbers:
                due, client, person = (
                    start + number / rate,
                    clients[number % len(clients)],
                    f"u{number % PEOPLE}",
                )
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                if number % CLICK_EVERY == 0:
                    tally.clicks.append(
                        client.track("click", user_id=person, item_id=f"i{number % ITEMS}")
                    )
                try:
                    answer = await client.recommend("home", user_id=person)
                except TailorbirdError as error:
                    tally.note(due, f"!{error.message}")
                    continue
                tally.note(
                    due, "+".join(answer.degraded) if answer.items else "!no items", answer.model
                )

        await asyncio.gather(*(send() for _ in range(AT_ONCE)))
        tally.retry_count = sum(client.retry_count for client in clients)
        await asyncio.gather(*(client.flush(SENT_S) for client in clients))
        tally.unsent = sum(client.waiting_count for client in clients)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.write_text(
        json.dumps(vars(asyncio.run(send_requests(options.urls, options.requests, options.rate))))
    )


if __name__ == "__main__":
    main()
