"""Verification of a lake, and of a folder that may be a plain copy of a running project."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project
from tailorbird.pages.notebook import text_html

if TYPE_CHECKING:
    from tailorbird.backup import CopyReport
    from tailorbird.lake.verify import VerifyReport


@dataclass(frozen=True, repr=False)
class LakeCheck:
    """What a verification found.

    Attributes:
        report: counts and faults.
        copy_report: what a plain copy of a running project lacks; None if the folder is none.
    """

    report: "VerifyReport"
    copy_report: "CopyReport | None"

    @property
    def is_sound(self) -> bool:
        """True if nothing is corrupt and nothing is missing."""
        return self.report.is_clean and not (self.copy_report and self.copy_report.missing)

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird lake verify --json` prints."""
        import msgspec

        return {**msgspec.to_builtins(self.report), "copy": msgspec.to_builtins(self.copy_report)}

    def __repr__(self) -> str:
        if self.copy_report is None:
            return str(self.report)
        # A report without faults says that no row is missing.
        lacks_only_logs = self.report.is_clean and self.copy_report.missing
        return f"{self.report.describe() if lacks_only_logs else self.report}\n{self.copy_report}"

    _repr_html_ = text_html


def verify(project: Project, *, deep: bool = False) -> LakeCheck:
    """Check archive, ledger and tables against each other, to the last row and checksum.

    Args:
        deep: compare the content of each archived row with the tables' too.
    """
    from tailorbird.backup import inspect_copy
    from tailorbird.errors import DamageError
    from tailorbird.lake import verify as verify_lake
    from tailorbird.lake.verify import Fault

    report = verify_lake(project.paths.lake, stream=project.stream, deep=deep)
    try:
        project.suppression_list()
    except DamageError as error:
        report.faults.append(Fault(error.where, error.message))
    return LakeCheck(report, inspect_copy(project))
