"""Versions of bundles, added atomically, promoted and rolled back by name, and verified."""

from tailorbird.registry.aliases import NAMES, Aliases
from tailorbird.registry.audit_log import AuditEntry
from tailorbird.registry.experiments import (
    ExperimentChange,
    Experiments,
    StartedExperiment,
    read_experiments,
)
from tailorbird.registry.formulas import FormulaChange, Formulas, read_formulas
from tailorbird.registry.manifest import (
    MANIFEST,
    Columns,
    FileEntry,
    Head,
    Manifest,
    SealedBundle,
    Window,
    read_sealed,
    seal,
)
from tailorbird.registry.store import Registry
from tailorbird.registry.versions import VersionInfo

__all__ = [
    "MANIFEST",
    "NAMES",
    "Aliases",
    "AuditEntry",
    "Columns",
    "ExperimentChange",
    "Experiments",
    "FileEntry",
    "FormulaChange",
    "Formulas",
    "Head",
    "Manifest",
    "Registry",
    "SealedBundle",
    "StartedExperiment",
    "VersionInfo",
    "Window",
    "read_experiments",
    "read_formulas",
    "read_sealed",
    "seal",
]
