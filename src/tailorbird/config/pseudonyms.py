"""Whether a project hides its people, and that it goes on as it began: with the same key, or none.

Two notes hold a fingerprint of the key, one in the project's data and one in its lake, so that a
server started without it, or with another, is refused before it writes an id as it is, or makes
strangers of everybody. One that is lost or damaged is written again by whoever comes with the key
that the other one knows.
"""

import os
from pathlib import Path

import msgspec

from tailorbird.errors import ConfigError, StorageError
from tailorbird.events.pseudonyms import SETTING, Pseudonyms
from tailorbird.places import Storage
from tailorbird.whole import sync_folder

FILE = "pseudonyms.json"


def pseudonyms_of(key: str, data: Path, lake: Storage, *, note: bool = True) -> Pseudonyms | None:
    """The pseudonyms of a project that has a key; None for one that has none.

    Args:
        note: write down which key it is, where that is not written yet. A lake that cannot be
            reached is not asked, nor written to.
    Raises:
        ConfigError: the key is too short, or is not the one that the data was written with.
        StorageError: its fingerprint cannot be written.
    """
    pseudonyms = Pseudonyms(key) if key else None
    known = {file: _fingerprint_in(file) for file in (data / FILE, lake / FILE)}
    noted = next((file for file, fingerprint in known.items() if fingerprint), None)
    damaged = next((file for file, fingerprint in known.items() if fingerprint is None), None)
    if noted is None and damaged is not None:
        fix = (
            "put it back from a copy: it says with which key the data was written; without one, "
            "delete it if you are sure of the key"
        )
        raise ConfigError("cannot be read", where=str(damaged), fix=fix)
    if pseudonyms is None:
        if noted is not None:
            fix = f"set TAILORBIRD_{SETTING.upper().replace('.', '__')}"
            raise ConfigError(
                f"this project's data holds pseudonyms ({noted}), and no key for them is set",
                where=SETTING,
                fix=fix,
            )
        return None
    for file, fingerprint in known.items():
        if fingerprint and fingerprint != pseudonyms.fingerprint:
            raise ConfigError(
                f"is not the key that this project's data was written with ({file})",
                where=SETTING,
                fix="set that one",
            )
    for file, fingerprint in known.items():
        if note and fingerprint != pseudonyms.fingerprint:
            _note(file, pseudonyms.fingerprint)
    return pseudonyms


def _fingerprint_in(file: Storage) -> str | None:
    """What a note says; "" where there is none or the storage does not answer, None where it is
    damaged.
    """
    try:
        return str(msgspec.json.decode(file.read_bytes(), type=dict[str, str])["fingerprint"])
    except FileNotFoundError:
        return ""
    except OSError:
        return None if isinstance(file, Path) else ""
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        return None


def _note(file: Storage, fingerprint: str) -> None:
    content = msgspec.json.encode({"fingerprint": fingerprint}) + b"\n"
    if not isinstance(file, Path):
        try:
            file.write_bytes(content)
        except OSError:  # it does not answer now; the next start writes it
            return
        return
    draft = file.with_name(f".{file.name}.{os.getpid()}")  # roles that start together write at once
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        draft.rename(file)
        sync_folder(file.parent)
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror}", where=str(file), fix="make the folder writable"
        ) from None
