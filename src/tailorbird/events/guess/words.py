"""Column names as words: what each says about the role of its column, in many languages."""

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\W_]+")
_CAMEL_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_FOLDED_LETTERS = str.maketrans({"ł": "l", "ø": "o", "ß": "ss", "æ": "ae", "ı": "i", "đ": "d"})
_PLURAL_ENDINGS = ("s", "es", "n", "en", "e", "er")
_ENTITIES = ("session", "person", "item")
_PART_LENGTH_MIN = 2  # of a part of a compound, such as the `id` of `userid`


@dataclass(frozen=True)
class NameFacts:
    """Concepts and qualifiers that a name has.

    Attributes:
        concepts: all that its words stand for, in their order.
        head: the concept that the name as a whole stands for; "" for none.
        has_other_words: whether it has words of no concept.
        readings: what it may stand for: of a single word, such as `tid`, everything.
    """

    concepts: tuple[str, ...]
    head: str
    has_other_words: bool
    readings: tuple[str, ...] = ()

    def has(self, concept: str) -> bool:
        return concept in self.concepts


def split_words(name: str) -> list[str]:
    """Return the words of a name, folded: `ÓrdenesFecha` gives `ordenes`, `fecha`."""
    return [fold(word) for word in _BORDER.split(name) if word]


def fold(text: str) -> str:
    """Return text in lower case without accents."""
    decomposed = unicodedata.normalize("NFKD", text.casefold().translate(_FOLDED_LETTERS))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def normalise_name(name: str) -> str:
    """Return a name in snake case: `Created at`, `createdAt` and `created.at` give `created_at`."""
    words = re.sub(r"\W+", "_", _CAMEL_BORDER.sub("_", name).lower())
    return re.sub(r"_+", "_", words).strip("_")


@lru_cache(4_096)
def read_name(name: str) -> NameFacts:
    """Return what a name says; of a dotted path, its last part and, if needed, the one before."""
    parts = name.split(".")
    facts = _read_words(split_words(parts[-1]))
    if len(parts) > 1 and (not facts.head or facts.has("identifier")):
        longer = _read_words(split_words(" ".join(parts[-2:])))
        return longer if longer.head and not facts.head else facts
    return facts


def find_event_type(value: str) -> str:
    """Return the event type that a value such as `Order Completed` or `pv` stands for, or ""."""
    words = split_words(value)
    lists = _index_types()
    matches: list[str] = []
    for phrase in (" ".join(words), *_phrases(words)):
        matches += _find_concepts(phrase, lists)
        if matches and phrase == " ".join(words):
            break
    if "none" in matches:
        return ""
    order = list(_read_file()["types"])
    return min(matches, key=order.index, default="")


def _phrases(words: list[str]) -> Iterator[str]:
    for size in (3, 2, 1):
        for start in range(len(words) - size + 1):
            yield " ".join(words[start : start + size])


def _read_words(words: list[str]) -> NameFacts:
    lists = _index_words()
    concepts: list[str] = []
    has_other_words = False
    position = 0
    while position < len(words):
        pair = " ".join(words[position : position + 2])
        if position + 1 < len(words) and (matches := _find_concepts(pair, lists)):
            position += 2
        elif matches := _find_concepts(words[position], lists) or _split_compound(
            words[position], lists
        ):
            position += 1
        else:
            has_other_words = has_other_words or not words[position].isdigit()
            position += 1
        concepts += matches
    order = _head_concepts()
    heads = [concept for concept in concepts if concept in order]
    head = min(heads, key=order.index, default="")
    if head in _ENTITIES:
        head = [concept for concept in heads if concept in _ENTITIES][-1]
    readings = tuple(heads) if len(words) == 1 and len(words[0]) <= 3 else (head,)
    return NameFacts(tuple(concepts), head, has_other_words, readings)


def _find_concepts(phrase: str, lists: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the concepts of a phrase, also in the plural."""
    if phrase in lists:
        return lists[phrase]
    for ending in _PLURAL_ENDINGS:
        if len(phrase) > 3 + len(ending) and phrase.endswith(ending):
            singular = phrase.removesuffix(ending)
            if singular in lists:
                return lists[singular]
    return ()


def _split_compound(word: str, lists: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the concepts of both parts of a compound, such as `Bestelldatum` or `userid`."""
    for end in range(len(word) - _PART_LENGTH_MIN, _PART_LENGTH_MIN, -1):
        first = _find_concepts(word[:end], lists)
        second = _find_concepts(word[end:], lists)
        if first and second:
            return (*first, *second)
    return ()


@cache
def _index_words() -> dict[str, tuple[str, ...]]:
    concepts_by_phrase: dict[str, tuple[str, ...]] = {}
    for concept, languages in _read_file().items():
        if concept != "types":
            for phrase in (phrase for phrases in languages.values() for phrase in phrases):
                other_concepts = concepts_by_phrase.get(fold(phrase), ())
                if concept not in other_concepts:
                    concepts_by_phrase[fold(phrase)] = (*other_concepts, concept)
    return concepts_by_phrase


@cache
def _index_types() -> dict[str, tuple[str, ...]]:
    types_by_phrase: dict[str, tuple[str, ...]] = {}
    for type_, languages in _read_file()["types"].items():
        for phrase in (phrase for phrases in languages.values() for phrase in phrases):
            types_by_phrase[fold(phrase)] = (*types_by_phrase.get(fold(phrase), ()), type_)
    return types_by_phrase


@cache
def _head_concepts() -> list[str]:
    concepts = list(_read_file())
    return concepts[: concepts.index("identifier")]


@cache
def _read_file() -> dict[str, dict[str, Any]]:
    text = (files("tailorbird.events.guess") / "words.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
