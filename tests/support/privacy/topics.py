"""A site whose logs are topics, and what is left in them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.network.brokers import OPTIONS, WHY_NOT, broker
from tests.support.people import CANARY, Site, in_topics, left_of, make_site


@contextmanager
def in_topics_of(folder: Path, partitions: int, *, canaries: int, others: int) -> Iterator[Site]:
    """A site whose logs are topics of a broker; without one, the test is skipped."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with broker(folder) as servers:
        yield make_site(
            folder, canaries=canaries, others=others, settings=on(servers, folder, partitions)
        )


def on(servers: str, folder: Path, partitions: int) -> str:
    client = json.dumps([f"{name}={value}" for name, value in OPTIONS.items()])
    return (
        f'\n[stream]\nurl = "kafka://{servers}/{folder.name.lower()}"\nclient = '
        f"{client}\npartitions = {partitions}\n"
    )


def left(site: Site) -> list[str]:
    needles = [CANARY, *site.hashes, *(one.encode() for one in site.requests)]
    return [
        *left_of(site.root, *needles),
        *(where for where, data in in_topics(site.project) if any(one in data for one in needles)),
    ]
