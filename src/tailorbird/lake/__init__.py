"""The lake: ACID tables (Delta), the archive of raw bodies and the ledger. One role writes, everybody reads.

Read with `Lake`; write with `LakeRole` or its loop `run`; check with `verify`.
"""

from tailorbird.lake.lake import Lake
from tailorbird.lake.positions import safe_positions
from tailorbird.lake.role import LakeReport, LakeRole, leave, run
from tailorbird.lake.verify import VerifyReport, verify

__all__ = ["Lake", "LakeReport", "LakeRole", "VerifyReport", "leave", "run", "safe_positions", "verify"]
