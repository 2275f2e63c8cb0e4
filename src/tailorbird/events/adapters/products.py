"""Events about products, as shops report them: one foreign event names a list of products, ours
name one each.

    clicks, views, carts, purchases   one event per product; the first keeps the event's id, the
                                      others get `id#1`, `id#2`, …
    lists shown                       one impression with all of them, each once
    custom types                      one event, with `item_id` for a single product, else `items`
"""

from typing import Any

import msgspec

from tailorbird.events.adapters.fields import nonempty_fields, parse_number, required_text
from tailorbird.events.adapters.record import Record, UnreadableError
from tailorbird.events.contract.envelope import ITEMS, NUMBERS, Event

ONE_EVENT_PER_PRODUCT = frozenset(
    ("click", "view", "cart", "purchase", "like", "dislike", "hide", "share", "rating")
)
_NEED_ITEM = ONE_EVENT_PER_PRODUCT - {"view", "purchase"}
_COPIES_BYTES_MAX = (
    1 << 19
    # bytes of ids and context copied per product, which the contract bounds only later
)


def product_events(
    base: Event, products: list[Record], ids: tuple[str, ...], path: str
) -> list[Event]:
    """Return the events of a list of products.

    Args:
        base: everything but the product; its properties are shared by all.
        ids: names of the field with the product's id, the best first.
        path: of the list, for messages.

    Products without an id are left out where another has one, and counted in the property
    `products_without_id`.
    """
    identified = [
        (index, product)
        for index, product in enumerate(products)
        if any(product.get(name) not in (None, "") for name in ids)
    ]
    if identified and len(identified) < len(products):
        base = msgspec.structs.replace(
            base,
            properties={
                **(base.properties or {}),
                "products_without_id": len(products) - len(identified),
            },
        )
    identified = identified or list(enumerate(products))
    item_ids = [
        required_text(product, *ids, path=f"{path}[{index}]") for index, product in identified
    ]
    if not item_ids:
        if base.type in _NEED_ITEM or base.type == "impression":
            raise UnreadableError("missing", path, f"a {base.type} needs a product")
        return [base]
    if len(item_ids) > ITEMS.high:
        raise UnreadableError(
            "too_large", path, f"expected at most {ITEMS.high} products, got {len(item_ids)}"
        )
    if base.type in ONE_EVENT_PER_PRODUCT or (base.type != "impression" and len(item_ids) == 1):
        shared_bytes = len(msgspec.json.encode(base))
        if (
            len(item_ids) - 1
        ) * shared_bytes > _COPIES_BYTES_MAX:  # Limits the expansion of a small body.
            raise UnreadableError(
                "too_large",
                path,
                f"so many products with {shared_bytes} bytes each of ids, context and properties",
            )
        return [
            _product_event(base, item, product, ids, index)
            for item, (index, product) in zip(item_ids, identified, strict=True)
        ]
    return [msgspec.structs.replace(base, items=list(dict.fromkeys(item_ids)))]


def _product_event(
    base: Event, item: str, product: Record, ids: tuple[str, ...], index: int
) -> Event:
    used = next(name for name in ids if product.get(name) not in (None, ""))
    properties = {
        **(base.properties or {}),
        **parse_numeric_properties(nonempty_fields(product, (used,))),
    }
    event_id = base.event_id if index == 0 else f"{base.event_id}#{index}"
    return msgspec.structs.replace(
        base, event_id=event_id, item_id=item, properties=properties or None
    )


def parse_numeric_properties(properties: dict[str, Any]) -> dict[str, Any]:
    """Convert price, quantity and similar properties to numbers where they were sent as text."""
    return {
        name: parse_number(value) if name in NUMBERS else value
        for name, value in properties.items()
    }
