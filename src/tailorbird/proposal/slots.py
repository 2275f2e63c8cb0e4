"""The slot proposed for a site: candidate sources and training window, with reasons."""

from collections.abc import Iterator
from dataclasses import dataclass

from tailorbird.candidates.contract import CATEGORY_ATTRIBUTE, window_text
from tailorbird.events import DAY
from tailorbird.proposal.facts import Facts, Reasons
from tailorbird.proposal.statistics import WINDOWS

_SESSION_EVENTS_MIN = 1.5  # minimum mean length for session-based sources
_NEW_ITEMS_SHARE_MIN = 0.01
_REPEAT_SHARE_HIGH = 0.2  # share of repeats from which past items may fill most of a slate
_WINDOW_SHARE_MIN = 0.75  # a window that tells nearly as much as the best is worth a column
_TRAIN_WINDOWS = (28, 84, 182, 365)  # days
_LONG_WINDOWS = (730, 1825, 3650, 7300)  # of sites where a year holds next to nothing
_VISITS_ENOUGH = 40_000  # visits beyond which a longer past adds little
_FEW_VISITS = 5_000  # a year with fewer is too little to learn from


@dataclass(frozen=True)
class _Sources:
    sources: dict[str, int]
    columns: list[str]


def slots_text(facts: Facts, reasons: Reasons) -> str:
    """Return slots.py."""
    chosen = _choose_sources(facts, reasons)
    hidden_types = _hidden_types(facts, reasons)
    objective = {facts.type: 1.0} | (
        {"purchase": 5.0} if "purchase" in facts.types and facts.type != "purchase" else {}
    )
    why = {name: f"  # {reason}" for name, kind, reason in reasons if kind == "source" and reason}
    sources = "".join(
        f'        "{name}": {limit},{why.get(name, "")}\n' for name, limit in chosen.sources.items()
    )
    columns = (
        f"    columns=[{', '.join(f'{chr(34)}{name}{chr(34)}' for name in chosen.columns)}],\n"
        if chosen.columns
        else ""
    )
    hidden_literals = ", ".join(f'"{name}"' for name in hidden_types) + (
        "," if len(hidden_types) == 1 else ""
    )
    objective_items = ", ".join(f'"{head}": {weight}' for head, weight in objective.items())
    return f'''"""The slots of the site, proposed from data; `tailorbird check` validates them."""

from tailorbird.ranking import Explore, Slot

home = Slot(
    "home",
    size=12,
    sources={{  # where candidates come from, and how many each adds
{sources}    }},
{columns}    objective={{{objective_items}}},
    hide_seen=({hidden_literals}),  # as far as the sequences of features.py reach
    denominator="answer",
    explore=Explore(rate=0.1, pool=50),
    # To measure the model's effect, show popular items to half of the users:
    # from tailorbird.experiments import Experiment
    # experiment=Experiment("home-model", arms={{"popular": 0.5, "model": 0.5}}),
)
'''


def _choose_sources(facts: Facts, reasons: Reasons) -> _Sources:
    boards = _board_windows(facts)
    window_shares = facts.log.window_shares or {}
    for window in boards[:2]:
        reason = (
            f"the 20 most popular items of {window_text(window)} have "
            f"{window_shares[window]:.0%} of the next events"
            if window in window_shares
            else ""
        )
        reasons.append(
            (
                f"popular:{window_text(window)}",
                "source",
                reason or f"{facts.log.span_days:.0f} days of events",
            )
        )
    short_window, long_window = (
        f"popular:{window_text(boards[0])}",
        f"popular:{window_text(boards[1])}",
    )
    sources: dict[str, int] = {}
    if facts.has_repeats:
        sources["repeat"] = 200 if facts.log.repeats >= _REPEAT_SHARE_HIGH else 60
        reasons.append(
            (
                "repeat",
                "source",
                f"{facts.log.repeats:.0%} of the events are about an item that the person "
                "had before",
            )
        )
    knn_source = "item_knn:2" if facts.type in ("click", "view") else "item_knn:10"
    sources |= {short_window: 160, knn_source: 100}
    reason = (
        "of the last two items: a click follows the one before"
        if knn_source == "item_knn:2"
        else "of the last ten items of a person"
    )
    reasons.append((knn_source, "source", f"what goes with each {reason}"))
    if facts.log.session_events >= _SESSION_EVENTS_MIN:
        sources["session_knn"] = 60
        reasons.append(
            (
                "session_knn",
                "source",
                f"a session has {facts.log.session_events:.1f} events, as a mean",
            )
        )
    sources[long_window] = 100
    if facts.log.new_items >= _NEW_ITEMS_SHARE_MIN:
        sources["new_items"] = 40
        reason = (
            f"{facts.log.new_items:.0%} of the last fifth's events are about items that came in it"
        )
        reasons.append(("new_items", "source", reason))
    if facts.category == CATEGORY_ATTRIBUTE:
        sources[f"{long_window}:category"] = 60
    return _Sources(sources, list(dict.fromkeys(_propose_columns(facts, boards, sources, reasons))))


def _board_windows(facts: Facts) -> list[int]:
    """Return leaderboard windows: the best, one about ten times as long, and close runners-up."""
    window_shares = facts.log.window_shares or {}
    best = facts.log.best_window
    longer_windows = [
        window
        for window in WINDOWS
        if 10 * best < window <= max(facts.log.span_days * DAY, 365 * DAY)
    ]
    long_window = (
        longer_windows[0]
        if longer_windows
        else max(window for window in WINDOWS if 10 * window < best)
    )
    close_windows = [
        window
        for window, share in window_shares.items()
        if share >= _WINDOW_SHARE_MIN * window_shares[best]
    ]
    return list(dict.fromkeys([best, long_window, *close_windows]))


def _propose_columns(
    facts: Facts, boards: list[int], sources: dict[str, int], reasons: Reasons
) -> Iterator[str]:
    """Yield the sources whose rank and score the ranker reads, though they add no candidates."""
    other_boards = [f"popular:{window_text(window)}" for window in boards[2:]]
    if other_boards:
        reasons.append(
            (
                ", ".join(other_boards),
                "column",
                "these windows tell nearly as much: the ranker sees the share of the traffic "
                "in each",
            )
        )
    yield from (name for name in other_boards if name not in sources)
    yield from (name for name in ("item_knn:2", "item_knn:10") if name not in sources)
    if "session_knn" in sources:
        yield "stan"
    for segment in facts.context:
        best = boards[0]
        yield f"popular:{window_text(best)}:{segment}"
        if facts.is_fast_moving:
            longer_window = next(window for window in WINDOWS if window > best)
            yield f"popular:{window_text(longer_window)}:{segment}"
        reasons.append(
            (
                f"popular:{window_text(best)}:{segment}",
                "column",
                f"events say the {segment}: what is popular there",
            )
        )


def _hidden_types(facts: Facts, reasons: Reasons) -> list[str]:
    """Return the event types whose items are not shown again."""
    if facts.type != "purchase" and "purchase" in facts.types:
        return ["purchase"]
    if facts.has_repeats:
        return []
    share = f"{facts.log.repeats:.1%} of the events are about an item that the person had before"
    reasons.append(("hide_seen", facts.type, f"{share}: what somebody had is not shown again"))
    return [facts.type]


def train_window(facts: Facts, reasons: Reasons) -> str:
    """Return the training window: the shortest that holds enough visits."""
    visits = facts.log.visits_a_day
    if not visits or facts.log.span_days <= _TRAIN_WINDOWS[0]:
        return f"{_TRAIN_WINDOWS[0]}d"
    days = next(
        (
            days
            for days in _TRAIN_WINDOWS
            if days * visits >= _VISITS_ENOUGH or days >= facts.log.span_days
        ),
        _TRAIN_WINDOWS[-1],
    )
    if days == _TRAIN_WINDOWS[-1] and days * visits < _FEW_VISITS:
        sufficient_days = (
            days
            for days in _LONG_WINDOWS
            if days * visits >= _FEW_VISITS or days >= facts.log.span_days
        )
        days = next(sufficient_days, _LONG_WINDOWS[-1])
    if days > _TRAIN_WINDOWS[0]:
        reasons.append(
            (
                "train.window",
                f"{days}d",
                f"{visits:,.0f} visits a day: fewer days would hold too few to learn from",
            )
        )
    return f"{days}d"
