"""The lanes of reading records: which are stored, and which are read from a state's sequences."""

import numpy as np
import numpy.typing as npt

from tailorbird.features.layout.layout import EntityLayout


def stored_lanes(layout: EntityLayout) -> npt.NDArray[np.intp]:
    """Return the lanes of a reading that are stored: all but those of sequences."""
    is_stored = np.ones(layout.reading_lanes, np.bool_)
    for sequence in layout.sequences:
        is_stored[
            sequence.reading_lane : sequence.reading_lane
            + sequence.reading_columns * sequence.length
        ] = False
    return np.flatnonzero(is_stored)


def sequence_lanes(layout: EntityLayout) -> npt.NDArray[np.intp]:
    """Return for each lane of the state its lane in the reading if it belongs to a sequence, else
    0.
    """
    reading_lanes = np.zeros(layout.state_lanes, np.intp)
    for sequence in layout.sequences:
        for index, column in enumerate((0, *range(2, sequence.state_columns))):  # without the id
            state_start = sequence.lane + column * sequence.length
            reading_start = sequence.reading_lane + index * sequence.length
            reading_lanes[state_start : state_start + sequence.length] = np.arange(
                reading_start, reading_start + sequence.length
            )
    return reading_lanes
