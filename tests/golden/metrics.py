"""The metrics of all roles: names, types and label names.

A server that nothing has happened to yet has no sample of most families, and so no labels. They
are taken from the same collectors, given an example of everything that they can tell.
"""

import json
from types import SimpleNamespace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from tests.golden.site import RecordedShop

from tailorbird.candidates.query import table_group
from tailorbird.config.roles import RoleState
from tailorbird.features.parity.totals import ParityTotals
from tailorbird.features.state.progress import CopyLag, KindProgress, WorkerProgress
from tailorbird.monitoring.figures import Figures as LiveFigures
from tailorbird.monitoring.figures.collector import FiguresCollector, RolloutCollector
from tailorbird.monitoring.notify.collector import NotifyCollector
from tailorbird.periodic import PeriodicTask
from tailorbird.probes import ProgressEvent
from tailorbird.serving.collector.decisions import CollectorFigures
from tailorbird.serving.load_shedding import Shedder
from tailorbird.serving.metric_collectors import ScoresCollector, role_metrics
from tailorbird.serving.metrics import Metrics
from tailorbird.serving.pipeline.deadlines import BreakerState
from tailorbird.serving.scores.log import ScoreFigures
from tailorbird.store.hedge import Hedge
from tailorbird.stream.lag import Lag

_ONE = {"example": 1}
# exposed after the lake's first comparison, a minute after the start
_LATER = "tailorbird_features_compare"


def metrics(shop: RecordedShop) -> str:
    """Return what can be exposed, and which role exposes what, as text."""
    families = _families(_server_metrics().decode()) | _families(_role_metrics().decode())
    exposed = {
        role: [name for name in sorted(_families(text)) if not name.startswith(_LATER)]
        for role, text in shop.metrics.items()
    }
    unknown = {name for names in exposed.values() for name in names} - families.keys()
    assert not unknown, f"add an example of these metrics to {__name__}: {sorted(unknown)}"
    recording = {"exposed by role": exposed, "families": families}
    return json.dumps(recording, indent=1, sort_keys=True) + "\n"


def _families(text: str) -> dict[str, dict[str, Any]]:
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: {
            "type": family.type,
            "labels": sorted({name for sample in family.samples for name in sample.labels}),
        }
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")  # by the client library, with the first sample
    }


def _server_metrics() -> bytes:
    """Return the metrics of a server to which everything has happened once."""
    server_metrics = Metrics()
    server_metrics.record_request("/example", 200, 0.1)
    server_metrics.record_stage("example", 0.1)
    server_metrics.observe_wait(0.1)
    server_metrics.count_degraded(_ONE)
    server_metrics.count_fault("example")
    server_metrics.bundle_loaded("v0001")
    server_metrics.bundle_refused()
    server_metrics.churn_loaded("example", "v0001")
    server_metrics.watch_shedding(Shedder(threads=1))
    server_metrics.watch_limits(lambda: _ONE)
    server_metrics.watch_breakers(
        lambda: [BreakerState("example", open=False, open_count=0, late_count=0)]
    )
    server_metrics.watch_hedge(Hedge())
    server_metrics.watch_rollout(lambda: {"champion": "v0001"})
    server_metrics.watch_collector(_collector)
    server_metrics.watch_features(
        lambda: ParityTotals(schema_hash="example", compared=_ONE, unequal=_ONE)
    )
    server_metrics.watch_workers(lambda: [_worker()])
    server_metrics.watch_copies(lambda: _ONE)
    server_metrics.watch_roles(lambda: [RoleState("example", 1, 0.0)])
    server_metrics.watch_candidates(lambda: {table_group("popular"): 1}, ["popular"])
    server_metrics.watch_threads(lambda: [PeriodicTask("example", lambda: None, interval_s=1.0)])
    lag = Lag("example", "example", rows=1, blocks=1, waiting_since=0)
    server_metrics.watch_lag(SimpleNamespace(lags=[lag], measured_at=0))  # type: ignore[arg-type]
    return server_metrics.text()


def _role_metrics() -> bytes:
    """Return the metrics that only roles without HTTP have."""
    figures = ScoreFigures()
    figures.scores["example"] = figures.unscored_by_name["example"] = 1
    example = LiveFigures(1, "example", *([1] * (len(LiveFigures.__struct_fields__) - 2)))
    collectors = [
        ScoresCollector(lambda: figures),
        FiguresCollector(lambda: [("example", example)]),
        RolloutCollector(*[lambda: ["example"]] * 4),
        NotifyCollector(lambda: {("example", "sent"): 1}, lambda: {"example": False}),
    ]
    return role_metrics("example", ProgressEvent(), collectors)()


def _collector() -> CollectorFigures:
    return CollectorFigures(
        accepted=1,
        refused=_ONE,
        batches=1,
        failures=0,
        responses=1,
        responses_waiting=0,
        responses_dropped=0,
        responses_lost=0,
        responses_ahead=0,
        clock_set_back=0,
        set_aside=0,
        queue_bytes=0,
        open=True,
    )


def _worker() -> WorkerProgress:
    copies, kinds = CopyLag(), {"example": KindProgress()}
    unfit = {"capped": _ONE, "unreadable": _ONE, "converted": _ONE}
    return WorkerProgress(schema_hash="example", copies=copies, kinds=kinds, **unfit)
