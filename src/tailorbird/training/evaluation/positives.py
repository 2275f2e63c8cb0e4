"""Chosen items of requests, and which of them the slates of a baseline show."""

from dataclasses import dataclass

import numpy as np

from tailorbird.training.dataset.dataset import Dataset, MissedPositives
from tailorbird.training.dataset.slates import Slates
from tailorbird.training.evaluation.figures import Floats, Ints


@dataclass(frozen=True)
class ChosenItems:
    """Chosen items: request, item and gain, sorted by request and item; shape (m,) each."""

    request_index: Ints
    item_codes: Ints
    gain: Floats
    item_count: int


def collect_chosen_items(data: Dataset, gain: Floats, missed_gain: float) -> ChosenItems:
    positive_rows = np.flatnonzero(gain > 0)
    request_index = np.concatenate(
        [data.request_index[positive_rows], data.missed_positives.request_index]
    )
    item_codes = np.concatenate([data.item_codes[positive_rows], data.missed_positives.item_codes])
    gains = np.concatenate(
        [gain[positive_rows], np.full(len(data.missed_positives.item_codes), missed_gain)]
    )
    order = np.lexsort((item_codes, request_index))
    return ChosenItems(
        request_index[order], item_codes[order], gains[order], max(len(data.item_vocabulary), 1)
    )


def score_slate(slate: Slates, chosen: ChosenItems) -> tuple[Floats, Ints, Ints, MissedPositives]:
    """Match a baseline's slates with the chosen items.

    Returns:
        Gain of each item, the items, the offsets of the requests, and the missed positives.
    """
    request_index = np.repeat(np.arange(len(slate.offsets) - 1), np.diff(slate.offsets))
    positive_keys = chosen.request_index * chosen.item_count + chosen.item_codes
    slate_keys = request_index * chosen.item_count + slate.item_codes
    index = np.minimum(np.searchsorted(positive_keys, slate_keys), max(len(positive_keys) - 1, 0))
    is_chosen = (
        positive_keys[index] == slate_keys
        if len(positive_keys)
        else np.zeros(len(slate_keys), bool)
    )
    gain = (
        np.where(is_chosen, chosen.gain[index], 0.0)
        if len(positive_keys)
        else np.zeros(len(slate_keys))
    )
    is_missed = ~np.isin(positive_keys, slate_keys)
    return (
        gain,
        slate.item_codes,
        slate.offsets,
        MissedPositives(chosen.request_index[is_missed], chosen.item_codes[is_missed]),
    )
