"""Metric families as bytes, so that one process answers `/metrics` for several."""

from collections.abc import Iterable

import msgspec
from prometheus_client import CollectorRegistry, Metric, generate_latest


class _Family(msgspec.Struct, frozen=True, array_like=True):
    name: str
    text: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]


def encode_families(families: Iterable[Metric], process: str) -> bytes:
    """Encode families, with the label `process` on each sample."""
    return msgspec.msgpack.encode(
        [
            _Family(
                family.name,
                family.documentation,
                family.type,
                [
                    (sample.name, {**sample.labels, "process": process}, sample.value)
                    for sample in family.samples
                ],
            )
            for family in families
        ]
    )


def merge_families(families_per_process: Iterable[bytes]) -> bytes:
    """Return the text of the families of several processes, each family once."""
    families: dict[str, Metric] = {}
    for encoded_families in families_per_process:
        for family in msgspec.msgpack.decode(encoded_families, type=list[_Family]):
            merged_family = families.setdefault(
                family.name, Metric(family.name, family.text, family.kind)
            )
            for name, labels, value in family.samples:
                merged_family.add_sample(name, labels, value)
    registry = CollectorRegistry()
    registry.register(_CollectedFamilies(families.values()))
    return generate_latest(registry)


class _CollectedFamilies:
    """Families that are collected already, as a collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
