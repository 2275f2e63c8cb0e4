"""The serving options of a project's settings."""

from dataclasses import replace
from functools import partial

from tailorbird.config import Project
from tailorbird.config.candidates import required_contract
from tailorbird.events import SECOND, parse_duration
from tailorbird.serving.auth.limits import ServerLimits
from tailorbird.serving.auth.networks import Networks
from tailorbird.serving.pipeline.editorial import LISTS_FILE
from tailorbird.serving.server import BUDGETS, ServeOptions
from tailorbird.store import CopyTarget
from tailorbird.store.hedge import Hedge


def build_serve_options(project: Project) -> ServeOptions:
    """Return the server options without those of the command line: port and additional routes."""
    settings = project.settings.serve
    paths = project.paths
    return ServeOptions(
        stream=project.stream,
        routed=project.routed,
        state=paths.state,
        copies=_copy_target(project),
        stale_us=parse_duration(project.settings.store.stale_after),
        wait_s=settings.queue_timeout_ms / 1e3,
        budgets=replace(
            BUDGETS,
            retrieval_s=settings.retrieval_ms / 1e3,
            features_s=settings.features_ms / 1e3,
            ranking_s=settings.ranking_ms / 1e3,
            policy_s=settings.policy_ms / 1e3,
        ),
        candidates=paths.candidates,
        contract=partial(required_contract, project),
        workers=project.workers,
        registry=paths.registry,
        holdout=project.settings.rollout.holdout,
        churn={name: paths.churn(name) for name in project.churn},
        scores=project.stream.scores if project.scores else None,
        lake=paths.lake,
        run=paths.run,
        features=project.features,
        slots=project.slots,
        plan=project.plan,
        host=settings.host,
        port=settings.port,
        write_keys=settings.write_keys,
        read_keys=settings.read_keys,
        admin_keys=settings.admin_keys,
        keys_file=project.root / settings.keys_file,
        lists_file=project.root / LISTS_FILE,
        origins=settings.allowed_origins,
        limits=ServerLimits(
            requests_per_s=settings.requests_per_s,
            events_per_s=settings.events_per_s,
            batch_max=settings.batch_max,
            ids_per_hour=settings.ids_per_hour,
            address_events_per_s=settings.address_events_per_s,
            address_clicks_per_hour=settings.address_clicks_per_hour,
            address_connections=settings.address_connections,
            proxies=Networks(settings.trusted_proxies),
        ),
        drain_s=parse_duration(settings.drain_for) / SECOND,
        keep_alive_s=parse_duration(settings.keep_alive) / SECOND,
        log_requests=settings.log_requests,
        pseudonyms=project.pseudonyms(),
        suppression_list=project.suppression_list(),
        body_bytes_max=settings.body_bytes_max,
        reserve_bytes=settings.disk_reserve_mb << 20,
    )


def _copy_target(project: Project) -> CopyTarget | None:
    """Return where to read copies, with hedged reads if enabled; None without copies."""
    copy_target = project.copy_target()
    hedge_share = project.settings.store.hedge
    return (
        copy_target
        if copy_target is None or not hedge_share
        else replace(copy_target, hedge=Hedge(hedge_share))
    )
