"""The registry in a local folder: numbered versions, aliases, and an audit log.

    ROOT/v0001/…         bundles, immutable until they are removed
    ROOT/experiments.json  started experiments, see `registry.experiments`
    ROOT/formulas.json   value formulas set without a new model, see `registry.formulas`
    ROOT/aliases.json    champion, challenger, and earlier champions, newest last
    ROOT/audit.jsonl     one line for each change
    ROOT/lock            held during a change

A bundle is copied to `ROOT/.incoming`, synced file by file, and renamed to its version, so it is
added completely or not at all. JSON files are replaced atomically. `registry.manifest` defines
bundles.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from tailorbird import faults
from tailorbird.atomic_write import sync_folder
from tailorbird.errors import BundleError, NotReadyError, UsageError
from tailorbird.registry.aliases import ALIAS_NAMES, Aliases
from tailorbird.registry.audit_log import AuditEntry, append_audit, read_audit
from tailorbird.registry.experiments import EXPERIMENTS_FILE, Experiments, read_experiments
from tailorbird.registry.files import lock_for_change, replace_file, write_bundle
from tailorbird.registry.formulas import FORMULAS_FILE, FormulaChange, read_formulas
from tailorbird.registry.json_files import encode_json, read_json
from tailorbird.registry.manifest import (
    DIGEST_FILE,
    MANIFEST,
    Manifest,
    encode_manifest,
    read_sealed,
    with_checksums,
)
from tailorbird.registry.versions import VersionInfo, read_version, version_number

ALIASES_FILE = "aliases.json"
# the resolution of assignments, see `experiments.assign`; a smaller share would select no person
SHARE_MIN = 0.0001


class Clock(Protocol):
    """The time in microseconds; `events.Clock`, which this package does not import."""

    def now(self) -> int: ...


class Registry:
    """Bundles by version.

    `add`, `promote` and `rollback` are atomic, and durable once they return. A version never
    changes, except when an erasure amends it. The champion was verified when it was promoted.

    Args:
        path: the folder; created on the first change.
        clock: source of the audit log's times.
    """

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self.path = path
        self._clock = clock

    def add(self, folder: Path, *, by: str = "", why: str = "") -> str:
        """Copy a sealed bundle into the registry and return its version, such as `v0001`."""
        sealed_bundle = read_sealed(folder)
        with lock_for_change(self.path):
            incoming_folder = self.path / ".incoming"
            shutil.rmtree(incoming_folder, ignore_errors=True)  # left by a crashed `add`
            newest_number = max((version_number(name) for name in self._version_names()), default=0)
            version = f"v{newest_number + 1:04d}"
            digest = write_bundle(incoming_folder, sealed_bundle, version)
            self._append_audit(AuditEntry(self._clock.now(), "add", version, by, why, digest))
            faults.fire_if_armed("registry.before_rename")
            os.rename(incoming_folder, self.path / version)
            sync_folder(self.path)
            faults.fire_if_armed("registry.after_rename")
        return version

    def amend(self, version: str, change: Callable[[Path], None], *, by: str, why: str) -> None:
        """Change files of a version that must not stay as they are, and seal it again.

        A crash part-way leaves a version that does not match its manifest; repeat the call.
        """
        with lock_for_change(self.path):
            folder = self.path / version
            for name in (MANIFEST, DIGEST_FILE):
                (folder / f"{name}.new").unlink(missing_ok=True)  # left by a crashed attempt
            change(folder)
            manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
            data = encode_manifest(with_checksums(folder, manifest))
            digest = hashlib.sha256(data).hexdigest()
            self._append_audit(AuditEntry(self._clock.now(), "amend", version, by, why, digest))
            replace_file(self.path, f"{version}/{MANIFEST}", data)
            replace_file(self.path, f"{version}/{DIGEST_FILE}", f"{digest}\n".encode())
            sync_folder(folder)

    def remove(self, version: str, *, by: str, why: str) -> None:
        """Remove a version and its files; the audit log remains.

        Raises:
            UsageError: an alias names it, a roll-back may return to it, or it is the newest, whose
                number must not be given again.
        """
        with lock_for_change(self.path):
            aliases = self.aliases()
            uses = (
                *aliases.aliases_of(version),
                *(["an earlier champion"] if version in aliases.history else ()),
                *(["the newest version"] if version == self._version_names()[-1] else ()),
            )
            if uses:
                raise UsageError(
                    f"{version} is {', '.join(uses)}", where=str(self.path), fix="keep it"
                )
            self._append_audit(AuditEntry(self._clock.now(), "remove", version, by, why))
            leaving_folder = self.path / ".leaving"
            shutil.rmtree(leaving_folder, ignore_errors=True)  # left by a crashed `remove`
            os.rename(self.path / version, leaving_folder)
            sync_folder(self.path)
            shutil.rmtree(leaving_folder)

    def promote(self, version: str, *, by: str, why: str) -> None:
        """Make a version the champion, after verifying it."""
        version = self.verify(version).version
        with lock_for_change(self.path):
            aliases = self.aliases()
            if aliases.champion == version:
                return
            self._append_audit(AuditEntry(self._clock.now(), "promote", version, by, why))
            self._write_aliases(aliases.after_promotion(version))

    def set_shadow(self, version: str, *, by: str, why: str) -> None:
        """Make servers log the scores of a version, or stop that with ""."""
        if version:
            self.verify(version)
        with lock_for_change(self.path):
            self._append_audit(AuditEntry(self._clock.now(), "shadow", version, by, why))
            self._write_aliases(msgspec.structs.replace(self.aliases(), shadow=version))

    def set_canary(
        self, version: str, share: float, *, by: str, why: str, automatic: bool = True
    ) -> None:
        """Let a version serve a share of the people, or a larger share than before.

        Raises:
            UsageError: it is the champion, there is no champion, or the share is out of bounds.
        """
        if not SHARE_MIN <= share <= 1 - SHARE_MIN:
            message = f"expected a share from {SHARE_MIN:g} to {1 - SHARE_MIN:g}, got {share:g}"
            raise UsageError(message, where="share", fix="1 is: tailorbird models promote")
        self.verify(version)
        with lock_for_change(self.path):
            aliases = self.aliases()
            if not aliases.champion or aliases.champion == version:
                message = (
                    f"{version} is the champion already"
                    if aliases.champion
                    else "there is no champion to compare it with"
                )
                raise UsageError(message, where=str(self.path), fix="tailorbird models list")
            self._append_audit(
                AuditEntry(self._clock.now(), "canary", version, by, f"{share:g}: {why}")
            )
            since = aliases.canary_at if aliases.canary == version else self._clock.now()
            changed_aliases = msgspec.structs.replace(
                aliases, canary=version, share=share, canary_at=since, automatic=automatic
            )
            self._write_aliases(changed_aliases)

    def end_canary(self, *, by: str, why: str) -> str:
        """End the canary, and return its version.

        Raises:
            NotReadyError: there is no canary.
        """
        with lock_for_change(self.path):
            aliases = self.aliases()
            if not aliases.canary:
                raise NotReadyError(
                    "there is no canary", where=str(self.path), fix="tailorbird models list"
                )
            self._append_audit(AuditEntry(self._clock.now(), "end canary", aliases.canary, by, why))
            self._write_aliases(msgspec.structs.replace(aliases, canary="", share=0.0, canary_at=0))
        return aliases.canary

    def set_challenger(self, version: str, *, by: str, why: str) -> None:
        """Make a version the challenger, or remove the challenger with ""."""
        if version:
            self.verify(version)
        with lock_for_change(self.path):
            self._append_audit(AuditEntry(self._clock.now(), "challenge", version, by, why))
            self._write_aliases(msgspec.structs.replace(self.aliases(), challenger=version))

    def rollback(self, *, by: str, why: str) -> str:
        """Restore the previous champion and return its version.

        Another rollback goes one version further back.
        """
        previous = self.aliases().previous
        if not previous:
            raise NotReadyError(
                "there is no earlier champion to go back to",
                where=str(self.path),
                fix="tailorbird models list",
            )
        self.verify(previous)
        with lock_for_change(self.path):
            aliases = self.aliases()
            if aliases.previous != previous:
                raise UsageError(
                    "another process changed the champion meanwhile",
                    where=str(self.path),
                    fix="look at it and try again",
                )
            self._append_audit(AuditEntry(self._clock.now(), "rollback", previous, by, why))
            self._write_aliases(aliases.after_rollback())
        return previous

    def record(
        self, action: str, version: str, *, by: str, why: str, details: dict[str, str] | None = None
    ) -> None:
        """Log a decision that changes no alias, such as a proposal that waits for a person."""
        with lock_for_change(self.path):
            self._append_audit(
                AuditEntry(self._clock.now(), action, version, by, why, details=details or {})
            )

    def set_formula(self, slot: str, text: str, *, by: str, why: str) -> FormulaChange:
        """Put a value formula in force for a slot, or the slot's own again with "".

        The caller validates the formula.
        """
        with lock_for_change(self.path):
            formulas = read_formulas(self.path).with_change(
                slot, text, by=by, why=why, at=self._clock.now()
            )
            self._append_audit(
                AuditEntry(
                    self._clock.now(),
                    "formula",
                    formulas.changes[-1].version,
                    by,
                    f"{slot}: {text or 'as declared'}: {why}",
                )
            )
            replace_file(self.path, FORMULAS_FILE, encode_json(formulas))
        return formulas.changes[-1]

    def change_experiments(
        self,
        action: str,
        name: str,
        change: Callable[[Experiments], Experiments],
        *,
        by: str,
        why: str,
    ) -> Experiments:
        """Change the started experiments, with an entry in the audit log.

        Args:
            change: returns the experiments after the change, or raises.
        """
        with lock_for_change(self.path):
            experiments = change(read_experiments(self.path))
            self._append_audit(AuditEntry(self._clock.now(), f"experiment {action}", name, by, why))
            replace_file(self.path, EXPERIMENTS_FILE, encode_json(experiments))
        return experiments

    def champion_folder(self) -> Path | None:
        """Return the folder of the live version, or None."""
        return self._version_folder(self.aliases().champion)

    def folder_named(self, name: str) -> Path | None:
        """Return the folder of the version with one of `ALIAS_NAMES`, or None."""
        return self._version_folder(self.aliases().version_named(name))

    def challenger_folder(self) -> Path | None:
        """Return the folder of the challenger, or None."""
        return self._version_folder(self.aliases().challenger)

    def previous_folder(self) -> Path | None:
        """Return the folder of the previous champion, or None."""
        return self._version_folder(self.aliases().previous)

    def resolve(self, name: str) -> Path:
        """Return the folder of a version or of an alias."""
        aliases = self.aliases()
        version = aliases.version_named(name) if name in ALIAS_NAMES else name
        folder = self._version_folder(version) if version_number(version) else None
        if folder is None or not folder.is_dir():
            raise UsageError(
                f"there is no version {name!r}", where=str(self.path), fix="tailorbird models list"
            )
        return folder

    def aliases(self) -> Aliases:
        """Return the current aliases."""
        return read_json(self.path / ALIASES_FILE, Aliases, fix="restore it from audit.jsonl")

    def versions(self) -> list[VersionInfo]:
        """Return all versions, oldest first."""
        aliases = self.aliases()
        return [read_version(self.path / name, aliases) for name in self._version_names()]

    def newest(self, limit: int) -> list[VersionInfo]:
        """Return the last versions and all with an alias, newest first.

        Other manifests are not read.
        """
        aliases = self.aliases()
        names = self._version_names()[::-1]
        return [
            read_version(self.path / name, aliases)
            for position, name in enumerate(names)
            if position < limit or aliases.aliases_of(name)
        ]

    def info(self, version: str) -> VersionInfo:
        """Return a version as its manifest describes it, unverified."""
        return read_version(self.path / version, self.aliases())

    def verify(self, version: str) -> Manifest:
        """Verify every byte of a version, also against the checksum in the audit log."""
        sealed_bundle = read_sealed(self.resolve(version))
        name = sealed_bundle.path.name
        if sealed_bundle.manifest.version != name:
            raise BundleError(
                f"its manifest says version {sealed_bundle.manifest.version!r}",
                where=str(sealed_bundle.path),
            )
        added_digests = [
            entry.digest
            for entry in self.audit()
            if entry.action in ("add", "amend") and entry.version == name
        ]
        if added_digests and added_digests[-1] != sealed_bundle.digest:
            raise BundleError(
                "its manifest is not the one that was added",
                where=str(sealed_bundle.path),
                fix="roll back, and find out who changed it",
            )
        return sealed_bundle.manifest

    def audit(self) -> list[AuditEntry]:
        """Return every change, oldest first, without a last line that a crash cut short."""
        return read_audit(self.path)

    def _version_names(self) -> list[str]:
        if not self.path.is_dir():
            return []
        return sorted(
            (entry.name for entry in os.scandir(self.path) if version_number(entry.name)),
            key=version_number,
        )

    def _version_folder(self, version: str) -> Path | None:
        return self.path / version if version else None

    def _write_aliases(self, aliases: Aliases) -> None:
        replace_file(self.path, ALIASES_FILE, encode_json(aliases))

    def _append_audit(self, entry: AuditEntry) -> None:
        append_audit(self.path, entry)
