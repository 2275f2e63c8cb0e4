"""Text as TOML writes it."""

import json


def quoted(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def key(name: str) -> str:
    """A TOML key, in quotes where it needs them."""
    return (
        name
        if name.isascii() and name.replace("_", "a").replace("-", "a").isalnum()
        else quoted(name)
    )
