"""The lake: ACID tables (Delta), the archive of raw bodies and the ledger, with a single writer.

Read with `Lake`, write with `LakeRole` or its loop `run`, check with `verify`.
"""

from tailorbird.lake.lake import Lake, span
from tailorbird.lake.loop import run
from tailorbird.lake.positions import safe_positions
from tailorbird.lake.role import LakeReport, LakeRole
from tailorbird.lake.verify import VerifyReport, verify
from tailorbird.lake.versions import TableVersion, version_at, versions_of

__all__ = [
    "Lake",
    "LakeReport",
    "LakeRole",
    "TableVersion",
    "VerifyReport",
    "run",
    "safe_positions",
    "span",
    "verify",
    "version_at",
    "versions_of",
]
