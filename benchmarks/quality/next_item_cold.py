"""Cold start: what comes next of people who were never seen before, by how many of their events have been seen (0, 1, 2, 5, 10)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.quality.next_item_cases import Case, Data
from benchmarks.quality.next_item_run import K, Questions, ndcg
from tailorbird.models.retrievers import Contexts, Retriever
from tailorbird.retrieval.columns import Column, text_column
from tailorbird.training.bootstrap import Bootstrap

SEEN = (0, 1, 2, 5, 10)


def curves(case: Case, data: Data, models: Mapping[str, Retriever], low: int, high: int) -> dict[str, Any]:
    """NDCG@10 of each model after so many events, of people whose first event lies in the stretch; all models are as of its beginning."""
    told: dict[str, Any] = {"events": list(SEEN), "questions": [], "models": {name: [] for name in models}}
    for count in SEEN:
        questions = first_questions(data, low, high, count, case.questions)
        told["questions"].append(len(questions.person))
        for name, model in models.items():
            if not len(questions.person):
                told["models"][name].append(None)
                continue
            top = model.top(questions.contexts, K, repeats=case.repeats)
            interval = Bootstrap(np.arange(len(questions.person))).mean(ndcg(top, questions.truth, questions.truth_offsets))
            told["models"][name].append([round(float(each), 6) for each in (interval.value, interval.low, interval.high)])
    return told


def attributes_of(data: Data) -> dict[str, Column]:
    """What items are as an index has it: one list of values."""
    return {"content": text_column("|".join(map(str, row[row > 0])) or None for row in data.content)}


def first_questions(data: Data, low: int, high: int, count: int, most: int) -> Questions:
    """What comes after the first `count` events of each new person that has so many and one more within the stretch."""
    first = np.flatnonzero(np.concatenate(([True], data.person[1:] != data.person[:-1])))
    size = np.diff(np.concatenate((first, [len(data.person)])))
    new = (data.ts[first] >= low) & (data.ts[first] < high) & (size > count)
    first = first[new]
    if len(first) > most:
        first = np.sort(np.random.default_rng(0).choice(first, most, replace=False))
    at = first + count
    offsets = np.arange(len(first) + 1) * count
    rows = (first[:, None] + np.arange(count)[None, :]).ravel()
    contexts = Contexts(data.ts[at], data.item[rows], data.ts[rows], offsets.astype(np.int64))
    return Questions(contexts, data.person[at], data.item[at], np.arange(len(at) + 1))
