"""`tailorbird keys create|list|revoke|pseudonym`: access keys."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tailorbird.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from tailorbird.serving.auth.keyfile import Limits

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
    from tailorbird.events import to_iso
    from tailorbird.platform.keys import KeysView, describe_key

    created_key = KeysView().create(
        name,
        scopes=scope or (),
        origins=origin or (),
        identify=identify,
        limits=_parse_limits(limit) if limit else None,
        expires=expires,
        replaces=replaces,
        keep=keep,
    )
    if json:
        print_json({"key": created_key.token, **describe_key(created_key.record)})
        return
    out = console()
    out.print(
        f"Key {created_key.record.id} ({name}), may {' and '.join(created_key.record.scopes)}. It "
        "is shown this "
        "once:\n"
    )
    print(created_key.token)
    out.print("\nClients send it as the header  Authorization: Bearer KEY")
    if created_key.replaced_key is not None:
        out.print(
            f"Key {created_key.replaced_key.id} holds until "
            f"{to_iso(created_key.replaced_valid_until)[:16]} UTC."
        )


def list_(*, json: Json = False) -> None:
    """List the project's keys with their permissions and expiry.

    Example:  tailorbird -C shop keys list
    """
    from tailorbird.platform.keys import KeysView, describe_key

    keys = [describe_key(record) for record in KeysView().records()]
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
    from tailorbird.platform.keys import KeysView, describe_key

    record = KeysView().revoke(key)
    if json:
        print_json({"revoked": describe_key(record)})
        return
    console().print(f"Key {record.id} ({record.name}) is refused from now on.")


def _parse_limits(options: list[str] | None) -> "Limits":
    import msgspec

    from tailorbird.errors import UsageError
    from tailorbird.serving.auth.keyfile import Limits

    text_by_limit = {
        name: value for name, _, value in (option.partition("=") for option in options or ())
    }
    try:
        return msgspec.convert(text_by_limit, Limits, strict=False)
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
    from tailorbird.platform.keys import KeysView

    hashed_id = KeysView().pseudonym(user, is_anonymous=anonymous)
    if json:
        print_json({"pseudonym": hashed_id})
        return
    print(hashed_id)
