"""The forms in which programs write down a text: what a search for it has to look for.

as it is       "Zoë/7"          composed and decomposed (NFC, NFD), upper and lower case, casefolded
JSON           "Zo\\u00eb\\/7"    with and without letters beyond ASCII escaped, with slashes escaped
addresses      "Zo%C3%AB%2F7"   every letter but the plainest, slashes left, blanks as +; either case of the digits
base64         wherever it begins within the encoded bytes, of both alphabets
"""

import base64
import json
import unicodedata
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import msgspec

_BASE64_MIN = 8  # characters of the part that does not depend on what stands around


def cases(text: str) -> set[str]:
    """The same text as systems that do not tell them apart have it."""
    composed = {text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))}
    return {each for one in composed for each in (one, one.lower(), one.upper(), one.casefold())}


def forms(text: str) -> set[bytes]:
    """All that the text may look like in a file; each is at least as long as the shortest that
    tells it.
    """
    return {form for one in cases(text) for form in written(one)}


def plain(text: str) -> set[bytes]:
    """The text as it is, and as our own JSON writes it."""
    return {text.encode(errors="surrogatepass"), msgspec.json.encode(text)[1:-1]}


def written(text: str) -> Iterator[bytes]:
    """The forms of a text in this case of its letters alone."""
    raw = text.encode(errors="surrogatepass")
    yield raw
    yield msgspec.json.encode(text)[1:-1]
    escaped = json.dumps(text)[1:-1]
    yield from (
        each.encode() for each in (escaped, escaped.replace("/", "\\/"), _upper(escaped, "\\u", 4))
    )
    for quoted in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield quoted.encode()
        yield _lower(quoted, "%", 2).encode()
    yield from _encoded(raw)


def _encoded(raw: bytes) -> Iterator[bytes]:
    """Base64 of the bytes with none, one or two before them, without the characters that also
    depend on others.
    """
    for before in range(3):
        whole = base64.b64encode(bytes(before) + raw)
        first, end = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        part = whole[first:end]
        if len(part) >= _BASE64_MIN:
            yield part
            yield part.translate(bytes.maketrans(b"+/", b"-_"))


def _upper(text: str, mark: str, digits: int) -> str:
    first, *rest = text.split(mark)
    return mark.join([first, *(each[:digits].upper() + each[digits:] for each in rest)])


def _lower(text: str, mark: str, digits: int) -> str:
    first, *rest = text.split(mark)
    return mark.join([first, *(each[:digits].lower() + each[digits:] for each in rest)])
