"""Pictures of the simulated shop: a small SVG per item, from its category and colour.

Nothing is downloaded. The same attributes give the same bytes.
"""

from collections.abc import Mapping
from html import escape

from tailorbird.events import hash64
from tailorbird.simulator.words import COLOURS

# One drawing per category on a field of 100 × 100, centred in a picture of 166 × 100.
# `class="a"` is filled with the item's colour, `class="b"` with dark ink.
_DRAWINGS = {
    "coats": '<path class="a" d="M38 22l12 8 12-8 22 14-8 20-8-4v32H32V52l-8 4-8-20z"/><path '
    'class="b" d="M49 34h2v50h-2z"/>',
    "shoes": '<path class="a" d="M18 40h22c4 12 16 16 34 18 8 1 10 6 10 12H18z"/><path class="b" '
    'd="M18 70h66v6H18z"/>',
    "knitwear": '<path class="a" d="M36 24h28l20 16-8 14-8-6v32H32V48l-8 6-8-14z"/><path '
    'class="b" d="M32 74h36v6H32zM42 24h16l-8 8z"/>',
    "bags": '<path class="a" d="M24 40h52l4 42H20z"/><path class="b" d="M36 40c0-24 28-24 28 '
    '0h-5c0-16-18-16-18 0z"/>',
    "hats": '<path class="a" d="M26 62c0-44 48-44 48 0z"/><path class="b" d="M14 62h72v8H14z"/>',
    "lamps": '<path class="a" d="M36 20h28l14 32H22z"/><path class="b" d="M48 '
    '52h4v26h14v6H34v-6h14z"/>',
    "chairs": '<path class="a" d="M32 18h6v34h34v10H32z"/><path class="b" d="M32 62h6v22h-6zM66 '
    '62h6v22h-6z"/>',
    "kitchen": '<path class="a" d="M22 38h46v30c0 10-46 10-46 0z"/>'
    '<path class="b" d="M68 44h10c10 0 10 18 0 18H68v-6h8v-6h-8zM30 28h30v5H30z"/>',
    "bedding": '<path class="a" d="M16 48h68v26H16z"/><path class="b" d="M20 34h26v14H20zM54 '
    '34h26v14H54zM16 74h6v8h-6zM78 74h6v8h-6z"/>',
    "garden": '<path class="a" d="M30 54h40l-6 28H36z"/>'
    '<path class="b" d="M48 54c0-20-14-22-18-30 16 0 20 12 20 20 0-10 8-20 20-20-2 14-18 '
    '14-18 30z"/>',
    "toys": '<path class="a" d="M20 52h28v28H20zM52 52h28v28H52z"/><path class="b" d="M36 '
    '20h28v28H36z"/>',
    "stationery": '<path class="a" d="M28 18h42v64H28z"/><path class="b" d="M34 18h4v64h-4zM46 '
    '32h18v3H46zM46 42h18v3H46z"/>',
}
_DEFAULT_DRAWING = '<rect class="a" x="24" y="24" width="52" height="52" rx="8"/>'


def item_picture(item: Mapping[str, object]) -> str:
    """Return the SVG of an item, from its `category`, `colour` and `title` (all optional).

    About 600 bytes.

    >>> item_picture({"category": "hats", "colour": "plum", "title": "Snug wool cap"})[:4]
    '<svg'
    """
    title = str(item.get("title", ""))
    colour = COLOURS.get(str(item.get("colour", "")), "#8a8f98")
    drawing = _DRAWINGS.get(str(item.get("category", "")), _DEFAULT_DRAWING)
    drawing = drawing.replace('class="a"', f'fill="{colour}"').replace(
        'class="b"', 'fill="#33373d"'
    )
    hue = hash64(title) % 360
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-33 0 166 100" role="img" '
        f'aria-label="{escape(title, quote=True)}">'
        f'<rect x="-33" width="166" height="100" fill="hsl({hue} 30% 93%)"/>'
        f"{drawing}</svg>"
    )
