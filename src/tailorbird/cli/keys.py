"""`tailorbird keys create|list|revoke|pseudonym`: access keys."""

from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from tailorbird.cli.output import Json, console, print_json, print_table
from tailorbird.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from tailorbird.serving.auth.keyfile import KeyRecord, Limits

RepeatedOption = Annotated[list[str] | None, Parameter(negative="")]


def create(
    name: str,
    *,
    scope: RepeatedOption = None,
    origin: RepeatedOption = None,
    identify: bool | None = None,
    limit: RepeatedOption = None,
    expires: str = "",
    replaces: str = "",
    keep: str = "7d",
    json: Json = False,
) -> None:
    """Create an access key and print it once. The project stores only its hash.

    Running servers accept the key at once. A key with an origin is for browsers: it may only send
    events, and only from the pages of that origin. It may not send profiles (`item`, `user`), and
    `identify` only with `--identify`. With `--replaces` both keys are valid until the old one
    expires, so that clients can be changed one by one.

    Example:  tailorbird -C shop keys create backend --scope read --scope write

    Example:  tailorbird -C shop keys create page --scope write --origin https://shop.example

    Example:  tailorbird -C shop keys create backend --replaces 0123456789ab --keep 7d

    Example:  tailorbird -C shop keys create partner --scope write --limit events_per_s=20

    Parameters
    ----------
    name:
        purpose of the key, shown in lists
    scope:
        permission; may be given several times: `write` sends events, `read` asks for answers and
        metrics, `admin` sees the status, and reads and changes formulas
    origin:
        web origin whose pages may use the key; may be given several times
    identify:
        allow a key with an origin to send `identify` too; anyone who reads the key in the page can
        then link their own visits to any user
    limit:
        limit of this key, such as events_per_s=20; also requests_per_s, batch_max, body_bytes_max,
        ids_per_hour; 0 is no limit
    expires:
        time until the key expires, such as 90d; by default never
    replaces:
        id of the key to replace; scopes, origins and `identify` are taken from it by default
    keep:
        with --replaces, how long the old key remains valid
    """
    from tailorbird.events import SystemClock, parse_duration, to_iso
    from tailorbird.serving.auth.keyfile import create_key, read_keys

    file = _keys_file()
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
        print_json({"key": token, **_to_dict(record)})
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
    """List the project's keys with their permissions and expiry.

    Example:  tailorbird -C shop keys list
    """
    from tailorbird.serving.auth.keyfile import read_keys

    keys = [_to_dict(record) for record in read_keys(_keys_file())]
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
    """Revoke a key: running servers refuse it from the next request on.

    Example:  tailorbird -C shop keys revoke 0123456789ab

    Parameters
    ----------
    key:
        id of the key, as `tailorbird keys list` shows it
    """
    from tailorbird.serving.auth.keyfile import revoke_key

    if key.startswith("tb_"):
        raise UsageError(
            "expected the id of a key, not the key",
            fix="the id is the 12 digits between the underscores",
        )
    record = revoke_key(_keys_file(), key)
    if json:
        print_json({"revoked": _to_dict(record)})
        return
    console().print(f"Key {record.id} ({record.name}) is refused from now on.")


def _limits(texts: list[str] | None) -> "Limits":
    from tailorbird.serving.auth.keyfile import Limits

    pairs = {name: value for name, _, value in (word.partition("=") for word in texts or ())}
    try:
        return msgspec.convert(pairs, Limits, strict=False)
    except msgspec.ValidationError as error:
        limit_names = ", ".join(Limits.__struct_fields__)
        raise UsageError(
            f"no such limit: {error}",
            where="--limit",
            fix=f"NAME=NUMBER, with one of {limit_names}",
        ) from None


def pseudonym(user: str, *, anonymous: bool = False, json: Json = False) -> None:
    """Print the pseudonym of a user id, for SQL queries and for requests of users.

    It applies if `events.pseudonym_key` is set.

    Example:  tailorbird -C shop keys pseudonym u000001

    Parameters
    ----------
    user:
        a user id
    anonymous:
        treat it as an anonymous id
    """
    from tailorbird.config import FILE, find_project, load_settings, paths_of
    from tailorbird.config.pseudonyms import pseudonyms_of

    root = find_project()
    settings, _ = load_settings(root / FILE)
    paths = paths_of(root, settings)
    pseudonyms = pseudonyms_of(
        settings.events.pseudonym_key, paths.data, paths.lake, record_key=False
    )
    if pseudonyms is None:
        raise UsageError("this project keeps ids as they come", where="events.pseudonym_key")
    pseudonymised = pseudonyms.anonymous_id(user) if anonymous else pseudonyms.user_id(user)
    if json:
        print_json({"pseudonym": pseudonymised})
        return
    print(pseudonymised)


def _to_dict(record: "KeyRecord") -> dict:
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


def _keys_file() -> "Path":
    """Return the project's keys file; needs only the settings to load."""
    from tailorbird.config import FILE, find_project, load_settings

    root = find_project()
    settings, _ = load_settings(root / FILE)
    return root / settings.serve.keys_file
