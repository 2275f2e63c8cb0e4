"""Bitwise comparison of tensors."""

import numpy as np

from tailorbird.models.deep.checkpoint import copy_weights
from tailorbird.models.deep.model import DeepModel


def have_same_bits(one: DeepModel, other: DeepModel) -> bool:
    one_weights, other_weights = copy_weights(one.net), copy_weights(other.net)
    return one_weights.keys() == other_weights.keys() and all(
        np.array_equal(one_weights[name], other_weights[name]) for name in one_weights
    )
