"""Versions of bundles, added atomically, promoted and rolled back by name, and verified."""

from tailorbird.registry.aliases import ALIAS_NAMES, Aliases
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
    ColumnNames,
    FileEntry,
    Head,
    Manifest,
    SealedBundle,
    TrainingWindow,
    read_sealed,
    seal,
)
from tailorbird.registry.store import Registry
from tailorbird.registry.versions import VersionInfo

__all__ = [
    "ALIAS_NAMES",
    "MANIFEST",
    "Aliases",
    "AuditEntry",
    "ColumnNames",
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
    "TrainingWindow",
    "VersionInfo",
    "read_experiments",
    "read_formulas",
    "read_sealed",
    "seal",
]
