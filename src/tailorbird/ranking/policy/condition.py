"""Conditions: rule expressions over the person and the context alone, such as who is eligible.

    context.device == 'phone' and user.user_clicks_7d >= 3        missing(user.user_since_click)

The language is that of `ranking.policy.rules`, without `item.*` and `seen`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from tailorbird.errors import DeclarationError
from tailorbird.ranking.policy.rule_columns import RuleRequest
from tailorbird.ranking.policy.rule_language import Rule, compile_rule, rule_location
from tailorbird.retrieval import Index

Fields = Mapping[str, str | float | bool | None]

_NO_ITEMS = Index(0, (), np.zeros(0, np.uint64), np.zeros(0, np.int64), {})
_ONE_ROW = np.zeros(1, np.intp)


@dataclass(frozen=True)
class Condition:
    """A compiled condition."""

    rule: Rule

    def holds(self, user: Fields, context: Fields, now: int = 0) -> bool:
        """Return whether it holds for a request; absent fields are missing values."""
        return bool(self.rule.mask(RuleRequest(_NO_ITEMS, _ONE_ROW, now, user, context))[0])


def compile_condition(
    text: str, *, user_fields: Collection[str] | None = None, where: str = ""
) -> Condition:
    """Compile a condition.

    Args:
        user_fields: the columns about the person; an unknown one is then an error.
        where: stands before each message.

    Raises:
        DeclarationError: it is not of the language, or reads items.
    """
    rule = compile_rule(text, user_fields=user_fields, where=where)
    if rule.item_fields or "seen" in rule.names:
        raise DeclarationError(
            "it reads items, and is decided before any item is looked up",
            where=rule_location(text, where),
            fix="use user.*, context.*, missing(…) and constants",
        )
    return Condition(rule)
