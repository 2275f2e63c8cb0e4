"""The registry in a local folder: numbered versions, aliases, and an audit log.

    ROOT/v0001/…         bundles, immutable once added
    ROOT/experiments.json  started experiments, see `registry.experiments`
    ROOT/formulas.json   value formulas set without a new model, see `registry.formulas`
    ROOT/aliases.json    champion, challenger, and earlier champions, newest last
    ROOT/audit.jsonl     one line for each change
    ROOT/lock            held during a change

A bundle is copied to `ROOT/.incoming`, synced file by file, and renamed to its version, so it is
added completely or not at all. JSON files are replaced atomically. `registry.manifest` defines
bundles.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tailorbird import faults
from tailorbird.atomic_write import sync_folder
from tailorbird.errors import BundleError, NotReadyError, StorageError, UsageError
from tailorbird.registry.experiments import FILE as EXPERIMENTS
from tailorbird.registry.experiments import Experiments, read_experiments
from tailorbird.registry.formulas import FILE as FORMULAS
from tailorbird.registry.formulas import FormulaChange, read_formulas
from tailorbird.registry.manifest import (
    DIGEST,
    MANIFEST,
    Manifest,
    SealedBundle,
    encode_manifest,
    read_sealed,
    with_checksums,
)
from tailorbird.registry.state_file import encode_state, read_state

ALIASES = "aliases.json"
_HISTORY_MAX = 50
# the resolution of assignments, see `experiments.assign`; a smaller share would select no person
SHARE_MIN = 0.0001


class Clock(Protocol):
    """The time in microseconds; `events.Clock`, which this package does not import."""

    def now(self) -> int: ...


NAMES = ("champion", "challenger", "previous", "canary", "shadow")


class Aliases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of versions: the live one, the one being tried, and earlier champions.

    `history` is newest last. `canary` serves `share` of the people since `canary_at`
    (microseconds), and is advanced or ended by its metrics if `automatic`. The scores of `shadow`
    are logged but never served.
    """

    champion: str = ""
    challenger: str = ""
    history: tuple[str, ...] = ()
    shadow: str = ""
    canary: str = ""
    share: float = 0.0
    canary_at: int = 0
    automatic: bool = True

    @property
    def previous(self) -> str:
        """The champion before this one, to which a rollback returns."""
        return self.history[-1] if self.history else ""

    def names_of(self, version: str) -> tuple[str, ...]:
        """Return the aliases of a version."""
        return tuple(name for name in NAMES if self.version_named(name) == version)

    def version_named(self, name: str) -> str:
        """Return the version of one of `NAMES`, or ""."""
        return getattr(self, name)


class AuditEntry(msgspec.Struct, frozen=True):
    """A change: action, version, author, reason and time.

    `digest` is the SHA-256 of the manifest that was added.
    """

    at: int
    action: str
    version: str
    by: str
    why: str
    digest: str = ""


@dataclass(frozen=True)
class VersionInfo:
    """A version as listed, from its manifest alone; its files are not verified."""

    version: str
    path: Path
    created_at: int
    schema_hash: str
    heads: tuple[str, ...]
    metrics: dict[str, Any]
    aliases: tuple[str, ...]
    data_span: tuple[int, int] = (
        0,
        0,
    )  # time span of the data of model and index, microseconds; zeros for none
    is_readable: bool = True  # whether its manifest is readable
    sources: tuple[str, ...] = ()  # candidate sources whose tables it reads
    baseline: str = ""  # sources that order its items, if it has no heads
    learned_until: int = 0  # end of the training window, microseconds

    @property
    def arm(self) -> str:
        """The arm on whose log alone it was trained, as EXPERIMENT:ARM; "" for the whole log."""
        return self.metrics.get("about", {}).get("arm", "")


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
        sealed = read_sealed(folder)
        with self._lock_for_change():
            incoming = self.path / ".incoming"
            shutil.rmtree(incoming, ignore_errors=True)  # left by a crashed `add`
            newest = max((_version_number(name) for name in self._version_names()), default=0)
            version = f"v{newest + 1:04d}"
            digest = _write_synced(incoming, sealed, version)
            self._audit(AuditEntry(self._clock.now(), "add", version, by, why, digest))
            faults.at("registry.before_rename")
            os.rename(incoming, self.path / version)
            sync_folder(self.path)
            faults.at("registry.after_rename")
        return version

    def amend(self, version: str, change: Callable[[Path], None], *, by: str, why: str) -> None:
        """Change files of a version that must not stay as they are, and seal it again.

        A crash part-way leaves a version that does not match its manifest; repeat the call.
        """
        with self._lock_for_change():
            folder = self.path / version
            for name in (MANIFEST, DIGEST):
                (folder / f"{name}.new").unlink(missing_ok=True)  # left by a crashed attempt
            change(folder)
            manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
            data = encode_manifest(with_checksums(folder, manifest))
            digest = hashlib.sha256(data).hexdigest()
            self._audit(AuditEntry(self._clock.now(), "amend", version, by, why, digest))
            self._replace_file(f"{version}/{MANIFEST}", data)
            self._replace_file(f"{version}/{DIGEST}", f"{digest}\n".encode())
            sync_folder(folder)

    def promote(self, version: str, *, by: str, why: str) -> None:
        """Make a version the champion, after verifying it."""
        version = self.verify(version).version
        with self._lock_for_change():
            aliases = self.aliases()
            if aliases.champion == version:
                return
            history = (*aliases.history, aliases.champion) if aliases.champion else aliases.history
            challenger = "" if aliases.challenger == version else aliases.challenger
            self._audit(AuditEntry(self._clock.now(), "promote", version, by, why))
            # A canary was compared with the old champion, so it ends with it.
            self._write_aliases(
                Aliases(
                    version,
                    challenger,
                    history[-_HISTORY_MAX:],
                    "" if aliases.shadow == version else aliases.shadow,
                )
            )

    def set_shadow(self, version: str, *, by: str, why: str) -> None:
        """Make servers log the scores of a version, or stop that with ""."""
        if version:
            self.verify(version)
        with self._lock_for_change():
            self._audit(AuditEntry(self._clock.now(), "shadow", version, by, why))
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
        with self._lock_for_change():
            aliases = self.aliases()
            if not aliases.champion or aliases.champion == version:
                message = (
                    f"{version} is the champion already"
                    if aliases.champion
                    else "there is no champion to compare it with"
                )
                raise UsageError(message, where=str(self.path), fix="tailorbird models list")
            self._audit(AuditEntry(self._clock.now(), "canary", version, by, f"{share:g}: {why}"))
            since = aliases.canary_at if aliases.canary == version else self._clock.now()
            changed = msgspec.structs.replace(
                aliases, canary=version, share=share, canary_at=since, automatic=automatic
            )
            self._write_aliases(changed)

    def end_canary(self, *, by: str, why: str) -> str:
        """End the canary, and return its version.

        Raises:
            NotReadyError: there is no canary.
        """
        with self._lock_for_change():
            aliases = self.aliases()
            if not aliases.canary:
                raise NotReadyError(
                    "there is no canary", where=str(self.path), fix="tailorbird models list"
                )
            self._audit(AuditEntry(self._clock.now(), "end canary", aliases.canary, by, why))
            self._write_aliases(msgspec.structs.replace(aliases, canary="", share=0.0, canary_at=0))
        return aliases.canary

    def set_challenger(self, version: str, *, by: str, why: str) -> None:
        """Make a version the challenger, or remove the challenger with ""."""
        if version:
            self.verify(version)
        with self._lock_for_change():
            self._audit(AuditEntry(self._clock.now(), "challenge", version, by, why))
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
        with self._lock_for_change():
            aliases = self.aliases()
            if aliases.previous != previous:
                raise UsageError(
                    "another process changed the champion meanwhile",
                    where=str(self.path),
                    fix="look at it and try again",
                )
            self._audit(AuditEntry(self._clock.now(), "rollback", previous, by, why))
            self._write_aliases(
                Aliases(previous, aliases.challenger, aliases.history[:-1], aliases.shadow)
            )
        return previous

    def record(self, action: str, version: str, *, by: str, why: str) -> None:
        """Log a decision that changes no alias, such as a proposal that waits for a person."""
        with self._lock_for_change():
            self._audit(AuditEntry(self._clock.now(), action, version, by, why))

    def set_formula(self, slot: str, text: str, *, by: str, why: str) -> FormulaChange:
        """Put a value formula in force for a slot, or the slot's own again with "".

        The caller validates the formula.
        """
        with self._lock_for_change():
            formulas = read_formulas(self.path).with_change(
                slot, text, by=by, why=why, at=self._clock.now()
            )
            self._audit(
                AuditEntry(
                    self._clock.now(),
                    "formula",
                    formulas.changes[-1].version,
                    by,
                    f"{slot}: {text or 'as declared'}: {why}",
                )
            )
            self._replace_file(FORMULAS, encode_state(formulas))
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
        with self._lock_for_change():
            experiments = change(read_experiments(self.path))
            self._audit(AuditEntry(self._clock.now(), f"experiment {action}", name, by, why))
            self._replace_file(EXPERIMENTS, encode_state(experiments))
        return experiments

    def champion(self) -> Path | None:
        """Return the folder of the live version, or None."""
        return self._folder_of(self.aliases().champion)

    def folder_named(self, name: str) -> Path | None:
        """Return the folder of the version with one of `NAMES`, or None."""
        return self._folder_of(self.aliases().version_named(name))

    def challenger(self) -> Path | None:
        """Return the folder of the challenger, or None."""
        return self._folder_of(self.aliases().challenger)

    def previous(self) -> Path | None:
        """Return the folder of the previous champion, or None."""
        return self._folder_of(self.aliases().previous)

    def resolve(self, name: str) -> Path:
        """Return the folder of a version or of an alias."""
        aliases = self.aliases()
        version = aliases.version_named(name) if name in NAMES else name
        folder = self._folder_of(version) if _version_number(version) else None
        if folder is None or not folder.is_dir():
            raise UsageError(
                f"there is no version {name!r}", where=str(self.path), fix="tailorbird models list"
            )
        return folder

    def aliases(self) -> Aliases:
        """Return the current aliases."""
        return read_state(self.path / ALIASES, Aliases, fix="restore it from audit.jsonl")

    def versions(self) -> list[VersionInfo]:
        """Return all versions, oldest first."""
        aliases = self.aliases()
        return [self._info(name, aliases) for name in self._version_names()]

    def newest(self, limit: int) -> list[VersionInfo]:
        """Return the last versions and all with an alias, newest first.

        Other manifests are not read.
        """
        aliases = self.aliases()
        names = self._version_names()[::-1]
        return [
            self._info(name, aliases)
            for position, name in enumerate(names)
            if position < limit or aliases.names_of(name)
        ]

    def info(self, version: str) -> VersionInfo:
        """Return a version as its manifest describes it, unverified."""
        return self._info(version, self.aliases())

    def verify(self, version: str) -> Manifest:
        """Verify every byte of a version, also against the checksum in the audit log."""
        sealed = read_sealed(self.resolve(version))
        name = sealed.path.name
        if sealed.manifest.version != name:
            raise BundleError(
                f"its manifest says version {sealed.manifest.version!r}", where=str(sealed.path)
            )
        added = [
            entry.digest
            for entry in self.audit()
            if entry.action in ("add", "amend") and entry.version == name
        ]
        if added and added[-1] != sealed.digest:
            raise BundleError(
                "its manifest is not the one that was added",
                where=str(sealed.path),
                fix="roll back, and find out who changed it",
            )
        return sealed.manifest

    def audit(self) -> list[AuditEntry]:
        """Return every change, oldest first, without a last line that a crash cut short."""
        try:
            lines = (self.path / "audit.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        entries: list[AuditEntry] = []
        for line in lines:
            try:
                entries.append(msgspec.json.decode(line, type=AuditEntry))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
        return entries

    def _version_names(self) -> list[str]:
        if not self.path.is_dir():
            return []
        return sorted(
            (entry.name for entry in os.scandir(self.path) if _version_number(entry.name)),
            key=_version_number,
        )

    def _folder_of(self, version: str) -> Path | None:
        return self.path / version if version else None

    def _info(self, name: str, aliases: Aliases) -> VersionInfo:
        folder = self.path / name
        try:
            manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return VersionInfo(
                name,
                folder,
                0,
                "",
                (),
                {"damaged": True},
                aliases.names_of(name),
                is_readable=False,
            )
        heads = tuple(head.name for head in manifest.heads)
        span = manifest.window.ts_from, max(manifest.window.ts_to, manifest.index_as_of)
        fields = (
            manifest.created_at,
            manifest.schema_hash,
            heads,
            manifest.metrics,
            aliases.names_of(name),
            span,
        )
        return VersionInfo(
            name,
            folder,
            *fields,
            sources=manifest.sources,
            baseline=manifest.baseline,
            learned_until=manifest.window.ts_to,
        )

    @contextmanager
    def _lock_for_change(self) -> Iterator[None]:
        """Hold the lock of the registry; changes are short, so other processes wait."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with open(self.path / "lock", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise StorageError(
                f"the registry cannot be changed: {error.strerror or error}", where=str(self.path)
            ) from error

    def _write_aliases(self, aliases: Aliases) -> None:
        self._replace_file(ALIASES, encode_state(aliases))

    def _replace_file(self, name: str, data: bytes) -> None:
        """Replace a file atomically."""
        _write_file(self.path / f"{name}.new", data)
        faults.at("registry.before_alias")
        os.replace(self.path / f"{name}.new", self.path / name)
        sync_folder(self.path)
        faults.at("registry.after_alias")

    def _audit(self, entry: AuditEntry) -> None:
        """Log a change before it is made.

        A change that then fails is in the log; one that happened is never missing.
        """
        # A leading newline ends a line that a crash cut short, so that it cannot swallow this one.
        with open(self.path / "audit.jsonl", "ab") as file:
            is_cut_short = file.tell() > 0 and not _ends_with_newline(self.path / "audit.jsonl")
            file.write((b"\n" if is_cut_short else b"") + msgspec.json.encode(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.path)


def _version_number(name: str) -> int:
    """Return the number of a version's name, or 0 if it is none."""
    return (
        int(name[1:])
        if name[:1] == "v" and name[1:].isascii() and name[1:].isdigit() and len(name) >= 5
        else 0
    )


def _write_synced(folder: Path, sealed: SealedBundle, version: str) -> str:
    """Write a verified bundle under its version, synced, and return its manifest's checksum."""
    folders = {folder}
    for name, data in sealed.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        folders.update(parent for parent in path.parents if parent.is_relative_to(folder))
        _write_file(path, data)
    folder.mkdir(exist_ok=True)
    data = encode_manifest(msgspec.structs.replace(sealed.manifest, version=version))
    digest = hashlib.sha256(data).hexdigest()
    _write_file(folder / MANIFEST, data)
    _write_file(folder / DIGEST, f"{digest}\n".encode())
    for each in folders:
        sync_folder(each)
    return digest


def _write_file(path: Path, data: bytes | memoryview) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
