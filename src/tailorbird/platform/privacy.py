"""Erasure and export of people's data, for commands and notebooks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project, open_project
from tailorbird.errors import LagError, LockedError, UsageError
from tailorbird.events import SystemClock
from tailorbird.events.keys import to_id_text
from tailorbird.pages.notebook import notebook_html
from tailorbird.platform.frames import Frame
from tailorbird.platform.progress import Progress, no_progress

if TYPE_CHECKING:
    from tailorbird.privacy import Preview, Receipt
    from tailorbird.privacy.people import StoredId

_DRAIN_ROUNDS = 4  # of bringing in what brokers show only once an erasure tries to begin


def run_erasure(
    project: Project, stored_people: "Sequence[StoredId]", progress: Progress = no_progress
) -> "Receipt":
    """Bring all that waits in the logs into the lake, and erase people.

    Raises:
        LockedError: a role of the project is running.
    """
    from tailorbird.privacy import erase

    for round_number in range(_DRAIN_ROUNDS):
        _drain_logs(project, progress)
        try:
            return erase(project, stored_people, SystemClock(), progress=progress)
        except LagError:
            if round_number == _DRAIN_ROUNDS - 1:
                raise
    raise AssertionError("the last round returns or raises")


def _drain_logs(project: Project, progress: Any) -> None:
    """Bring all that waits in the logs into the lake."""
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.platform.runtime.roles import drain
    from tailorbird.privacy import is_unfinished
    from tailorbird.privacy.writers import NOT_ALONE_MESSAGE, STOP_REMEDY

    if project.stream.is_remote:
        if is_unfinished(project.paths.data):
            return  # topics may be gone, and nothing can have come in
        apply_remote_erasures(project)
    try:
        drain(project, SystemClock(), progress=progress)
    except LockedError as error:
        raise LockedError(NOT_ALONE_MESSAGE, where=error.where, fix=STOP_REMEDY) from None


@dataclass(frozen=True, repr=False)
class ErasureResult:
    """What an erasure did, or would do.

    Attributes:
        is_dry_run: True if nothing was changed.
        preview_or_receipt: the preview or the receipt, as the command prints it with `--json`.
    """

    is_dry_run: bool
    preview_or_receipt: "Preview | Receipt"

    def to_frame(self) -> Frame:
        """Return the counts: events by type of a dry run, otherwise by place."""
        rows: list[tuple[str, str, int]] = []
        if self.is_dry_run:
            rows = [("events", name, count) for name, count in self._count_by_event_type.items()]
        else:
            for place, counts in self._counts_by_place.items():
                rows += [(place, name, count) for name, count in counts.items()]
        return Frame.from_rows(["place", "what", "count"], rows)

    @property
    def _count_by_event_type(self) -> dict[str, int]:
        return getattr(self.preview_or_receipt, "events", {})

    @property
    def _counts_by_place(self) -> dict[str, dict[str, int]]:
        return getattr(self.preview_or_receipt, "counts", {})

    @property
    def _header(self) -> str:
        if self.is_dry_run:
            return "Would be erased. Nothing was changed: dry_run=False does it, for good."
        return f"Erased. Receipt: {getattr(self.preview_or_receipt, 'path', '')}"

    def __repr__(self) -> str:
        return f"{self._header}\n{self.to_frame()!r}"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(self._header)


class PrivacyView:
    """Erase people, and export what is held about them."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def erase(
        self,
        user_ids: Sequence[str | int],
        *,
        dry_run: bool = True,
        progress: Progress = no_progress,
    ) -> ErasureResult:
        """Erase people from logs, archive, lake with its history, state and answers.

        Args:
            user_ids: ids as the site knows them; `anon:ID` for an unknown visitor.
            dry_run: only say what would be erased; False cannot be undone.

        Raises:
            UsageError: there is no id, or an erasure was cut short and must be finished first.
            LockedError: a role of the project is running.
        """
        from tailorbird.privacy import forget_unbegun, is_unfinished, preview
        from tailorbird.privacy.people import to_stored_ids

        if isinstance(user_ids, str) or not user_ids:
            raise UsageError("expected a list of ids", where="erase", fix='erase(["42"])')
        project = open_project(self._root, use_applied=True)
        stored_people = to_stored_ids([to_id_text(id_) for id_ in user_ids], project.pseudonyms())
        if dry_run:
            return ErasureResult(True, preview(project, stored_people, SystemClock()))
        forget_unbegun(project)
        if is_unfinished(project.paths.data):
            raise UsageError(
                "an erasure was cut short",
                where=str(project.root),
                fix="tailorbird lake erase --yes",
            )
        return ErasureResult(False, run_erasure(project, stored_people, progress))

    def export(self, user_id: str | int) -> list[dict[str, Any]]:
        """Return all that is held about a person, each record with its source."""
        from tailorbird.privacy import export_person
        from tailorbird.privacy.people import flatten_ids, to_stored_ids

        project = open_project(self._root, use_applied=True)
        person_ids = flatten_ids(to_stored_ids([to_id_text(user_id)], project.pseudonyms()))
        return list(export_person(project, person_ids, SystemClock()))

    def __repr__(self) -> str:
        return f"PrivacyView({str(self._root)!r}): erase(user_ids), export(user_id)"

    def _repr_html_(self) -> str:
        return notebook_html([repr(self)])
