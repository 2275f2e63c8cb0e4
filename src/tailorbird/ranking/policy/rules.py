"""Rules: expressions over items, user and context that an item must satisfy to be shown.

    item.price < 50 and item.stock > 0          item.category in ('coats', 'hats')
    context.country == 'NO'                     item.price < 2 * user.avg_price and not seen(30d)

The grammar is that of `features.expr.parse`, and rules are evaluated over whole columns. A rule has
`and or not`, comparisons (chained too), `in` a list of constants, `'x' in item.tags` for texts with
`|` between their parts, `+ - * /`, `missing(x)`, and `seen` or `seen(30d)`: whether the person's
recent sequence has the item. Besides its attributes an item has `id`, `age_days` and `popularity`.

A missing value equals nothing and compares as false, so that `!=` and `not in` hold for it;
`missing(x)` and `x is None` test for it. The kind (number or text) is known of context, user fields
and constants, and of items where an index is given. Comparing a number with a text is refused when
the rule is compiled.

Rules that read nothing but attributes of items are the same for all users. They are computed once
per index, and sources then return only items that satisfy them. All others are computed for the
candidates of a request.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tailorbird.errors import DeclarationError, suggest_name
from tailorbird.ranking.policy.rule_columns import Mask, RuleRequest
from tailorbird.ranking.policy.rule_language import Rule, compile_rule
from tailorbird.ranking.slot import Slot


@dataclass(frozen=True)
class Rules:
    """Compiled rules, in the order declared."""

    rules: tuple[Rule, ...]

    @property
    def item_fields(self) -> frozenset[str]:
        """The item fields that the rules read."""
        return frozenset().union(*(rule.item_fields for rule in self.rules))

    @property
    def item_only(self) -> "Rules":
        """The rules that read nothing but attributes of items."""
        return Rules(tuple(rule for rule in self.rules if rule.is_item_only))

    def without(self, index: int) -> "Rules":
        """Return the rules without the one at a position."""
        return Rules((*self.rules[:index], *self.rules[index + 1 :]))

    def mask(self, request: RuleRequest) -> Mask:
        """Return a mask of the items that satisfy all rules, (n,)."""
        satisfied = np.ones(request.rows.size, bool)
        for rule in self.rules:
            satisfied &= rule.mask(request)
        return satisfied


def compile_rules(
    rules: Sequence[str],
    *,
    item_fields: Collection[str] | None = None,
    user_fields: Collection[str] | None = None,
    where: str = "",
) -> Rules:
    """Compile rules.

    Args:
        rules: their texts.
        item_fields: the attributes that items have, such as `index.attributes`; an unknown one is
            then an error.
        user_fields: the columns about the person; likewise.
        where: stands before each message, such as `slot home`.
    Raises:
        DeclarationError: a rule is not of the language, or compares a number with a text; names
            rule and column.
    """
    return Rules(
        tuple(
            compile_rule(text, item_fields=item_fields, user_fields=user_fields, where=where)
            for text in rules
        )
    )


def check_slot(slot: Slot, *, user_fields: Collection[str], sequences: Collection[str]) -> None:
    """Compile all rules of a slot and check it against the declarations.

    Args:
        user_fields: the columns about the person, see `features.FeatureSet.columns`.
        sequences: names of the declared sequences.
    Raises:
        DeclarationError: names slot, rule and column.
    """
    where = f"slot {slot.name}"
    texts = [
        *slot.rules,
        *(entry.when for entry in (*slot.boosts, *slot.promotions, *slot.pins) if entry.when),
    ]
    compile_rules(texts, user_fields=user_fields, where=where)
    for cap in slot.caps:
        if cap.sequence not in sequences:
            declaration_hint = (
                f'sequence("{cap.sequence}", user, ["impression"], length=200) in '
                "features.py declares it"
            )
            message = f"a cap looks at a sequence {cap.sequence!r}, which is not declared"
            raise DeclarationError(
                message, where=where, fix=suggest_name(cap.sequence, sequences, declaration_hint)
            )
