"""What visitors type into the search box, and how well an item answers it.

A query is some of the words of an item that the visitor has in mind; now and then with a slip of
the finger. How well an item matches follows from the query's text alone, so that the truth can be
asked about any query.
"""

import numpy as np

from tailorbird.simulator.world import Floats, Ints, Items

RELEVANT = 2.0  # utility of an item that has all the query's words …
FOREIGN = -2.0  # … and of one that has none
TYPO_CHANCE = 0.06


class SearchBox:
    """Queries over the titles of a catalogue."""

    def __init__(self, items: Items) -> None:
        self._words = [title.lower().split() for title in items.titles]
        vocabulary = sorted({word for words in self._words for word in words})
        number = self._number = {word: n for n, word in enumerate(vocabulary)}
        # A slip leaves out the third letter; the slipped form is understood, unless it is itself a
        # word.
        slips = {slip(word): n for word, n in number.items()}
        self._meant = slips | number
        self._has = np.zeros((items.count, len(vocabulary)), bool)
        for item, words in enumerate(self._words):
            self._has[item, [number[word] for word in words]] = True

    def draw(self, rng: np.random.Generator, item: int) -> str:
        """A query of somebody who has this item in mind: what it is, and perhaps what it is made
        of.
        """
        words = self._words[item]
        chance = rng.random()
        chosen = (
            words[-1:] if chance < 0.45 else words[-2:] if chance < 0.8 else [words[0], words[-1]]
        )
        if rng.random() < TYPO_CHANCE:
            chosen = [*chosen[:-1], slip(chosen[-1])]
        return " ".join(chosen)

    def find(self, query: str) -> Ints:
        """The items whose titles have all the words as written, as a plain search would; a slip
        finds nothing.
        """
        words = query.lower().split()
        if not words or any(word not in self._number for word in words):
            return np.empty(0, np.int64)
        return np.flatnonzero(self._has[:, [self._number[word] for word in words]].all(axis=1))

    def match(self, query: str, items: Ints | slice = slice(None)) -> Floats:
        """The share of the query's words that each item's title has, shape of items."""
        meant = [self._meant[word] for word in query.lower().split() if word in self._meant]
        if not meant:
            return np.zeros(self._has[items].shape[:-1])
        return self._has[items][..., meant].mean(axis=-1)

    def relevance(self, query: str, items: Ints) -> Floats:
        """What the query adds to the utility of each item."""
        share = self.match(query, items)
        return np.where(share > 0, RELEVANT * share, FOREIGN)


def slip(word: str) -> str:
    """The word as typed in haste.

    >>> slip("lamp")
    'lap'
    """
    return word[:2] + word[3:] if len(word) > 3 else word
