"""Whether a project hides its people, and that it goes on as it began: with the same key, or none.

`data/pseudonyms.json` holds a fingerprint of the key, so that a server started without it, or with another, is refused before it
writes an id as it is, or makes strangers of everybody.
"""

import os
from pathlib import Path

import msgspec

from tailorbird.errors import ConfigError, StorageError
from tailorbird.events.pseudonyms import SETTING, Pseudonyms

FILE = "pseudonyms.json"


def pseudonyms_of(key: str, data: Path) -> Pseudonyms | None:
    """The pseudonyms of a project that has a key; None for one that has none.

    Raises:
        ConfigError: the key is too short, or is not the one that the data was written with.
        StorageError: its fingerprint cannot be written.
    """
    pseudonyms = Pseudonyms(key) if key else None
    file = data / FILE
    try:
        known = str(msgspec.json.decode(file.read_bytes(), type=dict[str, str])["fingerprint"])
    except FileNotFoundError:
        if pseudonyms is not None:
            _note(file, pseudonyms.fingerprint)
        return pseudonyms
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        raise ConfigError("cannot be read", where=str(file), fix="put the file back: it says with which key the data was written") from None
    if pseudonyms is None:
        fix = f"set TAILORBIRD_{SETTING.upper().replace('.', '__')}"
        raise ConfigError("this project's data holds pseudonyms, and no key for them is set", where=SETTING, fix=fix)
    if known != pseudonyms.fingerprint:
        raise ConfigError("is not the key that this project's data was written with", where=SETTING, fix="set that one")
    return pseudonyms


def _note(file: Path, fingerprint: str) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as out:
            out.write(msgspec.json.encode({"fingerprint": fingerprint}) + b"\n")
            out.flush()
            os.fsync(out.fileno())
        draft.rename(file)
    except OSError as error:
        raise StorageError(f"cannot be written: {error.strerror}", where=str(file), fix="make the folder writable") from None
