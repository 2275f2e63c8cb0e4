"""What in a project looks like an id of somebody and is not theirs: longer words, ids of things,
words that mean something else.

longer    "user-123" where "user-12" is looked for; "martinique" in somebody's text where "martin" is
things    ids of events, sessions, requests and items that hold an id of digits: orders, say
named     ids of items, types and the like that hold an id within them, or in another form: they stay
words     ids that are also an item's, a type's, a field's name, or as a user's a visitor's who is somebody else: as bytes, and as
          hashes, they stand everywhere by right
alike     ids of other people that are one of theirs in another case of its letters: they stay, until these are erased too
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.contract import ANONYMOUS_PREFIX
from tailorbird.events.free import is_number, who_said
from tailorbird.events.plan import EVENT_TYPES
from tailorbird.lake import Lake
from tailorbird.privacy.forms import cases, forms
from tailorbird.privacy.mention import WITHIN_MIN, WORD, Mentions
from tailorbird.privacy.person import People, is_any

_IDS = ("user_id", "anonymous_id", "person")
_THINGS = ("event_id", "session_id", "request_id", "item_id")
_TEXTS = ("page", "referrer", "query", "answer_query", "properties", "user_profile", "item_profile")
_VALUES = ("type", "item_id", "device", "country", "slot", "experiment", "arm", "model")


@dataclass
class Others:
    """See above."""

    longer: set[str] = field(default_factory=set)
    things: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    alike: set[str] = field(default_factory=set)


def find_others(lake: Lake, people: People, known: frozenset[str]) -> Others:
    """All of it, from one walk over the lake's events. `known`: names of fields."""
    ids = people.own_ids
    found = Others(words={*(ids & known), *(ids & {*EVENT_TYPES})})
    if not lake.exists("events") or not ids:
        return found
    written = sorted({case for one in ids for case in cases(one)})
    within = "|".join(re.escape(each) for each in written)
    mentions = Mentions(ids, known)
    names = Mentions({one for one in ids if not is_number(one)}, known)
    same = {
        form.decode(errors="surrogatepass")
        for one in ids
        if len(one) >= WITHIN_MIN
        for form in forms(one)
    } - ids
    words = around(ids)
    numbers = "|".join(sorted(one for one in ids if is_number(one) and len(one) >= WITHIN_MIN))
    for batch in lake.batches(
        "events", [*dict.fromkeys((*_IDS, *_THINGS, *_TEXTS, *_VALUES, "items"))]
    ):
        rows = pa.Table.from_batches([batch])
        others = rows.filter(pc.invert(people.of(rows)))
        for name in _IDS:
            like = {
                *_like(rows[name], within),
                *names.seen(rows[name].unique().drop_null().to_pylist()),
            }
            found.longer |= like - same
            found.alike |= {one.removeprefix(ANONYMOUS_PREFIX) for one in like} & same
        if words is not None:
            found.longer.update(
                word
                for name in (*_TEXTS, *_THINGS)
                for text in _like(others[name], within)
                for word in longer_words(text, words, mentions)
            )
        if numbers:
            found.things.update(
                text
                for name in _THINGS
                for text in _like(others[name], f"(?:^|[^0-9])(?:{numbers})(?:[^0-9]|$)")
            )
        # A visitor may have the id of a user who is somebody else, as where guests are users under
        # the id of their browser.
        found.words.update(
            id_ for name in ("user_id", "anonymous_id") for id_ in _among(others[name], ids)
        )
        for column in (*(rows[name] for name in _VALUES), pc.list_flatten(rows["items"])):
            found.words.update(_among(column, ids))
            found.named |= names.seen(column.drop_null().unique().to_pylist()) - ids
    for batch in lake.batches("quarantine", ["body"]) if lake.exists("quarantine") else ():
        found.words.update(
            id_
            for body in batch.column("body").drop_null().to_pylist()
            for id_ in mentions.left_in(body)
        )
    if words is not None:
        found.longer.update(
            word for text in _other_texts(lake) for word in longer_words(text, words, mentions)
        )
    found.longer -= {*written, *(f"{ANONYMOUS_PREFIX}{id_}" for id_ in ids)}
    return found


def _among(column: pa.ChunkedArray | pa.Array, ids: Collection[str]) -> list[str]:
    values = column.drop_null().unique()
    return values.filter(is_any(values, ids)).to_pylist()


def around(ids: Collection[str]) -> re.Pattern[str] | None:
    """Words in which a name of these may stand; None without a name that is looked for in texts."""
    long = sorted(
        {
            case
            for one in ids
            if len(one) >= WITHIN_MIN and not is_number(one)
            for case in cases(one)
        }
    )
    return re.compile(f"{WORD}*(?:{'|'.join(map(re.escape, long))}){WORD}*") if long else None


def _other_texts(lake: Lake) -> Iterator[str]:
    """Profiles, and refused rows: those of the people themselves are erased, so that what else is
    in them is others'.
    """
    for table, name in (("items", "attributes"), ("users", "attributes"), ("quarantine", "body")):
        for batch in lake.batches(table, [name]) if lake.exists(table) else ():
            yield from (
                one if isinstance(one, str) else one.decode(errors="replace")
                for one in batch.column(name).drop_null().to_pylist()
            )


def longer_words(text: str, words: re.Pattern[str], mentions: Mentions) -> Iterator[str]:
    """Those in a text that mentions nobody; of JSON, in its texts and names as they are, not as it
    escapes them.
    """
    try:
        texts = list(who_said(msgspec.json.decode(text)))
    except (msgspec.MsgspecError, RecursionError):
        texts = [text]
    for one in texts:
        if words.search(one) and not mentions.in_text(one):
            yield from words.findall(one)
            yield from words.findall(unquote(one)) if "%" in one else ()


def _like(column: pa.ChunkedArray, pattern: str) -> Iterator[str]:
    values = column.unique().drop_null()
    yield from values.filter(pc.match_substring_regex(values, pattern)).to_pylist()
