"""Features proposed for a site: habits, profiles and the request.

Popularity is read live from candidate sources.
"""

import json
from collections.abc import Iterator

from tailorbird.proposal.facts import Facts, Reasons

# events of a person that the sequence `recent` keeps
_LENGTH_MIN = 64
_LENGTH_MAX = 1_024
_PURCHASES_LENGTH = 256  # remembered purchases per user, which are not shown again


def render_features(facts: Facts, reasons: Reasons) -> str:
    """Return features.py."""
    lines = list(_propose_declarations(facts, reasons))
    reason_by_feature = {
        name: reason for name, decision, reason in reasons if decision == "feature"
    }
    used_functions = sorted(
        {
            line.split(" = ")[1].split("(")[0]
            for line in lines
            if " = " in line and "(" in line and not line.lstrip().startswith("#")
        }
    )
    module_docstring = (
        '"""What is known about people and items, proposed from the data. Edit freely; '
        '`tailorbird check` says whether it loads."""\n\n'
    )
    return (
        module_docstring
        + f"from tailorbird.features import {', '.join(used_functions)}\n\n"
        + "\n".join(_with_reason(line, reason_by_feature) for line in lines)
        + "\n"
    )


def _with_reason(line: str, reason_by_feature: dict[str, str]) -> str:
    """Append the reason to a declaration as a comment."""
    reason = reason_by_feature.get(line.partition(" = ")[0].strip())
    return f"{line}  # {reason}" if reason else line


def _propose_declarations(facts: Facts, reasons: Reasons) -> Iterator[str]:
    event_type, short_window, long_window = facts.target_type, *_choose_windows(facts)
    yield 'user = entity("user")'
    yield 'item = entity("item")'
    if facts.has_repeats:
        yield 'user_item = entity("user", "item")'
    if facts.category_attribute:
        yield f'category = entity("item.{facts.category_attribute}")'
        yield f'user_category = entity("user", "item.{facts.category_attribute}")'
    yield f"\n# items; windows chosen for {facts.log_statistics.span_days:.0f} days of data"
    for window in (short_window, long_window):
        yield f'item_{window} = count("item_{window}", item, "{event_type}", window="{window}")'
        reasons.append(
            (
                f"item_{window}",
                "feature",
                f"popularity over {window}: the data covers {facts.log_statistics.span_days:.0f} days",
            )
        )
    yield from _user_declarations(facts, reasons, long_window)
    if facts.has_price:
        paid_type = "purchase" if "purchase" in facts.action_types else event_type
        spend_expression = "price * quantity" if facts.has_quantity else "price"
        yield (
            f'user_spend_{long_window} = total("user_spend_{long_window}", user, "{paid_type}", of="{spend_expression}", '
            f'unit=0.01, max=100_000, window="{long_window}")'
        )
        yield (
            f'item_price_{long_window} = mean("item_price_{long_window}", item, "{paid_type}", of="price", '
            f'unit=0.01, max=100_000, window="{long_window}")'
        )
        reasons.append(
            (
                spend_expression,
                "features",
                "a number on each event: what people spend, what items cost",
            )
        )
    if facts.category_attribute:
        yield (
            f'user_category_{long_window} = count("user_category_{long_window}", user_category, "{event_type}", '
            f'window="{long_window}")'
        )
        yield f'category_{long_window} = count("category_{long_window}", category, "{event_type}", window="{long_window}")'
        yield (
            f'user_category_favourite = favourite("user_category_favourite", user, "{event_type}", '
            f'of="item.{facts.category_attribute}")'
        )
        reasons.append(
            (
                facts.category_attribute,
                "entity",
                "few values on many items: a category, counted for each person",
            )
        )
    yield from _profile_declarations(facts)
    if "price" in facts.item_numeric and facts.has_price:
        yield "\n# from the others"
        yield (
            f'user_price_{long_window} = mean("user_price_{long_window}", user, "{event_type}", of="price", '
            f'unit=0.01, max=100_000, window="{long_window}")'
        )
        yield f'price_to_habit = derived("price_to_habit", "price / user_price_{long_window}")'
        reasons.append(
            (
                "price_to_habit",
                "feature",
                "items have a price and so have events: is it dear for this person?",
            )
        )


def _choose_windows(facts: Facts) -> tuple[str, str]:
    """Return a short and a long window, by the pace of the site and the span of the data."""
    days = facts.log_statistics.span_days
    if days <= 21:
        return ("6h", "7d") if facts.is_fast_moving else ("7d", "14d")
    return (
        "6h" if facts.is_fast_moving else "7d",
        "365d" if days > 1_000 else "84d" if days > 120 else "28d",
    )


def _user_declarations(facts: Facts, reasons: Reasons, long_window: str) -> Iterator[str]:
    event_type = facts.target_type
    yield "\n# people: habits and the last things they did"
    yield f'user_{long_window} = count("user_{long_window}", user, "{event_type}", window="{long_window}")'
    repeat_text = (
        f"{facts.log_statistics.repeat_share:.1%} of the events are about an item that the person "
        "had before"
    )
    if facts.has_repeats:
        yield f'user_item_ever = count("user_item_ever", user_item, "{event_type}")'
        yield f'user_item_{long_window} = count("user_item_{long_window}", user_item, "{event_type}", window="{long_window}")'
        yield f'user_item_since = time_since("user_item_since", user_item, "{event_type}")'
        reasons.append(("user_item_ever", "feature", repeat_text))
    yield f'user_since = time_since("user_since", user, "{event_type}")'
    followed_types = [
        event_type,
        *(
            name
            for name in ("cart", "purchase")
            if name in facts.action_types and name != event_type
        ),
    ]
    length = _choose_length(facts)
    yield f'recent = sequence("recent", user, {json.dumps(followed_types)}, length={length})'
    reasons.append(
        (
            "recent",
            "feature",
            f"one person of ten has {facts.log_statistics.person_events_p90:,} events or more: the last "
            f"{length} are kept",
        )
    )
    if event_type != "purchase" and "purchase" in facts.action_types:
        yield f'bought = sequence("bought", user, ["purchase"], length={_PURCHASES_LENGTH})'
        reasons.append(
            (
                "bought",
                "feature",
                "hide_seen hides what was bought, as far as a sequence reaches: the last "
                f"{_PURCHASES_LENGTH}",
            )
        )
    if not facts.has_repeats:
        yield f'user_seen = seen("user_seen", user, {json.dumps(followed_types)})'
        reasons.append(
            (
                "user_seen",
                "feature",
                f"{repeat_text}: whether it is among the last events says enough",
            )
        )
    yield (
        f'user_hour_share = share("user_hour_share", entity("user", "local_hour"), "{event_type}", '
        f'within=user, window="{long_window}")'
    )
    if facts.has_session:
        yield f'session_events = session("session_events", "{event_type}")'
        yield 'session_seconds = session_duration("session_seconds")'
    if facts.has_search:
        yield 'still_looking = refinements("still_looking")'


def _choose_length(facts: Facts) -> int:
    """Return the sequence length that holds all events of nine users in ten."""
    length = _LENGTH_MIN
    while length < min(facts.log_statistics.person_events_p90, _LENGTH_MAX):
        length *= 2
    return length


def _profile_declarations(facts: Facts) -> Iterator[str]:
    yield "\n# profiles and the request"
    for name in facts.item_categorical:
        yield f'item_{name} = attribute("{name}", item, "{name}", kind="categorical")'
    for name in facts.item_numeric:
        yield f'item_{name} = attribute("{name}", item, "{name}", kind="numeric")'
    for name in facts.user_categorical:
        yield f'user_{name} = attribute("user_{name}", user, "{name}", kind="categorical")'
    for name in facts.user_numeric:
        yield f'user_{name} = attribute("user_{name}", user, "{name}", kind="numeric")'
    for name in (
        *(name for name in facts.context_fields if name != "referrer"),
        "local_hour",
        "weekday",
    ):
        yield f'{name} = context("{name}")'
