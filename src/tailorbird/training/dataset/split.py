"""Splits by time: training rows lie before validation rows, and those before test rows.

    ──── train ────|── validation ──|──── test ────►  t
                 gap              gap

A label is known only when its label window has passed. An earlier row whose window reaches over a
border would leak knowledge from behind it, so it is dropped (`gap`).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.events import MINUTE, to_iso

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Requests of each part, as indices in order of time.

    Attributes:
        train_until, validation_until: the two borders, microseconds.
        dropped_count: requests whose label window reaches over a border.
    """

    train: Ints
    validation: Ints
    test: Ints
    train_until: int
    validation_until: int
    dropped_count: int


def split_by_time(
    t: Ints, *, validation_share: float = 0.15, test_share: float = 0.2, gap: int = 0
) -> Split:
    """Split at the times before which the given shares of requests lie.

    Requests of one time stay together.

    Args:
        t: shape (requests,), the time of each request.
        validation_share, test_share: shares of all requests, the newest being `test_share`.
        gap: label window, microseconds.

    Raises:
        UsageError: a part would be empty.
    """
    if len(t) < 3:
        raise UsageError(
            f"expected at least 3 requests to split by time, got {len(t)}",
            fix="import more history, or widen the window",
        )
    sorted_times = np.sort(t)
    train_until = int(sorted_times[round(len(t) * (1 - validation_share - test_share))])
    validation_until = int(sorted_times[min(round(len(t) * (1 - test_share)), len(t) - 1)])
    return split_at(t, train_until, validation_until, gap=gap)


def split_at(t: Ints, train_until: int, validation_until: int, *, gap: int = 0) -> Split:
    """Split at two given times.

    Raises:
        UsageError: a part would be empty.
    """
    time_order = np.argsort(t, kind="stable")
    sorted_times = t[time_order]
    train = time_order[(sorted_times < train_until) & (sorted_times + gap <= train_until)]
    validation = time_order[
        (sorted_times >= train_until)
        & (sorted_times < validation_until)
        & (sorted_times + gap <= validation_until)
    ]
    test = time_order[sorted_times >= validation_until]
    for name, part in (("training", train), ("validation", validation), ("test", test)):
        if not len(part):
            span_note = (
                f"{len(t)} requests from {to_iso(int(sorted_times[0]))} "
                f"to {to_iso(int(sorted_times[-1]))}"
                if len(t)
                else "no request"
            )
            cut_note = (
                f"cut at {to_iso(train_until)} and {to_iso(validation_until)}, "
                f"{gap / MINUTE:g} min dropped before each"
            )
            raise UsageError(
                f"the {name} part is empty: {span_note}, {cut_note}",
                fix="widen the window, or shorten the slot's attribution",
            )
    return Split(
        train,
        validation,
        test,
        train_until,
        validation_until,
        len(t) - len(train) - len(validation) - len(test),
    )
