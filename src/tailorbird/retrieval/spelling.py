"""Spelling corrections for query words that no item, or hardly any, contains.

Words are looked up by their stem, as in the text index. Variants have one letter more, fewer or
different, or two neighbours swapped. They are looked up in the words of titles, categories and
brands. Words with digits are part numbers, whose variants are other parts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import tantivy

WORD_LENGTHS = range(4, 21)  # Shorter words have too many variants.
CORRECTED_WORDS_MAX = 4  # Corrected words per query.
CORRECTIONS_MAX = 3  # Corrections per word.
RARE_ITEMS_MAX = 3  # A word in so many items may still be a typing error …
FREQUENCY_RATIO = 50  # … if the correction is in so many times as many items.

# Same as the tokenizer `en_stem` of the text index.
_analyze = (
    tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    .filter(tantivy.Filter.lowercase())
    .filter(tantivy.Filter.stemmer("english"))
    .build()
    .analyze
)


@dataclass(frozen=True)
class Spelling:
    """The words of an index.

    Attributes:
        item_counts: stem → number of items with it in a title, category or brand; letters only.
        letters: letters that occur in these stems.
        count_elsewhere: returns the number of items with a stem in their other texts.
    """

    item_counts: Mapping[str, int]
    letters: str
    count_elsewhere: Callable[[str], int]

    @classmethod
    def from_terms(
        cls, terms: Iterable[tuple[str, int]], count_elsewhere: Callable[[str], int]
    ) -> "Spelling":
        """Create it from the stems of fields, with the number of items of each."""
        return cls({}, "", count_elsewhere).with_terms(terms, count_elsewhere)

    def with_terms(
        self, terms: Iterable[tuple[str, int]], count_elsewhere: Callable[[str], int]
    ) -> "Spelling":
        """Return it with stems whose item counts have grown."""
        merged_counts: dict[str, int] = {}
        for stem, count in terms:
            if stem.isalpha():
                merged_counts[stem] = max(
                    count, merged_counts.get(stem) or self.item_counts.get(stem, 0)
                )
        return Spelling(
            {**self.item_counts, **merged_counts},
            "".join(sorted(set(self.letters).union(*merged_counts))),
            count_elsewhere,
        )

    def count_items(self, stem: str) -> int:
        """Return the number of items that contain a stem anywhere."""
        return max(self.item_counts.get(stem, 0), self.count_elsewhere(stem))


def suggest_corrections(words: Sequence[str], spelling: Spelling) -> list[str]:
    """Return likely corrections of query words, as stems in lower case."""
    correction_stems: dict[str, None] = {}
    checked_words = 0
    for word in words:
        if len(word) not in WORD_LENGTHS or not word.isalpha():
            continue
        own_stem = _stem_word(word)
        item_count = spelling.count_items(own_stem)
        if item_count > RARE_ITEMS_MAX or checked_words == CORRECTED_WORDS_MAX:
            continue
        checked_words += 1
        count_by_variant = {
            stem: spelling.item_counts.get(stem, 0)
            for stem in {_stem_word(variant) for variant in _edit_variants(word, spelling.letters)}
            - {own_stem}
        }
        count_min = max(1, FREQUENCY_RATIO * item_count)
        frequent_stems = sorted(
            (stem for stem, count in count_by_variant.items() if count >= count_min),
            key=lambda stem: (-count_by_variant[stem], stem),
        )
        correction_stems.update(dict.fromkeys(frequent_stems[:CORRECTIONS_MAX]))
    return list(correction_stems)


def _stem_word(word: str) -> str:
    return next(iter(_analyze(word)), word)


def _edit_variants(word: str, letters: str) -> Iterator[str]:
    """Yield all variants at edit distance one."""
    for position in range(len(word) + 1):
        head = word[:position]
        tail = word[position:]
        yield from (head + letter + tail for letter in letters)
        if tail:
            yield head + tail[1:]
            yield from (head + letter + tail[1:] for letter in letters)
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
