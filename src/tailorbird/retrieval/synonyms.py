"""Synonyms: words and phrases with the same meaning in a shop's search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PHRASE_WORDS_MAX = 4  # Maximum words of a phrase.

Phrase = tuple[str, ...]


@dataclass(frozen=True)
class Synonyms:
    """Phrases by their words, each with its synonyms."""

    synonyms_by_phrase: Mapping[Phrase, tuple[Phrase, ...]]

    @classmethod
    def from_groups(cls, groups: Sequence[Sequence[str]]) -> "Synonyms":
        """Create synonyms from groups of equivalent phrases; a phrase may be in several groups.

        Raises:
            ValueError: a group has fewer than two phrases, or a phrase has no word or more than
                `PHRASE_WORDS_MAX`.
        """
        synonyms_by_phrase: dict[Phrase, dict[Phrase, None]] = {}
        for group in groups:
            if isinstance(group, str) or len(group) < 2:
                raise ValueError(f"{group!r} is no group of two phrases or more")
            phrases = [split_words(phrase) for phrase in group]
            for phrase, words in zip(group, phrases, strict=True):
                if not 0 < len(words) <= PHRASE_WORDS_MAX:
                    raise ValueError(f"{phrase!r} is no phrase of 1 to {PHRASE_WORDS_MAX} words")
                synonyms_by_phrase.setdefault(words, {}).update(
                    (other, None) for other in phrases if other != words
                )
        return cls({words: tuple(synonyms) for words, synonyms in synonyms_by_phrase.items()})

    def phrases_for(self, query: str) -> list[Phrase]:
        """Return the synonyms of phrases in a query, each once, without those it contains."""
        if not self.synonyms_by_phrase:
            return []
        words = split_words(query)
        contained_phrases = {
            words[start : start + length]
            for length in range(1, PHRASE_WORDS_MAX + 1)
            for start in range(len(words) - length + 1)
        }
        matching_phrases = sorted(contained_phrases & self.synonyms_by_phrase.keys())
        return [
            other
            for other in dict.fromkeys(
                other for phrase in matching_phrases for other in self.synonyms_by_phrase[phrase]
            )
            if other not in contained_phrases
        ]


def split_words(text: str) -> Phrase:
    """Return the words of a text in lower case: runs of letters and digits."""
    return tuple(
        "".join(character if character.isalnum() else " " for character in text).lower().split()
    )
