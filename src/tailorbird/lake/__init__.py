"""The lake: ACID tables (Delta), the archive of raw bodies and the ledger, with a single writer.

Read with `Lake`, write with `LakeRole` or its loop `run`, check with `verify`.
"""

from tailorbird.lake.delta.versions import TableVersion, version_at, versions_of
from tailorbird.lake.lake import Lake, time_filter
from tailorbird.lake.verify import VerifyReport, verify
from tailorbird.lake.write.positions import safe_positions
from tailorbird.lake.write.process import run
from tailorbird.lake.write.role import LakeReport, LakeRole

__all__ = [
    "Lake",
    "LakeReport",
    "LakeRole",
    "TableVersion",
    "VerifyReport",
    "run",
    "safe_positions",
    "time_filter",
    "verify",
    "version_at",
    "versions_of",
]
