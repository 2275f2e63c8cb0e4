"""A serve process of a drill: python -m tests.faults.drills.child '{"data": …}'.

It loads no more than one of a project does.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tests.support.shops import shop_plan

from tailorbird.events import RoutePlan
from tailorbird.serving.server import ServeOptions, run
from tailorbird.store import CopyTarget
from tailorbird.store.hedge import Hedge
from tailorbird.stream import Stream


@dataclass
class Part:
    """Addresses of a serve process's parts.

    Attributes:
        valkey: to read features from; "" reads the state's own folder.
        kafka: brokers to write to, `host:port`; "" writes files.
        port: 0 for any.
        cpu: the only one that it may use; None for all.
    """

    data: str
    valkey: str = ""
    kafka: str = ""
    port: int = 0
    cpu: int | None = None


def open_stream(data: Path, kafka: str) -> Stream:
    """Return the stream that servers write to."""
    if not kafka:
        return data / "stream"
    from tests.support.network.brokers import CLIENT_OPTIONS

    from tailorbird.stream.kafka import Cluster
    from tailorbird.stream.kafka.logs import KafkaLogSet

    return KafkaLogSet(
        Cluster(kafka, "drill", options=CLIENT_OPTIONS, timeout_s=3), data / "stream"
    )


def main() -> None:
    part = msgspec.convert(json.loads(sys.argv[1]), Part)
    if part.cpu is not None:
        os.sched_setaffinity(0, {part.cpu})
    data = Path(part.data)
    copies = CopyTarget(part.valkey, "drill", hedge=Hedge()) if part.valkey else None
    options = ServeOptions(
        stream=open_stream(data, part.kafka),
        routed=data / "routed.db",
        state=data / "state",
        registry=data / "registry",
        run=data / "run",
        features=shop_plan.feature_set(),
        slots=shop_plan.slots(),
        plan=RoutePlan(),
        port=part.port,
        is_port_explicit=bool(part.port),
        copies=copies,
        candidates=data / "candidates",
        contract=shop_plan.contract,
    )
    run(options)


if __name__ == "__main__":
    main()
