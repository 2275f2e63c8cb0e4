"""Pictures: well formed, deterministic, of the item's colour, and safe with any title."""

import xml.etree.ElementTree as ElementTree

import pytest

from tailorbird.simulator import item_picture
from tailorbird.simulator.words import CATEGORIES, COLOURS


@pytest.mark.parametrize("category", [*CATEGORIES, "unheard of"])
def test_each_category_has_its_drawing(category):
    picture = item_picture({"category": category, "colour": "plum", "title": "A thing"})
    ElementTree.fromstring(picture)
    assert COLOURS["plum"] in picture
    assert picture == item_picture({"category": category, "colour": "plum", "title": "A thing"})


def test_titles_are_escaped():
    picture = item_picture({"title": '"><script>alert(1)</script>'})
    ElementTree.fromstring(picture)
    assert "<script" not in picture


def test_attributes_may_be_missing():
    ElementTree.fromstring(item_picture({}))
