"""What a block of the routed log says of itself: which attributes of profiles its events carry.

One that was routed before an attribute was declared lacks it; the lake's versions of profiles have it, see `features.attached`.
"""

import msgspec

from tailorbird.features.featureset import FeatureSet


class Kept(msgspec.Struct, frozen=True):
    """Of a routed block's receipt, the attributes of users and items that its events carry; None where it does not say."""

    user_attributes: tuple[str, ...] | None = None
    item_attributes: tuple[str, ...] | None = None


_decode = msgspec.json.Decoder(Kept).decode


def lacks(receipt: bytes, features: FeatureSet) -> bool:
    """Whether events of a block lack an attribute that the features take from them; not where the receipt does not say."""
    if not receipt:
        return False
    kept, needed = _decode(receipt), features.event_attributes
    pairs = ((kept.user_attributes, needed["user"]), (kept.item_attributes, needed["item"]))
    return any(names is not None and not set(some) <= set(names) for names, some in pairs)
