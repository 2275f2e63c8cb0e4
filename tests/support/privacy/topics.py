"""A site whose logs are topics, and what is left in them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.network.brokers import CLIENT_OPTIONS, MISSING_REASON, broker
from tests.support.people import CANARY, Site, find_in_files, make_site, read_all_topics


@contextmanager
def make_topic_site(folder: Path, partitions: int, *, canaries: int, others: int) -> Iterator[Site]:
    """A site whose logs are topics of a broker; without one, the test is skipped."""
    if MISSING_REASON:
        pytest.skip(MISSING_REASON)
    with broker(folder) as servers:
        yield make_site(
            folder,
            canaries=canaries,
            others=others,
            settings=topic_settings(servers, folder, partitions),
        )


def topic_settings(servers: str, folder: Path, partitions: int) -> str:
    client = json.dumps([f"{name}={value}" for name, value in CLIENT_OPTIONS.items()])
    return (
        f'\n[stream]\nurl = "kafka://{servers}/{folder.name.lower()}"\nclient = '
        f"{client}\npartitions = {partitions}\n"
    )


def find_canaries(site: Site) -> list[str]:
    needles = [CANARY, *site.hashes, *(one.encode() for one in site.requests)]
    return [
        *find_in_files(site.root, *needles),
        *(
            file_name
            for file_name, data in read_all_topics(site.project)
            if any(one in data for one in needles)
        ),
    ]
