"""Events about products, as shops report them: one foreign event names a list of products, ours
name one each.

    clicks, views, carts, purchases   one event per product; the first keeps the event's id, the
                                      others get `id#1`, `id#2`, …
    lists shown                       one impression with all of them, each once
    custom types                      one event, with `item_id` for a single product, else `items`
"""

from typing import Any

import msgspec

from tailorbird.events.adapters.fields import nonempty_fields, parse_number, require_text
from tailorbird.events.adapters.record import Record, UnreadableError
from tailorbird.events.contract.envelope import ITEMS_BOUNDS, NUMBER_BOUNDS, Event

ONE_EVENT_PER_PRODUCT = frozenset(
    ("click", "view", "cart", "purchase", "like", "dislike", "hide", "share", "rating")
)
_ITEM_REQUIRED_TYPES = ONE_EVENT_PER_PRODUCT - {"view", "purchase"}
_COPIES_BYTES_MAX = (
    1 << 19
    # bytes of ids and context copied per product, which the contract bounds only later
)


def build_product_events(
    base_event: Event, products: list[Record], id_fields: tuple[str, ...], path: str
) -> list[Event]:
    """Return the events of a list of products.

    Args:
        base_event: everything but the product; its properties are shared by all.
        id_fields: names of the field with the product's id, the best first.
        path: of the list, for messages.

    Products without an id are left out where another has one, and counted in the property
    `products_without_id`.
    """
    identified_products = [
        (index, product)
        for index, product in enumerate(products)
        if any(product.get(name) not in (None, "") for name in id_fields)
    ]
    if identified_products and len(identified_products) < len(products):
        base_event = msgspec.structs.replace(
            base_event,
            properties={
                **(base_event.properties or {}),
                "products_without_id": len(products) - len(identified_products),
            },
        )
    identified_products = identified_products or list(enumerate(products))
    item_ids = [
        require_text(product, *id_fields, path=f"{path}[{index}]")
        for index, product in identified_products
    ]
    if not item_ids:
        if base_event.type in _ITEM_REQUIRED_TYPES or base_event.type == "impression":
            raise UnreadableError("missing", path, f"a {base_event.type} needs a product")
        return [base_event]
    if len(item_ids) > ITEMS_BOUNDS.high:
        raise UnreadableError(
            "too_large", path, f"expected at most {ITEMS_BOUNDS.high} products, got {len(item_ids)}"
        )
    if base_event.type in ONE_EVENT_PER_PRODUCT or (
        base_event.type != "impression" and len(item_ids) == 1
    ):
        shared_bytes = len(msgspec.json.encode(base_event))
        if (
            len(item_ids) - 1
        ) * shared_bytes > _COPIES_BYTES_MAX:  # Limits the expansion of a small body.
            raise UnreadableError(
                "too_large",
                path,
                f"so many products with {shared_bytes} bytes each of ids, context and properties",
            )
        return [
            _build_product_event(base_event, item_id, product, id_fields, index)
            for item_id, (index, product) in zip(item_ids, identified_products, strict=True)
        ]
    return [msgspec.structs.replace(base_event, items=list(dict.fromkeys(item_ids)))]


def _build_product_event(
    base_event: Event, item_id: str, product: Record, id_fields: tuple[str, ...], index: int
) -> Event:
    id_field = next(name for name in id_fields if product.get(name) not in (None, ""))
    properties = {
        **(base_event.properties or {}),
        **parse_numeric_properties(nonempty_fields(product, excluded=(id_field,))),
    }
    event_id = base_event.event_id if index == 0 else f"{base_event.event_id}#{index}"
    return msgspec.structs.replace(
        base_event, event_id=event_id, item_id=item_id, properties=properties or None
    )


def parse_numeric_properties(properties: dict[str, Any]) -> dict[str, Any]:
    """Convert price, quantity and similar properties to numbers where they were sent as text."""
    return {
        name: parse_number(value) if name in NUMBER_BOUNDS else value
        for name, value in properties.items()
    }
