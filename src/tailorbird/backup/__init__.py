"""Backup of a running project, restore to a named time, and recognition of plain copies.

snapshot   the lake and the logs as of one moment   storage   blobs and manifests at a URI
create     make a backup                            restore   bring one back
erased     erase people again after a restore       origin    recognise a copy of a project
pace       leave CPU and disk to the roles          topics    what topics keep for a restore
"""

from typing import TYPE_CHECKING

from tailorbird.lazy_names import make_lazy_getattr

if TYPE_CHECKING:
    from tailorbird.backup.create import BackupReport, create_backup
    from tailorbird.backup.origin import CopyReport, inspect_copy, record_origin
    from tailorbird.backup.restore import RestoreReport, restore_backup
    from tailorbird.backup.storage import BackupStorage, open_backup_storage

# A server recognises a copy, and must not load the lake.
__getattr__ = make_lazy_getattr(
    __name__,
    {
        "tailorbird.backup.create": ("BackupReport", "create_backup"),
        "tailorbird.backup.origin": ("CopyReport", "inspect_copy", "record_origin"),
        "tailorbird.backup.restore": ("RestoreReport", "restore_backup"),
        "tailorbird.backup.storage": ("BackupStorage", "open_backup_storage"),
    },
)
__all__ = [
    "BackupReport",
    "BackupStorage",
    "CopyReport",
    "RestoreReport",
    "create_backup",
    "inspect_copy",
    "open_backup_storage",
    "record_origin",
    "restore_backup",
]
