"""Diagnosis of candidate sources that are empty, and tables that are out of date."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.platform.diagnostics.external import Finding

if TYPE_CHECKING:
    from tailorbird.candidates.protocol import CandidateTables
    from tailorbird.config import Project

_POPULAR_CHECKED = 200  # Most popular items whose neighbours are looked up.
_START = "tailorbird up, or tailorbird run candidates"


def candidate_sources(project: "Project", *, served: bool) -> Iterator[Finding]:
    """Check the sources that slots name, and the tables that they read.

    Args:
        served: whether servers run, so that tables must be up to date.
    """
    from tailorbird.candidates.folder import current_contract, open_tables
    from tailorbird.candidates.query import live_sources
    from tailorbird.config.candidates import slots_contract
    from tailorbird.events import SECOND, SystemClock
    from tailorbird.serving.pipeline.retrieval import LATE_US

    root, required = project.paths.candidates, slots_contract(project)
    try:
        contract = current_contract(root)
        if contract is None:
            yield (
                "candidates",
                "warning" if served else "ok",
                "nothing is published yet",
                _START if served else "",
            )
            return
        reader = open_tables(root, contract)
    except NotReadyError as error:
        yield "candidates", "warning", error.message, _START
        return
    except TailorbirdError as error:
        yield "candidates", "error", f"{error.where}: {error.message}", error.fix
        return
    try:
        if not contract.covers(required):
            yield (
                "candidates",
                "warning",
                "the tables of the slots' sources are not built yet; others serve until then",
                _START,
            )
        published = reader.published()
        if published is not None and served:
            now = SystemClock().now()
            for name, group in published.groups.items():
                age_s = (now - group.current_as_of) / SECOND
                if age_s > LATE_US[name] / SECOND:
                    yield (
                        f"candidates: {name}",
                        "warning",
                        f"not known to be up to date for {age_s:,.0f} s",
                        _START,
                    )
        names = {
            name: slot.name
            for slot in project.slots.values()
            for name in live_sources(slot.sources)
        }
        with reader.tables() as tables:
            empty = [(name, slot) for name, slot in names.items() if _is_empty(tables, name)]
    finally:
        reader.close()
    for name, slot in empty:
        fix = "import history, or let events come in; if it stays so, take it out of slots.py"
        yield f"source {name}", "warning", f"it is empty, so it adds nothing to slot {slot}", fix
    if not empty:
        yield "candidates", "ok", f"{len(names)} sources, none of them empty", ""


def _is_empty(tables: "CandidateTables", name: str) -> bool:
    """Return whether a source has no candidates for anyone."""
    from tailorbird.candidates.contract import SOURCE_KINDS, Board
    from tailorbird.candidates.own import OWN_KIND
    from tailorbird.candidates.query import WEEK, source_of

    source = source_of(name)
    if source.board is not None:
        return not len(tables.leaderboard(Board(source.board.window_us)).items)
    reads = SOURCE_KINDS[source.kind].reads if source.kind != OWN_KIND else ""
    if reads == "neighbours":
        return not len(
            tables.neighbours(tables.leaderboard(WEEK).items.keys[:_POPULAR_CHECKED]).keys
        )
    if reads == "sessions":
        return not tables.sessions()
    return False
