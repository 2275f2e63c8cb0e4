"""The retrievers once more, in plain Python: dictionaries and loops, one question at a time, as their docstrings and papers say it."""

import math
from collections import defaultdict

import numpy as np


def sequences_of(events):
    """person → [(item, ts)], oldest first, from (person, item, ts) in the order of the log."""
    found = defaultdict(list)
    for person, item, ts in sorted(events, key=lambda event: event[2]):
        found[person].append((item, ts))
    return dict(found)


def listed(scores, context, n, *, repeats):
    """The best items: score descending, then code; scores of 0 are none."""
    left_out = set() if repeats else {item for item, _ in context}
    kept = [(-np.float32(score), item) for item, score in scores.items() if np.float32(score) > 0 and item not in left_out]
    return [(item, -score) for score, item in sorted(kept)][:n]


def popular(events, t, window):
    counts = defaultdict(float)
    for _, item, ts in events:
        if window is None or ts >= t - window:
            counts[item] += 1
    return counts


WEIGHT = {
    "same": lambda p, length: 1.0,
    "div": lambda p, length: p / length,
    "linear": lambda p, length: 1 - 0.1 * (length - p) if p <= 10 else 0.0,
    "quadratic": lambda p, length: (p / length) ** 2,
    "log": lambda p, length: 1 / math.log10(length - p + 1.7),
}
DECAY = {
    "same": lambda step: 1.0,
    "div": lambda step: 1 / step,
    "linear": lambda step: 1 - 0.1 * step,
    "quadratic": lambda step: 1 / step**2,
    "log": lambda step: 1 / math.log10(step + 1.7),
}


def candidates(events, context, sample):
    """The newest sequences that share an item with the context, newest first: [(last ts, sequence)]."""
    own = {item for item, _ in context}
    order = sorted(sequences_of(events).items(), key=lambda entry: (entry[1][-1][1], entry[0]), reverse=True)
    return [(events[-1][1], [item for item, _ in events]) for _, events in order if own & {item for item, _ in events}][:sample]


def most_alike(found, k):
    """The k most similar; of equals the newer, which come first in `found`."""
    return sorted(found, key=lambda entry: -entry[0])[:k]


def vsknn(events, context, recipe):
    own = [item for item, _ in context]
    place = {item: number for number, item in enumerate(own, 1)}
    found = []
    for _, sequence in candidates(events, context, recipe.sample):
        common = set(sequence) & set(own)
        alike = sum(WEIGHT[recipe.weighting](place[item], len(own)) for item in common) / len(set(own))
        steps = min(len(own) - place[item] + 1 for item in common)
        found.append((alike, alike * DECAY[recipe.weighting_score](steps), sequence))
    scores = defaultdict(float)
    everyone = sequences_of(events).values()
    for _, gain, sequence in most_alike(found, recipe.k):
        for item in set(sequence):
            holders = sum(any(item == other for other, _ in each) for each in everyone)
            lift = 1 + recipe.idf_weight * math.log(len(everyone) / holders)
            if gain > 0:
                scores[item] += gain * lift
    return scores


def stan(events, context, t, recipe):
    own = [item for item, _ in context]
    weight = {item: math.exp((number - len(own)) / recipe.position) for number, item in enumerate(own, 1)}
    norm = math.sqrt(sum(each**2 for each in weight.values()))
    found = []
    for last, sequence in candidates(events, context, recipe.sample):
        alike = sum(weight[item] for item in set(sequence) & set(own)) / (norm * math.sqrt(len(set(sequence))))
        found.append((alike * math.exp(-(t - last) / recipe.recency_us), sequence))
    scores = defaultdict(float)
    for alike, sequence in most_alike(found, recipe.k):
        place = {item: number for number, item in enumerate(sequence, 1)}
        star = max(number for item, number in place.items() if item in weight)
        for item, number in place.items():
            scores[item] += alike * math.exp(-abs(number - star) / recipe.closeness)
    return scores


def what_goes_with(events, context, items):
    """The dense matrix by a double loop, and the last ten items of the context."""
    sums = np.zeros((items, items))
    for sequence in sequences_of(events).values():
        kept = [event for at, event in enumerate(sequence) if at == 0 or event[0] != sequence[at - 1][0]]
        for a, (i, _) in enumerate(kept):
            for b in range(a + 1, min(a + 11, len(kept))):
                if i != kept[b][0]:
                    sums[i, kept[b][0]] += 1 / (b - a)
                    sums[kept[b][0], i] += 1 / (b - a)
    table = sums / (sums.sum(axis=1, keepdims=True) + 10)
    scores = defaultdict(float)
    for age, (item, _) in enumerate(reversed(context[-10:])):
        for j in np.flatnonzero(table[item]):
            scores[int(j)] += 0.8**age * table[item, j]
    return scores


def ease(events, context, t, items, recipe):
    """By the inverse itself. `context`: what it stands for is the newest time of each item."""

    def row(pairs, now):
        x = np.zeros(items)
        for item, ts in pairs:
            x[item] = max(x[item], 1.0 if recipe.half_life_us is None else 0.5 ** ((now - ts) / recipe.half_life_us))
        return x

    x = np.array([row(sequence, sequence[-1][1]) for sequence in sequences_of(events).values()])
    p = np.linalg.inv(x.T @ x + recipe.regularisation * np.eye(items))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    taking_part = x.sum(axis=0) > 0
    scores = (row(context, t) * taking_part) @ b
    return {item: scores[item] for item in np.flatnonzero(taking_part).tolist()}


def same_kind(events, context, t, items, recipe):
    """Cosines of sets of tokens."""
    counts = popular(events, t, recipe.window_us)
    tokens = [set(row) - {0} for row in recipe.content.tolist()]

    def alike(i, j):
        return len(tokens[i] & tokens[j]) / math.sqrt(len(tokens[i]) * len(tokens[j])) if tokens[i] and tokens[j] else 0.0

    recent = [item for item, _ in reversed(context[-10:])]
    return {j: (counts[j] + 1) * (recipe.prior + sum(0.8**age * alike(i, j) for age, i in enumerate(recent))) for j in range(items)}
