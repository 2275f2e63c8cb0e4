"""Loops of the backfill over the last events of who asks: sequences, sessions, gaps, the newest
event. As `features.kernels`.

Each moment walks back from its edge over the events of a series (`asof.Series`, in order of entity
and time), passing over what was not known yet. A walk that passes over more than `PASSED_MAX` is
given up, and the moment left to the caller.

    series   … a b c d | e        edge | , 2 events: c d, where p is early enough; before[edge]: how many of the series lie before it
"""

import numpy as np
import numpy.typing as npt

from tailorbird.features.kernels import Bools, Floats, Int64s, Intps, Keys, compiled

PASSED_MAX = 256  # events in flight that are passed over one by one
SESSION, DEPTH, DURATION, REFINEMENTS, GAP = range(5)  # what `run_columns` makes of a run
SEARCHES = (
    62  # the bit of events that are searches; those below say which steps look at an event's type
)


@compiled
def walk(
    floor: int, stop: int, since: int, bound: int, times: Int64s, p: Int64s, run: Intps
) -> int:
    """The newest known places of [floor, stop) at or after `since`, the newest first, as many as
    `run` holds; −1 if given up.
    """
    count = passed = 0
    place = stop
    while place > floor and count < len(run):
        place -= 1
        if times[place] < since:
            break
        if p[place] > bound:
            passed += 1
            if passed > PASSED_MAX:
                return -1
        else:
            run[count] = place
            count += 1
    return count


@compiled
def newest(
    low: int,
    high: int,
    order: Intps,
    floor: Intps,
    edge: Intps,
    bound: Int64s,
    before: Intps,
    p: Int64s,
    event: Intps,
    found: Intps,
    far: Bools,
) -> None:
    """The event of the newest known place of each moment, −1 without one."""
    for moment in range(low, high):
        row, least, place = order[moment], before[floor[moment]], before[edge[moment]] - 1
        last = max(least, place - PASSED_MAX)
        while place >= last and p[place] > bound[moment]:
            place -= 1
        found[row] = event[place] if place >= last else -1
        far[row] = place < last and last > least


@compiled
def run_sizes(
    low: int,
    high: int,
    order: Intps,
    floor: Intps,
    edge: Intps,
    t: Int64s,
    bound: Int64s,
    before: Intps,
    times: Int64s,
    p: Int64s,
    length: int,
    horizon: int,
    sizes: Int64s,
) -> None:
    """How many events the run of each moment has; −1 if given up."""
    run = np.empty(length, np.intp)
    for moment in range(low, high):
        least, stop = before[floor[moment]], before[edge[moment]]
        sizes[order[moment]] = walk(least, stop, t[moment] - horizon, bound[moment], times, p, run)


@compiled
def run_events(
    low: int,
    high: int,
    order: Intps,
    floor: Intps,
    edge: Intps,
    t: Int64s,
    bound: Int64s,
    before: Intps,
    times: Int64s,
    p: Int64s,
    length: int,
    horizon: int,
    offsets: Int64s,
    item: Keys,
    type_: Keys,
    places: Intps,
    of_ts: Int64s,
    of_item: Keys,
    of_type: Keys,
) -> None:
    """The places of each run, the oldest first, from its offset on, with what is asked of each
    event.
    """
    run = np.empty(length, np.intp)
    for moment in range(low, high):
        least, stop = before[floor[moment]], before[edge[moment]]
        count = walk(least, stop, t[moment] - horizon, bound[moment], times, p, run)
        end = offsets[order[moment] + 1] - 1
        for back in range(count):
            place = run[back]
            places[end - back] = place
            of_ts[end - back] = times[place]
            of_item[end - back] = item[place]
            of_type[end - back] = type_[place]


@compiled
def run_columns(
    low: int,
    high: int,
    order: Intps,
    floor: Intps,
    edge: Intps,
    t: Int64s,
    bound: Int64s,
    before: Intps,
    times: Int64s,
    p: Int64s,
    length: int,
    horizon: int,
    asked: Keys,
    item: Keys,
    session: Keys,
    looked_at: Keys,
    operation: Int64s,
    gap_max: int,
    found: Floats,
    far: Bools,
) -> None:
    """What each operation makes of a run: `runs.Runs`. `asked` is in the order of moments, `found`
    (q, operations).
    """
    run = np.empty(length, np.intp)
    of_session = np.empty(length, np.intp)
    items = np.empty(length, np.uint64)
    for moment in range(low, high):
        row, time = order[moment], t[moment]
        least, stop = before[floor[moment]], before[edge[moment]]
        count = walk(least, stop, time - horizon, bound[moment], times, p, run)
        if count < 0:
            far[row] = True
            continue
        named, following, current = asked[moment], time, 0
        for back in range(count):
            place = run[back]
            if named != 0:
                if session[place] != named:
                    continue
            elif following - times[place] > gap_max:
                break
            following = times[place]
            of_session[current] = place
            current += 1
        for step in range(len(operation)):
            if operation[step] == GAP:
                found[row, step] = _gap(times, run, count)
            else:
                found[row, step] = _of_session(
                    operation[step],
                    np.uint64(step),
                    times,
                    time,
                    of_session[:current],
                    item,
                    looked_at,
                    items,
                )


@compiled
def _gap(times: Int64s, run: Intps, count: int) -> float:
    different = min(count, 1)
    for back in range(1, count):
        different += times[run[back]] != times[run[back - 1]]
    if different < 2:
        return np.nan
    return float(times[run[0]] - times[run[count - 1]]) / 1e6 / (float(different) - 1.0)


@compiled
def _of_session(
    operation: int,
    step: np.uint64,
    times: Int64s,
    time: int,
    places: npt.NDArray[np.intp],
    item: Keys,
    looked_at: Keys,
    items: Keys,
) -> float:
    """Places are those of the current session, the newest first."""
    count = 0
    oldest = np.int64(-1)
    for place in places:
        if (looked_at[place] >> step) & np.uint64(1) == 0:
            continue
        if operation == DEPTH:
            if item[place] == 0:
                continue
            known = False
            for other in range(count):
                if items[other] == item[place]:
                    known = True
                    break
            if known:
                continue
            items[count] = item[place]
        elif (
            operation == REFINEMENTS
            and (looked_at[place] >> np.uint64(SEARCHES)) & np.uint64(1) == 0
        ):
            break
        count += 1
        oldest = place
    if operation == DURATION:
        return float(time - times[oldest]) / 1e6 if oldest >= 0 else np.nan
    return float(count)
