"""Versions of bundles: added whole or not at all, promoted and rolled back by name, checked byte for byte when they are read."""

from tailorbird.registry.manifest import MANIFEST, Columns, FileEntry, Head, Manifest, Sealed, Window, read_sealed, seal
from tailorbird.registry.store import Aliases, AuditEntry, Registry, VersionInfo

__all__ = [
    "MANIFEST",
    "Aliases",
    "AuditEntry",
    "Columns",
    "FileEntry",
    "Head",
    "Manifest",
    "Registry",
    "Sealed",
    "VersionInfo",
    "Window",
    "read_sealed",
    "seal",
]
