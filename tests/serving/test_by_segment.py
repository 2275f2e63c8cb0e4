"""Popular by country in whole answers: other lists for other countries, under the slot's rules, told and logged, and the same again
after a restart."""

import numpy as np
import pytest
from tests.serving import shop
from tests.serving.test_pipeline import Kept

from tailorbird.errors import DeclarationError
from tailorbird.events import Context, SimulatedClock
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.retrieval import candidates
from tailorbird.serving.messages import RecommendQuery
from tailorbird.serving.parts import Fixed
from tailorbird.serving.pipeline import Pipeline
from tailorbird.serving.schemas import OneSchema

SLOT = Slot("home", size=8, sources={"popular_by:country": 5, "popular": 3}, rules=["item.stock > 0"], deny=["i1"], hide_seen=())


@pytest.fixture(scope="module")
def folder(tmp_path_factory, features):
    return shop.write(tmp_path_factory.mktemp("segments") / "bundle", features, countries=True)


@pytest.fixture
def ask(features, folder):
    def ask(country, *, slot=SLOT, answers=None, bundle=None, reader=None):
        pipeline = Pipeline(
            slots={"home": slot},
            bundles=Fixed(bundle or Bundle.load(folder, schema_hash=features.schema_hash)),
            readings=OneSchema(features, reader or shop.FakeReader(features)),
            answers=answers,
            clock=SimulatedClock(shop.NOW),
            rng=np.random.default_rng(0),
        )
        return pipeline.answer(RecommendQuery(slot="home", user_id="u1", context=Context(country=country)))

    return ask


class Listening(shop.FakeReader):
    """Notes the countries that features are read for."""

    def __init__(self, features):
        super().__init__(features)
        self.countries = set()

    def read(self, request, items, item_keys=None):
        self.countries.add(request.country)
        return super().read(request, items, item_keys)


def of(answer, source):
    return {item.item_id for item in answer.items if item.source == source}


def test_each_country_gets_what_is_popular_there_and_may_be_shown(ask):
    kept = Kept()
    answer = ask("ES", answers=kept)
    assert of(answer, "popular_by") == {"i5", "i7", "i9", "i11", "i15"}, "i1 is denied, i3 and i13 are out of stock"
    assert of(answer, "popular") == {"i0", "i2", "i4"}
    assert {item.reason_code for item in answer.items if item.source == "popular_by"} == {"popular_in_segment"}
    assert (kept.records[0].candidate_sources, kept.records[0].candidate_counts) == (["popular_by:country", "popular"], [5, 3])
    assert of(ask("NO"), "popular_by") == {"i0", "i2", "i4", "i6", "i8"}


def test_an_unknown_country_gets_what_everybody_gets_and_is_told_so(ask, bundle):
    for answer in (ask("IS"), ask(None), ask("ES", bundle=bundle)):  # the last is of a bundle that counted no countries
        assert of(answer, "popular") == {"i0", "i2", "i4", "i5", "i6", "i7", "i8", "i9"}
        assert {item.reason_code for item in answer.items} == {"popular"}
        assert not answer.degraded


def test_a_country_in_small_letters_is_read_as_events_keep_it(ask, features):
    reader, kept = Listening(features), Kept()
    answer = ask("es", slot=Slot("home", sources=SLOT.sources, rules=["context.country == 'ES'"]), answers=kept, reader=reader)
    assert len(of(answer, "popular_by")) == 5
    assert reader.countries == {"ES"}
    assert kept.events[0].context.country == "ES"


def test_a_server_finds_what_training_asks_of_the_same_index(ask, folder, features):
    slot = Slot("home", size=9, sources=SLOT.sources, hide_seen=())
    index = Bundle.load(folder, schema_hash=features.schema_hash).index
    for country in ("NO", "ES", "IS"):
        found = candidates(index, slot.sources, context={"country": country})
        assert {item.item_id for item in ask(country, slot=slot).items} == {index.ids[row] for row in found.rows}


@pytest.mark.parametrize("source", ["popular_by", "popular_by:", "popular_by:city", "editorial_by:country", "popular_by:country:NO"])
def test_a_segment_by_something_else_is_no_source(source):
    with pytest.raises(DeclarationError, match=r"(?s)unknown source .* popular_by:country \(or device\)"):
        Slot("home", sources={source: 3})


@pytest.mark.parametrize("source", ["popular_by:device", "trending_by:country", "trending_by:device"])
def test_each_source_by_segment_is_one(source):
    assert Slot("home", sources={source: 3}).sources == {source: 3}
