"""Text as TOML writes it."""

import json


def toml_string(text: str) -> str:
    """Encode text as a TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(name: str) -> str:
    """Encode a name as a TOML key, quoted where necessary."""
    return (
        name
        if name.isascii() and name.replace("_", "a").replace("-", "a").isalnum()
        else toml_string(name)
    )
