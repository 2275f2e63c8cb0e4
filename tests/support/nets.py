"""A small world for nets: numbers with gaps, codes, a bag, and people who come back to what they
had.
"""

import numpy as np

from tailorbird.models.deep.layout import Bag, History, Layout
from tailorbird.models.deep.rows import Rows

NUMBER_COUNT, HISTORY_LENGTH = 4, 5
LAYOUT = Layout(
    columns=tuple(f"c{place}" for place in range(NUMBER_COUNT + 1 + 3 + 1 + 2 * HISTORY_LENGTH)),
    numeric_indexes=(0, 1, 2, 3),
    code_cardinalities={4: 50},
    bags=(Bag("words", (5, 6, 7), 30),),
    history=History(8, tuple(range(9, 14)), tuple(range(14, 19)), 40),
)


def make_rows(rows: int, seed: int = 0, *, block_rows: int = 32_768) -> Rows:
    """Clicks follow the first number, the code, and whether the candidate is among the newest
    items; purchases are rarer.
    """
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(rows, NUMBER_COUNT)) * [1, 10, 1000, 1]
    code = rng.integers(0, 50, (rows, 1))
    words = rng.integers(0, 30, (rows, 3))
    candidate = rng.integers(1, 40, (rows, 1))
    items = rng.integers(0, 40, (rows, HISTORY_LENGTH))
    gaps = np.where(items > 0, rng.exponential(5, (rows, HISTORY_LENGTH)), np.nan)
    is_repeat = (items == candidate).any(axis=1)
    logit = numbers[:, 0] + 2 * is_repeat + np.sin(code[:, 0]) - 1
    numbers[rng.random(numbers.shape) < 0.05] = np.nan
    matrix = np.concatenate([numbers, code, words, candidate, items, gaps], axis=1).astype(
        np.float32
    )
    labels = {
        head: (rng.random(rows) < 1 / (1 + np.exp(-logit + logit_drop))).astype(np.float32)
        for head, logit_drop in (("click", 0), ("buy", 2))
    }
    return Rows(matrix, labels, block_rows=block_rows)
