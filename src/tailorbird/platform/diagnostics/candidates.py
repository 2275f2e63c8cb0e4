"""Diagnosis of candidate sources that are empty, and tables that are out of date."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.platform.diagnostics.external import Finding

if TYPE_CHECKING:
    from tailorbird.candidates.protocol import CandidateTables
    from tailorbird.config import Project

_POPULAR_ITEMS_CHECKED = 200  # Most popular items whose neighbours are looked up.
_START_FIX = "tailorbird up, or tailorbird run candidates"


def check_candidate_sources(project: "Project", *, is_served: bool) -> Iterator[Finding]:
    """Check the sources that slots name, and the tables that they read.

    Args:
        is_served: whether servers run, so that tables must be up to date.
    """
    from tailorbird.candidates.folder import current_contract, open_tables
    from tailorbird.candidates.query import select_live_sources
    from tailorbird.config.candidates import slots_contract
    from tailorbird.events import SECOND, SystemClock
    from tailorbird.serving.pipeline.retrieval import TABLE_AGE_MAX_US

    # A contract says which tables are maintained, and by which settings.
    root = project.paths.candidates
    required_contract = slots_contract(project)
    try:
        contract = current_contract(root)
        if contract is None:
            yield (
                "candidates",
                "warning" if is_served else "ok",
                "nothing is published yet",
                _START_FIX if is_served else "",
            )
            return
        reader = open_tables(root, contract)
    except NotReadyError as error:
        yield "candidates", "warning", error.message, _START_FIX
        return
    except TailorbirdError as error:
        yield "candidates", "error", f"{error.where}: {error.message}", error.fix
        return
    try:
        if not contract.covers(required_contract):
            yield (
                "candidates",
                "warning",
                "the tables of the slots' sources are not built yet; others serve until then",
                _START_FIX,
            )
        publication = reader.published()
        if publication is not None and is_served:
            now = SystemClock().now()
            for name, table_group in publication.groups.items():
                age_s = (now - table_group.current_as_of) / SECOND
                if age_s > TABLE_AGE_MAX_US[name] / SECOND:
                    yield (
                        f"candidates: {name}",
                        "warning",
                        f"not known to be up to date for {age_s:,.0f} s",
                        _START_FIX,
                    )
        slot_by_source = {
            name: slot.name
            for slot in project.slots.values()
            for name in select_live_sources(slot.sources)
        }
        with reader.tables() as tables:
            empty_sources = [
                (name, slot) for name, slot in slot_by_source.items() if _is_empty(tables, name)
            ]
    finally:
        reader.close()
    for name, slot in empty_sources:
        fix = "import history, or let events come in; if it stays so, take it out of slots.py"
        yield f"source {name}", "warning", f"it is empty, so it adds nothing to slot {slot}", fix
    if not empty_sources:
        yield "candidates", "ok", f"{len(slot_by_source)} sources, none of them empty", ""


def _is_empty(tables: "CandidateTables", name: str) -> bool:
    """Return whether a source has no candidates for anyone."""
    from tailorbird.candidates.contract import SOURCE_KINDS, Board
    from tailorbird.candidates.own import OWN_KIND
    from tailorbird.candidates.query import WEEK_BOARD, source_of

    source = source_of(name)
    if source.board is not None:
        return not len(tables.leaderboard(Board(source.board.window_us)).items)
    table_kind = SOURCE_KINDS[source.kind].reads if source.kind != OWN_KIND else ""
    if table_kind == "neighbours":
        return not len(
            tables.neighbours(
                tables.leaderboard(WEEK_BOARD).items.keys[:_POPULAR_ITEMS_CHECKED]
            ).keys
        )
    if table_kind == "sessions":
        return not tables.sessions()
    return False
