"""Search queries of visitors, and how well items match them.

A query consists of words of an item that the visitor has in mind, sometimes with a typo. The match
depends on the query's text alone, so the truth can evaluate any query.
"""

import numpy as np

from tailorbird.simulator.world import Floats, Ints, Items

MATCH_UTILITY = 2.0  # utility of an item with all the query's words
MISMATCH_UTILITY = -2.0  # utility of an item with none
TYPO_PROBABILITY = 0.06


class SearchBox:
    """Queries over the titles of a catalogue."""

    def __init__(self, items: Items) -> None:
        self._words_by_item = [title.lower().split() for title in items.titles]
        vocabulary = sorted({word for words in self._words_by_item for word in words})
        number_by_word = self._number_by_word = {word: n for n, word in enumerate(vocabulary)}
        # A typo drops the third letter. It is understood, unless it is itself a word.
        number_by_typo = {make_typo(word): n for word, n in number_by_word.items()}
        self._number_by_form = number_by_typo | number_by_word
        self._has_word = np.zeros((items.count, len(vocabulary)), bool)
        for item, words in enumerate(self._words_by_item):
            self._has_word[item, [number_by_word[word] for word in words]] = True

    def draw_query(self, rng: np.random.Generator, item: int) -> str:
        """Draw a query for an item: its noun, and sometimes its material or adjective."""
        words = self._words_by_item[item]
        form_draw = rng.random()
        query_words = (
            words[-1:]
            if form_draw < 0.45
            else words[-2:]
            if form_draw < 0.8
            else [words[0], words[-1]]
        )
        if rng.random() < TYPO_PROBABILITY:
            query_words = [*query_words[:-1], make_typo(query_words[-1])]
        return " ".join(query_words)

    def find_items(self, query: str) -> Ints:
        """Return items whose titles contain all words exactly; a typo matches nothing."""
        words = query.lower().split()
        if not words or any(word not in self._number_by_word for word in words):
            return np.empty(0, np.int64)
        return np.flatnonzero(
            self._has_word[:, [self._number_by_word[word] for word in words]].all(axis=1)
        )

    def match_share(self, query: str, items: Ints | slice = slice(None)) -> Floats:
        """Return the share of the query's words in each item's title, shape of items."""
        word_numbers = [
            self._number_by_form[word]
            for word in query.lower().split()
            if word in self._number_by_form
        ]
        if not word_numbers:
            return np.zeros(self._has_word[items].shape[:-1])
        return self._has_word[items][..., word_numbers].mean(axis=-1)

    def relevance(self, query: str, items: Ints) -> Floats:
        """Return the utility that the query adds to each item."""
        share = self.match_share(query, items)
        return np.where(share > 0, MATCH_UTILITY * share, MISMATCH_UTILITY)


def make_typo(word: str) -> str:
    """Return the word with a typo.

    >>> make_typo("lamp")
    'lap'
    """
    return word[:2] + word[3:] if len(word) > 3 else word
