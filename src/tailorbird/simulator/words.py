"""Vocabulary of the simulated shop, so that titles read well and searches match.

A title is `adjective material noun`, such as "Packable waxed rain coat". Each category has its own
words; a colour appears in the description and the picture.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class CategoryWords:
    """A category: its words, typical price, and the closing sentence of its descriptions."""

    category: str
    price: float
    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    materials: tuple[str, ...]
    sentence: str


def _category_words(
    category: str, price: float, nouns: str, adjectives: str, materials: str, sentence: str
) -> CategoryWords:
    return CategoryWords(
        category,
        price,
        tuple(nouns.split(", ")),
        tuple(adjectives.split(", ")),
        tuple(materials.split(", ")),
        sentence,
    )


CATEGORY_WORDS = (
    _category_words(
        "coats",
        120,
        "rain coat, parka, trench coat, windbreaker, down jacket, field jacket, cape, overcoat",
        "packable, warm, light, hooded, long, windproof, city, weekend",
        "waxed, wool, cotton, recycled, quilted, softshell",
        "Keeps wind and rain where they belong: outside.",
    ),
    _category_words(
        "shoes",
        90,
        "boot, sneaker, loafer, sandal, running shoe, hiking boot, slipper, clog",
        "sturdy, light, everyday, waterproof, cushioned, classic, low, grippy",
        "leather, suede, canvas, knit, rubber, felt",
        "Made for long days on foot.",
    ),
    _category_words(
        "knitwear",
        70,
        "cardigan, jumper, turtleneck, vest, hoodie, pullover, poncho, sweater",
        "chunky, fine, striped, soft, relaxed, cropped, heavy, fisherman",
        "merino, alpaca, lambswool, mohair, cashmere, cotton",
        "Soft to the skin and made to be mended.",
    ),
    _category_words(
        "bags",
        80,
        "backpack, tote, satchel, messenger bag, duffel, rucksack, pouch, weekender",
        "roomy, slim, foldable, padded, rolltop, small, travel, office",
        "canvas, leather, nylon, waxed, linen, recycled",
        "Holds a day, or a weekend if you pack well.",
    ),
    _category_words(
        "hats",
        30,
        "beanie, sun hat, cap, beret, bucket hat, headband, scarf, mittens",
        "ribbed, wide, snug, reversible, summer, winter, woven, lined",
        "wool, straw, cotton, fleece, linen, corduroy",
        "The small thing that makes the weather kind.",
    ),
    _category_words(
        "lamps",
        75,
        "desk lamp, floor lamp, pendant, lantern, bedside lamp, wall light, reading lamp, "
        "string lights",
        "dimmable, adjustable, round, tall, slender, vintage, modern, tiny",
        "brass, paper, glass, steel, ceramic, rattan",
        "A warm light that is easy on the eyes.",
    ),
    _category_words(
        "chairs",
        160,
        "armchair, stool, rocking chair, bench, dining chair, deck chair, office chair, footstool",
        "stackable, deep, folding, slim, high, curved, plain, swivel",
        "oak, beech, birch, velvet, wicker, walnut",
        "Sits well for an hour and looks well for years.",
    ),
    _category_words(
        "kitchen",
        40,
        "kettle, teapot, frying pan, saucepan, chopping board, mug, pepper mill, mixing bowl",
        "heavy, small, family, insulated, pouring, nesting, deep, slow",
        "cast iron, enamel, stoneware, copper, bamboo, steel",
        "For cooks who use a thing every day.",
    ),
    _category_words(
        "bedding",
        95,
        "duvet cover, pillow, blanket, quilt, fitted sheet, bedspread, mattress topper, throw",
        "washed, crisp, cosy, breathable, weighted, striped, double, cool",
        "linen, percale, flannel, down, jersey, bamboo",
        "Sleep comes sooner in it.",
    ),
    _category_words(
        "garden",
        45,
        "watering can, trowel, planter, bird feeder, pruning shears, rake, hose, raised bed",
        "long, hand, compact, rustic, hanging, sturdy, frostproof, self-watering",
        "zinc, terracotta, cedar, steel, copper, willow",
        "Outlives most of what it plants.",
    ),
    _category_words(
        "toys",
        35,
        "puzzle, building blocks, teddy bear, kite, train set, board game, spinning top, doll",
        "first, rainbow, giant, musical, classic, travel, magnetic, little",
        "wooden, cardboard, plush, tin, cotton, bamboo",
        "Needs no batteries, only a child.",
    ),
    _category_words(
        "stationery",
        20,
        "notebook, fountain pen, planner, pencil case, sketchbook, calendar, letter set, desk tray",
        "dotted, ruled, pocket, lay-flat, refillable, large, weekly, blank",
        "recycled, leather, linen, cork, kraft, brass",
        "Paper and ink for thoughts that should stay.",
    ),
)

CATEGORIES = tuple(category_words.category for category_words in CATEGORY_WORDS)

COLOURS = {
    "moss green": "#6b7f4e",
    "sea blue": "#3f7ea6",
    "brick red": "#b3543f",
    "mustard": "#d3a13b",
    "charcoal": "#4a4e55",
    "sand": "#cdb892",
    "plum": "#7d4a6b",
    "sky blue": "#86b6d6",
    "rust": "#c0703a",
    "cream": "#e6dcc3",
}

BRANDS = (
    "Norvik",
    "Alder & Co",
    "Hinterland",
    "Plain Goods",
    "Birchwood",
    "Osterlund",
    "Mill Lane",
    "Fjordson",
    "Tern",
    "Kestrel",
    "Lark & Loom",
    "Oakhill",
    "Saltmarsh",
    "Pebble",
    "Harrow",
    "Juniper",
    "Bramble",
    "Northlight",
    "Cobbler Row",
    "Wren",
    "Old Quay",
    "Thistle",
    "Marlow",
    "Elmsted",
    "Sundholm",
    "Foxglove",
    "Quill",
    "Ashdown",
    "Tidewater",
    "Linden",
    "Rook & Daughters",
    "Holm",
    "Meadow",
    "Granite Works",
    "Clove",
    "Ferry Street",
)
