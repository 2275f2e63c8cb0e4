"""The slot proposed for a site: candidate sources and training window, with reasons."""

from collections.abc import Iterator
from dataclasses import dataclass

from tailorbird.candidates.contract import CATEGORY_ATTRIBUTE, format_window
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
class _ChosenSources:
    sources: dict[str, int]  # Source → how many candidates it adds.
    columns: list[str]  # Sources that add none; the ranker reads their rank and score.


def render_slots(facts: Facts, reasons: Reasons) -> str:
    """Return slots.py."""
    chosen_sources = _choose_sources(facts, reasons)
    hidden_types = _choose_hidden_types(facts, reasons)
    objective = {facts.target_type: 1.0} | (
        {"purchase": 5.0}
        if "purchase" in facts.action_types and facts.target_type != "purchase"
        else {}
    )
    comment_by_source = {
        name: f"  # {reason}" for name, kind, reason in reasons if kind == "source" and reason
    }
    sources = "".join(
        f'        "{name}": {limit},{comment_by_source.get(name, "")}\n'
        for name, limit in chosen_sources.sources.items()
    )
    columns = (
        f"    columns=[{', '.join(f'{chr(34)}{name}{chr(34)}' for name in chosen_sources.columns)}],\n"
        if chosen_sources.columns
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


def _choose_sources(facts: Facts, reasons: Reasons) -> _ChosenSources:
    leaderboard_windows = _leaderboard_windows(facts)
    window_shares = facts.log_statistics.share_by_window or {}
    for window in leaderboard_windows[:2]:
        reason = (
            f"the 20 most popular items of {format_window(window)} have "
            f"{window_shares[window]:.0%} of the next events"
            if window in window_shares
            else ""
        )
        reasons.append(
            (
                f"popular:{format_window(window)}",
                "source",
                reason or f"{facts.log_statistics.span_days:.0f} days of events",
            )
        )
    short_source = f"popular:{format_window(leaderboard_windows[0])}"
    long_source = f"popular:{format_window(leaderboard_windows[1])}"
    limit_by_source: dict[str, int] = {}
    if facts.has_repeats:
        limit_by_source["repeat"] = (
            200 if facts.log_statistics.repeat_share >= _REPEAT_SHARE_HIGH else 60
        )
        reasons.append(
            (
                "repeat",
                "source",
                f"{facts.log_statistics.repeat_share:.0%} of the events are about an item that the person "
                "had before",
            )
        )
    knn_source = "item_knn:2" if facts.target_type in ("click", "view") else "item_knn:10"
    limit_by_source |= {short_source: 160, knn_source: 100}
    reason = (
        "of the last two items: a click follows the one before"
        if knn_source == "item_knn:2"
        else "of the last ten items of a person"
    )
    reasons.append((knn_source, "source", f"what goes with each {reason}"))
    if facts.log_statistics.mean_session_events >= _SESSION_EVENTS_MIN:
        limit_by_source["session_knn"] = 60
        reasons.append(
            (
                "session_knn",
                "source",
                f"a session has {facts.log_statistics.mean_session_events:.1f} events, as a mean",
            )
        )
    limit_by_source[long_source] = 100
    if facts.log_statistics.new_item_share >= _NEW_ITEMS_SHARE_MIN:
        limit_by_source["new_items"] = 40
        reason = f"{facts.log_statistics.new_item_share:.0%} of the last fifth's events are about items that came in it"
        reasons.append(("new_items", "source", reason))
    if facts.category_attribute == CATEGORY_ATTRIBUTE:
        limit_by_source[f"{long_source}:category"] = 60
    return _ChosenSources(
        limit_by_source,
        list(dict.fromkeys(_propose_columns(facts, leaderboard_windows, limit_by_source, reasons))),
    )


def _leaderboard_windows(facts: Facts) -> list[int]:
    """Return the windows of lists of popular items.

    They are the best one, one about ten times as long, and close runners-up.
    """
    window_shares = facts.log_statistics.share_by_window or {}
    best_window = facts.log_statistics.best_window
    longer_windows = [
        window
        for window in WINDOWS
        if 10 * best_window < window <= max(facts.log_statistics.span_days * DAY, 365 * DAY)
    ]
    long_window = (
        longer_windows[0]
        if longer_windows
        else max(window for window in WINDOWS if 10 * window < best_window)
    )
    close_windows = [
        window
        for window, share in window_shares.items()
        if share >= _WINDOW_SHARE_MIN * window_shares[best_window]
    ]
    return list(dict.fromkeys([best_window, long_window, *close_windows]))


def _propose_columns(
    facts: Facts, leaderboard_windows: list[int], sources: dict[str, int], reasons: Reasons
) -> Iterator[str]:
    """Yield the sources whose rank and score the ranker reads, though they add no candidates."""
    other_sources = [f"popular:{format_window(window)}" for window in leaderboard_windows[2:]]
    if other_sources:
        reasons.append(
            (
                ", ".join(other_sources),
                "column",
                "these windows tell nearly as much: the ranker sees the share of the traffic "
                "in each",
            )
        )
    yield from (name for name in other_sources if name not in sources)
    yield from (name for name in ("item_knn:2", "item_knn:10") if name not in sources)
    if "session_knn" in sources:
        yield "stan"  # sequence- and time-aware neighbourhood of sessions (STAN)
    for segment in facts.context_fields:
        best_window = leaderboard_windows[0]
        yield f"popular:{format_window(best_window)}:{segment}"
        if facts.is_fast_moving:
            longer_window = next(window for window in WINDOWS if window > best_window)
            yield f"popular:{format_window(longer_window)}:{segment}"
        reasons.append(
            (
                f"popular:{format_window(best_window)}:{segment}",
                "column",
                f"events say the {segment}: what is popular there",
            )
        )


def _choose_hidden_types(facts: Facts, reasons: Reasons) -> list[str]:
    """Return the event types whose items are not shown again."""
    if facts.target_type != "purchase" and "purchase" in facts.action_types:
        return ["purchase"]
    if facts.has_repeats:
        return []
    repeat_text = (
        f"{facts.log_statistics.repeat_share:.1%} of the events are about an item that the person "
        "had before"
    )
    reasons.append(
        ("hide_seen", facts.target_type, f"{repeat_text}: what somebody had is not shown again")
    )
    return [facts.target_type]


def choose_train_window(facts: Facts, reasons: Reasons) -> str:
    """Return the training window: the shortest that holds enough visits."""
    visits_a_day = facts.log_statistics.visits_a_day
    if not visits_a_day or facts.log_statistics.span_days <= _TRAIN_WINDOWS[0]:
        return f"{_TRAIN_WINDOWS[0]}d"
    days = next(
        (
            days
            for days in _TRAIN_WINDOWS
            if days * visits_a_day >= _VISITS_ENOUGH or days >= facts.log_statistics.span_days
        ),
        _TRAIN_WINDOWS[-1],
    )
    if days == _TRAIN_WINDOWS[-1] and days * visits_a_day < _FEW_VISITS:
        sufficient_days = (
            days
            for days in _LONG_WINDOWS
            if days * visits_a_day >= _FEW_VISITS or days >= facts.log_statistics.span_days
        )
        days = next(sufficient_days, _LONG_WINDOWS[-1])
    if days > _TRAIN_WINDOWS[0]:
        reasons.append(
            (
                "train.window",
                f"{days}d",
                f"{visits_a_day:,.0f} visits a day: fewer days would hold too few to learn from",
            )
        )
    return f"{days}d"
