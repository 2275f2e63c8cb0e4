"""Start a role as a process of its own: signals, logging, and the schema that it works for."""

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from tailorbird.platform.runtime.leftovers import PARENT_VARIABLE
from tailorbird.platform.runtime.parent import die_with_parent
from tailorbird.probes import ProgressEvent

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.features import FeatureSet

LAKE_POLL_S = 0.2
log = logging.getLogger(__name__)


def open_schema(schema: str) -> "tuple[Project, FeatureSet]":
    """Return the project with the features of a schema.

    Without a hash it is the applied schema, after features.py was applied.
    """
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.schemas import apply_declared, find_schema
    from tailorbird.events import SystemClock

    if schema:
        project = open_project(use_applied=True)
        apply_remote_erasures(project)
        return project, find_schema(project, schema)
    decision = apply_declared(open_project(), SystemClock())
    apply_remote_erasures(decision.project)
    if decision.notice:
        log.warning("%s", decision.notice)
    return decision.project, decision.project.features


def report_plain_copy(project: "Project") -> None:
    """Say that a project is a copy of another folder, or refuse it, as `up` does for its roles."""
    from tailorbird.backup import record_origin

    if PARENT_VARIABLE in os.environ:
        return
    project.paths.run.mkdir(parents=True, exist_ok=True)
    for line in str(record_origin(project) or "").splitlines():
        log.warning("%s", line)


def start_role(*, outlives_up: bool = False) -> ProgressEvent:
    """Prepare a role: end with the supervisor, log to stderr, and stop on SIGTERM."""
    if not outlives_up:
        die_with_parent()
    logging.basicConfig(
        level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    stop_event = ProgressEvent()
    stop_event.set_on_signals(signal.SIGTERM, signal.SIGINT)
    return stop_event
