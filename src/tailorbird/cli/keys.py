"""`tailorbird keys create|list|revoke|pseudonym`."""

from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from tailorbird.cli.output import Json, console, print_json, print_table
from tailorbird.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from tailorbird.serving.keyfile import KeyRecord, Limits

Words = Annotated[list[str] | None, Parameter(negative="")]


def create(
    name: str,
    *,
    scope: Words = None,
    origin: Words = None,
    identify: bool | None = None,
    limit: Words = None,
    expires: str = "",
    replaces: str = "",
    keep: str = "7d",
    json: Json = False,
) -> None:
    """Make a key and show it, once: the project keeps only its hash. Running servers take it at
    once.

    A key with an origin is for browsers: it may only send events, and only from the pages of that
    origin; no profiles (`item`, `user`), and `identify` only with `--identify`. With `--replaces`
    both keys hold until the old one expires, so that clients can be changed one by one.

    Example:  tailorbird -C shop keys create backend --scope read --scope write

    Example:  tailorbird -C shop keys create page --scope write --origin https://shop.example

    Example:  tailorbird -C shop keys create backend --replaces 0123456789ab --keep 7d

    Example:  tailorbird -C shop keys create partner --scope write --limit events_per_s=20 --limit ids_per_hour=50000

    Parameters
    ----------
    name:
        what it is for; shown in lists
    scope:
        what it may do, several times for several: `write` sends events, `read` asks for answers and
        metrics, `admin` sees the status, and reads and changes formulas
    origin:
        a web origin whose pages may use it, several times for several
    identify:
        let a key with an origin send `identify` too: whoever reads it in the page can then tie
            their own visits to anybody's name
    limit:
        a limit of its own, such as events_per_s=20: also requests_per_s, batch_max, body_bytes_max,
            ids_per_hour; 0 is none
    expires:
        after how long it is refused, such as 90d; never unless told
    replaces:
        id of the key that it takes the place of; scopes, origins and whether it may identify are
            that one's unless told
    keep:
        with --replaces, how long the old one still holds
    """
    from tailorbird.events import SystemClock, parse_duration, to_iso
    from tailorbird.serving.keyfile import create_key, read_keys

    file = _file()
    old = next((record for record in read_keys(file) if record.id == replaces), None)
    now = SystemClock().now()
    token, record = create_key(
        file,
        name,
        scope or (old.scopes if old else []),
        now,
        origins=origin or (old.origins if old else []),
        limits=_limits(limit) if limit or old is None else old.limits,
        identify=identify if identify is not None else bool(old and old.identify),
        expires_at=now + parse_duration(expires) if expires else 0,
        replaces=replaces,
        keep_until=now + parse_duration(keep),
    )
    if json:
        print_json({"key": token, **_told(record)})
        return
    out = console()
    out.print(
        f"Key {record.id} ({name}), may {' and '.join(record.scopes)}. It is shown this once:\n"
    )
    print(token)
    out.print("\nClients send it as the header  Authorization: Bearer KEY")
    if old is not None:
        out.print(
            f"Key {old.id} holds until "
            f"{to_iso(min(old.expires_at or now + parse_duration(keep), now + parse_duration(keep)))[:16]} "
            "UTC."
        )


def list_(*, json: Json = False) -> None:
    """List the keys of the project: what each may do and until when. The keys themselves are not
    kept anywhere.

    Example:  tailorbird -C shop keys list
    """
    from tailorbird.serving.keyfile import read_keys

    keys = [_told(record) for record in read_keys(_file())]
    if json:
        print_json({"keys": keys})
        return
    rows = [
        (
            key["id"],
            key["name"],
            ", ".join(key["scopes"] + ["identify"] * key["identify"]),
            key["created"],
            key["expires"],
            ", ".join(key["origins"]),
        )
        for key in keys
    ]
    print_table("", ["key", "name", "may", "made", "expires", "for pages of"], rows)


def revoke(key: str, *, json: Json = False) -> None:
    """Take a key back: running servers refuse it from the next request on.

    Example:  tailorbird -C shop keys revoke 0123456789ab

    Parameters
    ----------
    key:
        its id, as `tailorbird keys list` shows it
    """
    from tailorbird.serving.keyfile import revoke_key

    if key.startswith("tb_"):
        raise UsageError(
            "expected the id of a key, not the key",
            fix="the id is the 12 digits between the underscores",
        )
    record = revoke_key(_file(), key)
    if json:
        print_json({"revoked": _told(record)})
        return
    console().print(f"Key {record.id} ({record.name}) is refused from now on.")


def _limits(words: list[str] | None) -> "Limits":
    from tailorbird.serving.keyfile import Limits

    pairs = {name: value for name, _, value in (word.partition("=") for word in words or ())}
    try:
        return msgspec.convert(pairs, Limits, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(Limits.__struct_fields__)
        raise UsageError(
            f"no such limit: {error}", where="--limit", fix=f"NAME=NUMBER, with one of {known}"
        ) from None


def pseudonym(user: str, *, anonymous: bool = False, json: Json = False) -> None:
    """Tell under which pseudonym a person is known in the data, where `events.pseudonym_key` is
    set: for SQL, and for their requests.

    Example:  tailorbird -C shop keys pseudonym u000001

    Parameters
    ----------
    user:
        a user id
    anonymous:
        it is an anonymous id instead
    """
    from tailorbird.config import FILE, find_project, load_settings, paths_of
    from tailorbird.config.pseudonyms import pseudonyms_of

    root = find_project()
    settings, _ = load_settings(root / FILE)
    paths = paths_of(root, settings)
    pseudonyms = pseudonyms_of(settings.events.pseudonym_key, paths.data, paths.lake, note=False)
    if pseudonyms is None:
        raise UsageError("this project keeps ids as they come", where="events.pseudonym_key")
    found = pseudonyms.anonymous_id(user) if anonymous else pseudonyms.user_id(user)
    if json:
        print_json({"pseudonym": found})
        return
    print(found)


def _told(record: "KeyRecord") -> dict:
    from tailorbird.events import to_iso

    return {
        "id": record.id,
        "name": record.name,
        "scopes": record.scopes,
        "created": to_iso(record.created_at),
        "expires": to_iso(record.expires_at) if record.expires_at else None,
        "origins": record.origins,
        "identify": record.identify,
        "limits": msgspec.to_builtins(record.limits),
    }


def _file() -> "Path":
    """The project's file of keys; settings are read, nothing else of the project needs to load."""
    from tailorbird.config import FILE, find_project, load_settings

    root = find_project()
    settings, _ = load_settings(root / FILE)
    return root / settings.serve.keys_file
