"""Versions of bundles: added whole or not at all, promoted and rolled back by name, checked byte
for byte when they are read.
"""

from tailorbird.registry.formulas import FormulaChange, Formulas, read_formulas
from tailorbird.registry.manifest import (
    MANIFEST,
    Columns,
    FileEntry,
    Head,
    Manifest,
    Sealed,
    Window,
    read_sealed,
    seal,
)
from tailorbird.registry.store import NAMES, Aliases, AuditEntry, Registry, VersionInfo

__all__ = [
    "MANIFEST",
    "NAMES",
    "Aliases",
    "AuditEntry",
    "Columns",
    "FileEntry",
    "FormulaChange",
    "Formulas",
    "Head",
    "Manifest",
    "Registry",
    "Sealed",
    "VersionInfo",
    "Window",
    "read_formulas",
    "read_sealed",
    "seal",
]
