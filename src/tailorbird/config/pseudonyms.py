"""Ensure that a project keeps using the pseudonym key, or no key, that its data was written with.

A fingerprint of the key is stored in the project's data and in its lake. A server that starts with
another key, or without one, is refused. It would otherwise store plain ids, or give every user a
new identity. A lost or damaged copy is rewritten by a process with the right key.
"""

import os
from pathlib import Path

import msgspec

from tailorbird.atomic_write import sync_folder
from tailorbird.errors import ConfigError, StorageError, fix_for_os_error
from tailorbird.events.pseudonyms import KEY_SETTING, Pseudonyms
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StoragePath

FILE = "pseudonyms.json"


def pseudonyms_of(
    key: str, data: Path, lake: StoragePath, *, record_key: bool = True
) -> Pseudonyms | None:
    """Return the pseudonyms of a project that has a key, or None without one.

    Args:
        record_key: store the fingerprint where it is missing. A lake that cannot be reached is
            skipped.
    Raises:
        ConfigError: the key is too short or is not the one that the data was written with.
        StorageError: the fingerprint cannot be written.
    """
    pseudonyms = Pseudonyms(key) if key else None
    fingerprint_by_file = {file: _read_fingerprint(file) for file in (data / FILE, lake / FILE)}
    recorded_file = next(
        (file for file, fingerprint in fingerprint_by_file.items() if fingerprint), None
    )
    damaged_file = next(
        (file for file, fingerprint in fingerprint_by_file.items() if fingerprint is None), None
    )
    if recorded_file is None and damaged_file is not None:
        fix = (
            "put it back from a copy: it says with which key the data was written; without one, "
            "delete it if you are sure of the key"
        )
        raise ConfigError("cannot be read", where=str(damaged_file), fix=fix)
    if pseudonyms is None:
        if recorded_file is not None:
            fix = f"set TAILORBIRD_{KEY_SETTING.upper().replace('.', '__')}"
            raise ConfigError(
                f"this project's data holds pseudonyms ({recorded_file}), and no key for them is set",
                where=KEY_SETTING,
                fix=fix,
            )
        return None
    for file, fingerprint in fingerprint_by_file.items():
        if fingerprint and fingerprint != pseudonyms.key_fingerprint:
            raise ConfigError(
                f"is not the key that this project's data was written with ({file})",
                where=KEY_SETTING,
                fix="set that one",
            )
    for file, fingerprint in fingerprint_by_file.items():
        if record_key and fingerprint != pseudonyms.key_fingerprint:
            _write_fingerprint(file, pseudonyms.key_fingerprint)
    return pseudonyms


def _read_fingerprint(file: StoragePath) -> str | None:
    """Return the stored fingerprint, or None if the file is damaged.

    It is "" without a file, and if a remote storage does not respond.
    """
    try:
        return str(msgspec.json.decode(file.read_bytes(), type=dict[str, str])["fingerprint"])
    except FileNotFoundError:
        return ""
    except OSError:
        return "" if storage_at(file).is_remote else None
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        return None


def _write_fingerprint(file: StoragePath, fingerprint: str) -> None:
    content = msgspec.json.encode({"fingerprint": fingerprint}) + b"\n"
    local_file = storage_at(file).local_path
    if local_file is None:
        try:
            file.write_bytes(content)
        except OSError:  # The storage is unreachable now; the next start writes it.
            return
        return
    # Roles that start together write at once.
    temporary_file = local_file.with_name(f".{local_file.name}.{os.getpid()}")
    try:
        local_file.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        temporary_file.rename(local_file)
        sync_folder(local_file.parent)
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror}",
            where=str(file),
            fix=fix_for_os_error(error, "look at the disk"),
        ) from None
