"""The codes by which an event is refused, and the exception that carries one.

`docs/reference/events.md` shows the table to those who send events.
"""

import msgspec

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # raised by decoders

CODE_DESCRIPTIONS = {
    "malformed_json": "is not JSON, or nested too deeply",
    "missing": "lacks a field that its type needs",
    "wrong_type": "has a field of another type",
    "unknown_field": "has a field that no event has; put it into `properties`",
    "unknown_type": "has a type that this project does not declare",
    "bad_id": "has an empty or too long id, or one with a NUL",
    "reserved_prefix": "has a `user_id`, or a `merged_into`, that begins with `anon:`",
    "bad_time": "has a time without a zone, or in milliseconds or seconds",
    "ts_in_future": "lies more than `[events] skew` in the future",
    "ts_absurd": "lies before 1970 once its clock is corrected",
    "timeless_event": "is timeless but no profile",
    "bad_country": "has a country that is not two letters",
    "number_out_of_range": "has a number outside what can be counted",
    "not_allowed": "has a value that `contract.toml` does not list",
    "too_large": "has too many items, too long a text or too many properties",
    "unknown_kind": "is a record of a kind that its format does not have (imports and webhooks)",
    "wrong_width": "is a row without the columns of its file, with a quote that is not closed, or "
    "no text in UTF-8 (imports)",
    "server_owned": "sets what only the server sets (`answer`, `received_at`)",
    "browser_key": "is a profile (`item`, `user`), a `merge` or an `identify`, sent with "
    "[a key for browsers](../how-to/secure.md#pages-that-send-events-themselves) that may not send "
    "it",
    "erased": "is of somebody who was [erased](../how-to/privacy.md), from before that; nothing of "
    "it is kept. The quarantine and imports say so; answers to senders do not",
}


class ContractViolation(Exception):
    """A violation of the contract, which `check` turns into a Refusal."""

    def __init__(self, code: str, path: str, message: str) -> None:
        self.code = code
        self.path = path
        self.message = message
        super().__init__(message)


def to_violation(error: msgspec.ValidationError, parent_path: str = "$") -> ContractViolation:
    """Return the violation that a decoder found, with its path below `parent_path`."""
    text, _, path = str(error).partition(" - at `")
    path = parent_path + path.rstrip("`").removeprefix("$")
    name = text.rpartition("`")[0].rpartition("`")[2]
    if "unknown field" in text:
        return ContractViolation(
            "unknown_field", f"{path}.{name}", f"{name} is no field; put it into properties"
        )
    if "missing required field" in text:
        return ContractViolation("missing", f"{path}.{name}", f"expected {name}")
    return ContractViolation("wrong_type", path, text[:1].lower() + text[1:])
