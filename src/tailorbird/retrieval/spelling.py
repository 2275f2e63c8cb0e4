"""Typing errors: words of a query that no item has, or hardly one beside a word a letter away, and
what was probably meant.

A word is looked up by its stem, as the text index has it. What is a letter more, fewer or other
away, or has two neighbours exchanged, is looked up in the words of titles, categories and brands.
Words with digits are part numbers, whose neighbours are other parts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import tantivy

LETTERS = range(4, 21)  # of a word that is looked at: shorter ones have too many neighbours
WORDS_MAX = 4  # of a query
VARIANTS_MAX = 3  # of a word
RARE_MAX = 3  # items that have a word which may still be an error
FAR = 50  # times as many that have the other word, then

_analyze = (
    tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    .filter(tantivy.Filter.lowercase())
    .filter(tantivy.Filter.stemmer("english"))
    .build()
    .analyze
)  # as the tokenizer `en_stem` of the text index


@dataclass(frozen=True)
class Spelling:
    """The words of an index.

    Attributes:
        counts: stem → how many items have it in a title, category or brand; letters only.
        letters: that occur in these.
        elsewhere: how many items have a stem in their other texts.
    """

    counts: Mapping[str, int]
    letters: str
    elsewhere: Callable[[str], int]

    @classmethod
    def of(cls, terms: Iterable[tuple[str, int]], elsewhere: Callable[[str], int]) -> "Spelling":
        """From the stems of fields, with how many items have each."""
        return cls({}, "", elsewhere).with_terms(terms, elsewhere)

    def with_terms(
        self, terms: Iterable[tuple[str, int]], elsewhere: Callable[[str], int]
    ) -> "Spelling":
        """With stems of fields that more items have now than before."""
        added: dict[str, int] = {}
        for stem, count in terms:
            if stem.isalpha():
                added[stem] = max(count, added.get(stem) or self.counts.get(stem, 0))
        return Spelling(
            {**self.counts, **added}, "".join(sorted(set(self.letters).union(*added))), elsewhere
        )

    def items(self, stem: str) -> int:
        """How many items have it anywhere."""
        return max(self.counts.get(stem, 0), self.elsewhere(stem))


def corrections(words: Sequence[str], known: Spelling) -> list[str]:
    """The stems that were probably meant beside some words of a query, in lower case."""
    found: dict[str, None] = {}
    looked = 0
    for word in words:
        if len(word) not in LETTERS or not word.isalpha():
            continue
        own = _stem(word)
        there = known.items(own)
        if there > RARE_MAX or looked == WORDS_MAX:
            continue
        looked += 1
        near = {
            stem: known.counts.get(stem, 0)
            for stem in {_stem(edit) for edit in _edits(word, known.letters)} - {own}
        }
        least = max(1, FAR * there)
        best = sorted(
            (stem for stem, count in near.items() if count >= least),
            key=lambda stem: (-near[stem], stem),
        )
        found.update(dict.fromkeys(best[:VARIANTS_MAX]))
    return list(found)


def _stem(word: str) -> str:
    return next(iter(_analyze(word)), word)


def _edits(word: str, letters: str) -> Iterator[str]:
    """What is one edit away."""
    for at in range(len(word) + 1):
        head, tail = word[:at], word[at:]
        yield from (head + letter + tail for letter in letters)
        if tail:
            yield head + tail[1:]
            yield from (head + letter + tail[1:] for letter in letters)
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
