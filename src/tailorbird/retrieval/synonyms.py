"""Synonyms: words and phrases that mean the same to who searches a shop, such as `tv` and
`television`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WORDS_MAX = 4  # of a phrase

Phrase = tuple[str, ...]


@dataclass(frozen=True)
class Synonyms:
    """Phrases by their words, each with the others of its group."""

    others: Mapping[Phrase, tuple[Phrase, ...]]

    @classmethod
    def of(cls, groups: Sequence[Sequence[str]]) -> "Synonyms":
        """From groups of phrases that all mean the same; a phrase may stand in several groups.

        Raises:
            ValueError: a group has fewer than two phrases, or a phrase has no word, or more than
                `WORDS_MAX`.
        """
        found: dict[Phrase, dict[Phrase, None]] = {}
        for group in groups:
            if isinstance(group, str) or len(group) < 2:
                raise ValueError(f"{group!r} is no group of two phrases or more")
            phrases = [words_of(phrase) for phrase in group]
            for phrase, words in zip(group, phrases, strict=True):
                if not 0 < len(words) <= WORDS_MAX:
                    raise ValueError(f"{phrase!r} is no phrase of 1 to {WORDS_MAX} words")
                found.setdefault(words, {}).update(
                    (other, None) for other in phrases if other != words
                )
        return cls({words: tuple(others) for words, others in found.items()})

    def beside(self, query: str) -> list[Phrase]:
        """The phrases that mean the same as some words of a query, each once; what it says itself
        is not among them.
        """
        if not self.others:
            return []
        words = words_of(query)
        there = {
            words[start : start + length]
            for length in range(1, WORDS_MAX + 1)
            for start in range(len(words) - length + 1)
        }
        ordered = sorted(there & self.others.keys())
        return [
            other
            for other in dict.fromkeys(other for phrase in ordered for other in self.others[phrase])
            if other not in there
        ]


def words_of(text: str) -> Phrase:
    """The words of a text in lower case: runs of letters and digits."""
    return tuple(
        "".join(character if character.isalnum() else " " for character in text).lower().split()
    )
