"""Search by words and meaning: what shares no word with a query is found, and part numbers
still.
"""

from pathlib import Path

import numpy as np
import pytest
from tests.support.encoder import write_encoder
from tests.support.shops import retrieval_shop

from tailorbird.errors import BundleError, UsageError
from tailorbird.retrieval import Index, NewItem, TextVectorSettings, build_index, with_items
from tailorbird.retrieval.encoder import TextEncoder


def open_index(folder: Path, settings: TextVectorSettings | None) -> Index:
    build_index(
        folder,
        retrieval_shop.make_events_table(),
        retrieval_shop.make_items_table(),
        as_of=retrieval_shop.AS_OF,
        text_vector_settings=settings,
    )
    return Index.open(folder)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> TextVectorSettings:
    folder = tmp_path_factory.mktemp("encoder")
    return TextVectorSettings(write_encoder(folder), 0.5, folder / "cache" / "vectors.arrow")


@pytest.fixture(scope="module")
def index(settings, tmp_path_factory) -> Index:
    return open_index(tmp_path_factory.mktemp("meaning") / "index", settings)


def hits(index: Index, query: str, n: int = 10) -> list[str]:
    return [index.ids[row] for row in index.search(query, n).rows.tolist()]


def test_an_item_that_shares_no_word_matches_by_meaning(index, tmp_path):
    by_words = open_index(tmp_path / "index", None)
    assert hits(by_words, "anorak") == []
    assert set(hits(index, "anorak")) == {"coat", "parka"}
    assert set(hits(index, "headgear")) == {"hat", "cap"}


def test_words_come_first_and_nothing_is_added_without_a_meaning(index):
    assert hits(index, "felt hat")[0] == "hat"
    assert hits(index, "rain")[0] == "coat"
    assert hits(index, "zzzz") == []
    assert hits(index, "") == []


def test_hidden_items_are_not_added(index):
    shown = np.array([name != "parka" for name in index.ids])
    assert hits(index.restrict(shown), "anorak") == ["coat"]


def test_a_new_or_changed_item_matches_by_its_new_text(index):
    later = with_items(
        index,
        [
            NewItem("blouson", {"title": "Anorak"}, retrieval_shop.AS_OF),
            NewItem("gift", {"title": "Parka voucher"}, retrieval_shop.AS_OF),
        ],
    )
    assert {"blouson", "gift", "coat", "parka"} == set(hits(later, "jacket"))
    assert "gift" not in hits(later, "present")
    assert hits(index, "present") == ["gift"]


def test_vectors_are_cached_by_text(settings, index, tmp_path, monkeypatch):
    encoded: list[str] = []
    encode = TextEncoder.encode
    monkeypatch.setattr(
        TextEncoder, "encode", lambda self, texts: encoded.extend(texts) or encode(self, texts)
    )
    again = open_index(tmp_path / "again", settings)
    assert encoded == []
    assert set(hits(again, "anorak")) == {"coat", "parka"}
    assert settings.cache is not None
    settings.cache.write_bytes(b"damaged")
    assert set(hits(open_index(tmp_path / "anew", settings), "anorak")) == {"coat", "parka"}
    assert len(encoded) > 1


def test_a_folder_without_an_encoder_names_the_missing_file(tmp_path):
    with pytest.raises(UsageError, match=r"has no model\.onnx"):
        TextEncoder.from_folder(tmp_path)
    write_encoder(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"none")
    with pytest.raises(BundleError, match="cannot be loaded"):
        TextEncoder.from_folder(tmp_path)


def test_a_new_text_is_encoded_once_however_often_the_catalogue_changes(index, monkeypatch):
    encoded: list[str] = []
    encode = TextEncoder.encode
    monkeypatch.setattr(
        TextEncoder, "encode", lambda self, texts: encoded.extend(texts) or encode(self, texts)
    )
    cape = NewItem("cape", {"title": "Anorak cape"}, retrieval_shop.AS_OF)
    beanie = NewItem("beanie", {"title": "Headgear beanie"}, retrieval_shop.AS_OF)
    for items in ([cape], [cape, beanie], [cape, beanie]):
        later = with_items(index, items)
        assert "cape" in hits(later, "jacket for rainy days")
    assert encoded == ["Anorak cape", "jacket for rainy days", "Headgear beanie"]
