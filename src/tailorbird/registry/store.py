"""The registry on a local folder: numbered versions, aliases, and a log of who changed them and
why.

    ROOT/v0001/…         bundles, read-only once they are there
    ROOT/formulas.json   value formulas that were set without a new model, see `registry.formulas`; replaced whole
    ROOT/aliases.json    champion, challenger, and the champions before, newest last; replaced whole
    ROOT/audit.jsonl     one line for each change
    ROOT/lock            held while something changes

A bundle is copied into `ROOT/.incoming`, synced file by file, and renamed to its version: it is
there whole or not at all. What a bundle is stands in `registry.manifest`.
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
from tailorbird.errors import BundleError, DamageError, NotReadyError, StorageError, UsageError
from tailorbird.registry.formulas import FILE as FORMULAS
from tailorbird.registry.formulas import FormulaChange, encode_formulas, read_formulas
from tailorbird.registry.manifest import (
    DIGEST,
    MANIFEST,
    Manifest,
    Sealed,
    encode,
    of_files,
    read_sealed,
)
from tailorbird.whole import sync_folder

_HISTORY_MAX = 50
# of the people that an assignment tells apart, see `experiments.assign`: of fewer it would be
# nobody
SHARE_MIN = 0.0001


class Clock(Protocol):
    """The time in microseconds; `events.Clock`, which this package does not import."""

    def now(self) -> int: ...


NAMES = ("champion", "challenger", "previous", "canary", "shadow")


class Aliases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of versions: the one that serves, the one that is being tried, and those that served
    before, newest last.

    `canary` answers `share` of the people since `canary_at` (microseconds), and is advanced or
    ended by its figures where `automatic`; the scores of `shadow` are logged beside and shown to
    nobody.
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
        """The champion before this one, which a rollback brings back."""
        return self.history[-1] if self.history else ""

    def of(self, version: str) -> tuple[str, ...]:
        """The names that a version bears."""
        return tuple(name for name in NAMES if self.named(name) == version)

    def named(self, name: str) -> str:
        """The version behind one of `NAMES`, "" where there is none."""
        return getattr(self, name)


class AuditEntry(msgspec.Struct, frozen=True):
    """One change: what, to which version, by whom, why and when; `digest` is the SHA-256 of the
    manifest that was added.
    """

    at: int
    action: str
    version: str
    by: str
    why: str
    digest: str = ""


@dataclass(frozen=True)
class VersionInfo:
    """A version as a list shows it, from its manifest alone; its files are not checked."""

    version: str
    path: Path
    created_at: int
    schema_hash: str
    heads: tuple[str, ...]
    metrics: dict[str, Any]
    aliases: tuple[str, ...]
    learned_from: tuple[int, int] = (
        0,
        0,
    )  # the span of time that model and index learned from, microseconds; zeros: nothing
    whole: bool = True  # whether its manifest could be read
    sources: tuple[str, ...] = ()  # candidate sources whose tables it reads
    baseline: str = ""  # sources by which it orders items, where it has no heads


class Registry:
    """Bundles by version.

    Promised: `add`, `promote` and `rollback` survive the death of the process and of the power once
    they return, and happen whole or not at all; a version never changes, but where an erasure
    amends it; what `champion` names was whole when it was promoted.

    Args:
        path: the folder; made on the first change.
        clock: what the audit log's times come from.
    """

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self.path = path
        self._clock = clock

    def add(self, folder: Path, *, by: str = "", why: str = "") -> str:
        """Take a copy of a sealed bundle and return the version that it got, such as `v0001`."""
        sealed = read_sealed(folder)
        with self._changing():
            incoming = self.path / ".incoming"
            shutil.rmtree(incoming, ignore_errors=True)  # of an `add` that died
            version = f"v{max((_number(name) for name in self._names()), default=0) + 1:04d}"
            digest = _write_synced(incoming, sealed, version)
            self._audit(AuditEntry(self._clock.now(), "add", version, by, why, digest))
            faults.at("registry.before_rename")
            os.rename(incoming, self.path / version)
            sync_folder(self.path)
            faults.at("registry.after_rename")
        return version

    def amend(self, version: str, change: Callable[[Path], None], *, by: str, why: str) -> None:
        """Change files of a version that may not stay as they are, and seal it anew.

        Whoever dies on the way leaves a version that does not match its manifest, and has to do it
        again.
        """
        with self._changing():
            folder = self.path / version
            for name in (MANIFEST, DIGEST):
                (folder / f"{name}.new").unlink(missing_ok=True)  # of a try that died
            change(folder)
            manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
            data = encode(of_files(folder, manifest))
            digest = hashlib.sha256(data).hexdigest()
            self._audit(AuditEntry(self._clock.now(), "amend", version, by, why, digest))
            self._replace(f"{version}/{MANIFEST}", data)
            self._replace(f"{version}/{DIGEST}", f"{digest}\n".encode())
            sync_folder(folder)

    def promote(self, version: str, *, by: str, why: str) -> None:
        """Make a version the champion, after checking all of it."""
        self.verify(version)
        with self._changing():
            aliases = self.aliases()
            if aliases.champion == version:
                return
            history = (*aliases.history, aliases.champion) if aliases.champion else aliases.history
            challenger = "" if aliases.challenger == version else aliases.challenger
            self._audit(AuditEntry(self._clock.now(), "promote", version, by, why))
            # What was tried beside the one before was compared with it, and is not with this one.
            self._rename_aliases(
                Aliases(
                    version,
                    challenger,
                    history[-_HISTORY_MAX:],
                    "" if aliases.shadow == version else aliases.shadow,
                )
            )

    def cast_shadow(self, version: str, *, by: str, why: str) -> None:
        """Have servers log what a version would have scored, or end that with ""."""
        if version:
            self.verify(version)
        with self._changing():
            self._audit(AuditEntry(self._clock.now(), "shadow", version, by, why))
            self._rename_aliases(msgspec.structs.replace(self.aliases(), shadow=version))

    def send_canary(
        self, version: str, share: float, *, by: str, why: str, automatic: bool = True
    ) -> None:
        """Let a version answer a share of the people, or a larger share of them than before.

        Raises:
            UsageError: it is the champion, there is none, or the share is none.
        """
        if not SHARE_MIN <= share <= 1 - SHARE_MIN:
            told = f"expected a share from {SHARE_MIN:g} to {1 - SHARE_MIN:g}, got {share:g}"
            raise UsageError(told, where="share", fix="1 is: tailorbird models promote")
        self.verify(version)
        with self._changing():
            aliases = self.aliases()
            if not aliases.champion or aliases.champion == version:
                told = (
                    f"{version} is the champion already"
                    if aliases.champion
                    else "there is no champion to compare it with"
                )
                raise UsageError(told, where=str(self.path), fix="tailorbird models list")
            self._audit(AuditEntry(self._clock.now(), "canary", version, by, f"{share:g}: {why}"))
            since = aliases.canary_at if aliases.canary == version else self._clock.now()
            changed = msgspec.structs.replace(
                aliases, canary=version, share=share, canary_at=since, automatic=automatic
            )
            self._rename_aliases(changed)

    def end_canary(self, *, by: str, why: str) -> str:
        """Let the champion answer everybody again; the version that was the canary.

        Raises:
            NotReadyError: there is no canary.
        """
        with self._changing():
            aliases = self.aliases()
            if not aliases.canary:
                raise NotReadyError(
                    "there is no canary", where=str(self.path), fix="tailorbird models list"
                )
            self._audit(AuditEntry(self._clock.now(), "end canary", aliases.canary, by, why))
            self._rename_aliases(
                msgspec.structs.replace(aliases, canary="", share=0.0, canary_at=0)
            )
        return aliases.canary

    def challenge(self, version: str, *, by: str, why: str) -> None:
        """Name a version the challenger, or nobody with ""."""
        if version:
            self.verify(version)
        with self._changing():
            self._audit(AuditEntry(self._clock.now(), "challenge", version, by, why))
            self._rename_aliases(msgspec.structs.replace(self.aliases(), challenger=version))

    def rollback(self, *, by: str, why: str) -> str:
        """Bring the previous champion back and return its version. Rolling back again goes one
        further back.
        """
        previous = self.aliases().previous
        if not previous:
            raise NotReadyError(
                "there is no earlier champion to go back to",
                where=str(self.path),
                fix="tailorbird models list",
            )
        self.verify(previous)
        with self._changing():
            aliases = self.aliases()
            if aliases.previous != previous:
                raise UsageError(
                    "another process changed the champion meanwhile",
                    where=str(self.path),
                    fix="look at it and try again",
                )
            self._audit(AuditEntry(self._clock.now(), "rollback", previous, by, why))
            self._rename_aliases(
                Aliases(previous, aliases.challenger, aliases.history[:-1], aliases.shadow)
            )
        return previous

    def set_formula(self, slot: str, text: str, *, by: str, why: str) -> FormulaChange:
        """Put a value formula in force for a slot, or with "" the slot's own again. What it says is
        for the caller to check.
        """
        with self._changing():
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
            self._replace(FORMULAS, encode_formulas(formulas))
        return formulas.changes[-1]

    def champion(self) -> Path | None:
        """The folder of the version that serves, or None."""
        return self._folder_of(self.aliases().champion)

    def behind(self, name: str) -> Path | None:
        """The folder of the version behind one of `NAMES`, or None."""
        return self._folder_of(self.aliases().named(name))

    def challenger(self) -> Path | None:
        """The folder of the version that is being tried, or None."""
        return self._folder_of(self.aliases().challenger)

    def previous(self) -> Path | None:
        """The folder of the champion before this one, or None."""
        return self._folder_of(self.aliases().previous)

    def resolve(self, name: str) -> Path:
        """The folder of a version or of an alias."""
        aliases = self.aliases()
        version = aliases.named(name) if name in NAMES else name
        folder = self._folder_of(version) if _number(version) else None
        if folder is None or not folder.is_dir():
            raise UsageError(
                f"there is no version {name!r}", where=str(self.path), fix="tailorbird models list"
            )
        return folder

    def aliases(self) -> Aliases:
        """The aliases as they are now."""
        try:
            return msgspec.json.decode((self.path / "aliases.json").read_bytes(), type=Aliases)
        except FileNotFoundError:
            return Aliases()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            where = str(self.path / "aliases.json")
            raise DamageError(
                f"cannot be read: {error}", where=where, fix="restore it from audit.jsonl"
            ) from error

    def versions(self) -> list[VersionInfo]:
        """All versions, oldest first."""
        aliases = self.aliases()
        return [self._info(name, aliases) for name in self._names()]

    def newest(self, most: int) -> list[VersionInfo]:
        """The last versions, newest first, and with them all that bear a name; the manifests of no
        others are read.
        """
        aliases = self.aliases()
        names = self._names()[::-1]
        return [
            self._info(name, aliases)
            for place, name in enumerate(names)
            if place < most or aliases.of(name)
        ]

    def info(self, version: str) -> VersionInfo:
        """What the manifest of one version says, unchecked."""
        return self._info(version, self.aliases())

    def verify(self, version: str) -> Manifest:
        """Read every byte of a version and check it, also against the checksum that the audit log
        took down of it last.
        """
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
        """Every change, oldest first; a last line that a crash cut short is left out."""
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

    def _names(self) -> list[str]:
        if not self.path.is_dir():
            return []
        return sorted(
            (entry.name for entry in os.scandir(self.path) if _number(entry.name)), key=_number
        )

    def _folder_of(self, version: str) -> Path | None:
        return self.path / version if version else None

    def _info(self, name: str, aliases: Aliases) -> VersionInfo:
        folder = self.path / name
        try:
            manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return VersionInfo(
                name, folder, 0, "", (), {"damaged": True}, aliases.of(name), whole=False
            )
        heads = tuple(head.name for head in manifest.heads)
        span = manifest.window.ts_from, max(manifest.window.ts_to, manifest.index_as_of)
        told = (
            manifest.created_at,
            manifest.schema_hash,
            heads,
            manifest.metrics,
            aliases.of(name),
            span,
        )
        return VersionInfo(
            name, folder, *told, sources=manifest.sources, baseline=manifest.baseline
        )

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Only one process changes the registry at a time; changes are short, so the second one
        waits.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with open(self.path / "lock", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise StorageError(
                f"the registry cannot be changed: {error.strerror or error}", where=str(self.path)
            ) from error

    def _rename_aliases(self, aliases: Aliases) -> None:
        self._replace(
            "aliases.json", msgspec.json.format(msgspec.json.encode(aliases), indent=1) + b"\n"
        )

    def _replace(self, name: str, data: bytes) -> None:
        """A file, there whole or as it was before."""
        _write_file(self.path / f"{name}.new", data)
        faults.at("registry.before_alias")
        os.replace(self.path / f"{name}.new", self.path / name)
        sync_folder(self.path)
        faults.at("registry.after_alias")

    def _audit(self, entry: AuditEntry) -> None:
        """Take a change down before it is made: one that then fails stands in the log, one that
        happened is never missing.
        """
        # A leading newline ends a line that a crash cut short, so that it cannot swallow this one.
        with open(self.path / "audit.jsonl", "ab") as file:
            torn = file.tell() > 0 and not _ends_with_newline(self.path / "audit.jsonl")
            file.write((b"\n" if torn else b"") + msgspec.json.encode(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.path)


def _number(name: str) -> int:
    """The number of a version's name, 0 if it is none."""
    return (
        int(name[1:])
        if name[:1] == "v" and name[1:].isascii() and name[1:].isdigit() and len(name) >= 5
        else 0
    )


def _write_synced(folder: Path, sealed: Sealed, version: str) -> str:
    """Write a bundle under its version, from the bytes that were checked, all of it on the disk;
    the manifest's checksum.
    """
    folders = {folder}
    for name, data in sealed.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        folders.update(parent for parent in path.parents if parent.is_relative_to(folder))
        _write_file(path, data)
    folder.mkdir(exist_ok=True)
    data = encode(msgspec.structs.replace(sealed.manifest, version=version))
    digest = hashlib.sha256(data).hexdigest()
    _write_file(folder / MANIFEST, data)
    _write_file(folder / DIGEST, f"{digest}\n".encode())
    for each in folders:
        sync_folder(each)
    return digest


def _write_file(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
