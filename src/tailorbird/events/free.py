"""What people and sites wrote into an event, as against what says what it is; and an event, or a JSON value, without some of that.

Whether a text mentions somebody, others decide: `privacy.mention`, which knows ids, and `events.erased`, which knows keyed hashes.

A text is taken apart into what may be an id within it (`candidates`): the text itself, runs of digits, and stretches of words, of as
many as ids have. "from user-12 (ord-417650)" may mention "user-12", "ord-417650" and "417650".
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

CONTEXT = ("page", "referrer", "user_agent")  # what of an event's context is free text
THINGS = ("event_id", "session_id", "request_id")  # ids that a site makes, and may make of somebody's
WITHIN_MIN = 6  # characters from which on an id is looked for within texts
LENGTH_MAX = 256  # of what is taken for an id
WORD = r"[\w\u0300-\u036f-]"  # what words and ids are made of
NO_DIGIT_BEFORE, NO_DIGIT_BEHIND = r"(?<![0-9])(?<![0-9]\.)", r"(?![0-9]|\.[0-9])"
_WORDS = re.compile(f"{WORD}+")
_NUMBERS = re.compile(f"{NO_DIGIT_BEFORE}[0-9]{{{WITHIN_MIN},{LENGTH_MAX}}}{NO_DIGIT_BEHIND}")

Says = Callable[[str, object], bool]  # whether the value of a field, by its name, mentions somebody


def candidates(text: str, words: Collection[int]) -> Iterator[str]:
    """What may be an id in a text. `words`: of how many words ids are made.

    >>> sorted(candidates("by user-12", {1}))
    ['by user-12', 'user-12']
    """
    if len(text) <= LENGTH_MAX:
        yield text
    spots = [found.span() for found in _WORDS.finditer(text)]
    for count in words:
        for (start, _), (_, end) in zip(spots, spots[count - 1 :], strict=False):
            if WITHIN_MIN <= end - start <= LENGTH_MAX:
                yield text[start:end]
    yield from _NUMBERS.findall(text)


def is_number(id_: str) -> bool:
    """Whether an id is digits alone."""
    return id_.isascii() and id_.isdigit()


def words_of(text: str) -> int:
    """How many words a text has."""
    return len(_WORDS.findall(text))


def without(value: object, says: Says, is_name: Callable[[str], bool], name: str = "") -> object:
    """A JSON value with null in place of each text and number that mentions somebody, and without fields whose names do."""
    if isinstance(value, list):
        return [without(one, says, is_name, name) for one in value]
    if isinstance(value, dict):
        return {name: without(one, says, is_name, name) for name, one in value.items() if not is_name(name)}
    return None if says(name, value) else value


def of_another(event: Mapping[str, Any], says: Says, is_name: Callable[[str], bool]) -> dict[str, Any]:
    """An event that was accepted, as it came in, without what it says of somebody else than whose it is."""
    found = dict(event)
    for part, names in (("context", CONTEXT), ("answer", ("query",))):
        if isinstance(fields := event.get(part), dict):
            found[part] = {name: None if name in names and isinstance(one, str) and says("", one) else one for name, one in fields.items()}
    if "properties" in event:
        found["properties"] = without(event["properties"], says, is_name)
    return found
