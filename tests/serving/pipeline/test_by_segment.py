"""Popular by country in whole answers: other lists for other countries, under the slot's rules,
told and logged.
"""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from tests.support.serving.pipeline import BrokenReader, ResponseRecorder, item_numbers
from tests.support.shops import serving_shop

from tailorbird.candidates.batch import segment_keys
from tailorbird.candidates.protocol import CandidateRequest
from tailorbird.candidates.query import RequestLists
from tailorbird.events import Context, SimulatedClock
from tailorbird.events.keys import hash64s
from tailorbird.features.request import CANDIDATES_KEY, unpack_sequences
from tailorbird.ranking import Slot
from tailorbird.serving.messages import RecommendQuery
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle

BY_COUNTRY = "popular:7d:country"
SLOT = Slot(
    "home",
    size=8,
    sources={BY_COUNTRY: 5, "popular": 3},
    rules=["item.stock > 0"],
    deny=["i1"],
    hide_seen=(),
)


@pytest.fixture(scope="module")
def live():
    return serving_shop.LiveTables([BY_COUNTRY])


@pytest.fixture
def ask(features, bundle, live):
    def ask(country, *, slot=SLOT, answers=None, tables=live, reader=None, bundle=bundle):
        pipeline = Pipeline(
            slots={"home": slot},
            bundle_selector=FixedBundle(bundle),
            feature_provider=SingleSchema(features, reader or serving_shop.FakeReader(features)),
            response_log=answers,
            clock=SimulatedClock(serving_shop.NOW),
            rng=np.random.default_rng(0),
            table_provider=tables,
        )
        return pipeline.answer(
            RecommendQuery(slot="home", user_id="u1", context=Context(country=country))
        )

    return ask


class Listening(serving_shop.FakeReader):
    """Notes the countries that features are read for."""

    def __init__(self, features):
        super().__init__(features)
        self.countries = set()

    def read(self, request, items, item_keys=None):
        self.countries.add(request.country)
        return super().read(request, items, item_keys)


class Overtaken(serving_shop.FakeReader):
    """A click of the person arrives between the two reads of a request."""

    def read(self, request, items, item_keys=None):
        rows = super().read(request, items, item_keys)
        self.recent["u1"] = (*self.recent["u1"], (7, "click"))
        return rows


def test_what_sources_read_is_logged_if_features_read_newer_events(ask, features):
    response_log = ResponseRecorder()
    ask("ES", answers=response_log, reader=Overtaken(features, {"u1": [(3, "click")]}))
    logged = unpack_sequences(response_log.records[0].sequences)
    assert logged["recent"][0] == hash64s(["i3", "i7"]).tolist()
    assert logged[CANDIDATES_KEY][0] == hash64s(["i3"]).tolist()
    ask("ES", answers=response_log)
    assert CANDIDATES_KEY not in unpack_sequences(response_log.records[1].sequences)


def of(answer, source):
    return {item.item_id for item in answer.items if item.source == source}


def test_each_country_gets_what_is_popular_there_and_may_be_shown(ask):
    response_log = ResponseRecorder()
    answer = ask("ES", answers=response_log)
    assert of(answer, BY_COUNTRY) == {"i5", "i7", "i9", "i11", "i15"}, (
        "i1 is denied, i3 and i13 are out of stock"
    )
    assert of(answer, "popular") == {"i0", "i2", "i4"}
    assert {item.reason_code for item in answer.items if item.source == BY_COUNTRY} == {
        "popular_in_segment"
    }
    assert (
        response_log.records[0].candidate_sources,
        response_log.records[0].candidate_counts,
    ) == ([BY_COUNTRY, "popular"], [5, 3])
    assert of(ask("NO"), BY_COUNTRY) == {"i0", "i2", "i4", "i6", "i8"}


def test_an_unknown_country_gets_what_everybody_gets_and_is_told_so(ask):
    for answer in (
        ask("IS"),
        ask(None),
        ask(
            "ES",
            tables=serving_shop.LiveTables(
                [BY_COUNTRY], serving_shop.make_routed_log(countries=False)
            ),
        ),
    ):
        assert of(answer, BY_COUNTRY) | of(answer, "popular") == {
            "i0",
            "i2",
            "i4",
            "i5",
            "i6",
            "i7",
            "i8",
            "i9",
        }
        assert {item.reason_code for item in answer.items} == {"popular"}
        assert not answer.degraded


def test_of_whom_nothing_is_known_the_countrys_favourites_come_first_where_they_are_the_baseline(
    ask, bundle
):
    baseline = replace(
        bundle, manifest=msgspec.structs.replace(bundle.manifest, heads=(), baseline=BY_COUNTRY)
    )
    answer = ask("ES", bundle=baseline, reader=BrokenReader())
    assert (item_numbers(answer)[:5], answer.degraded) == ([5, 7, 9, 11, 15], ["features"])


def test_a_country_in_small_letters_is_read_as_events_keep_it(ask, features):
    reader, response_log = Listening(features), ResponseRecorder()
    answer = ask(
        "es",
        slot=Slot("home", sources=SLOT.sources, rules=["context.country == 'ES'"]),
        answers=response_log,
        reader=reader,
    )
    assert len(of(answer, BY_COUNTRY)) == 5
    assert reader.countries == {"ES"}
    assert response_log.events[0].context.country == "ES"


def test_a_server_reads_the_list_of_the_segment(ask, live):
    response_log = ResponseRecorder()
    for country in ("NO", "ES", "IS"):
        ask(country, answers=response_log)
        with live.tables() as tables:
            lists = RequestLists(
                tables, CandidateRequest(segments=segment_keys({"country": country}))
            )
            assert response_log.records[-1].candidate_digests == [
                lists.get(name).digest for name in (BY_COUNTRY, "popular")
            ]
    assert len({tuple(record.candidate_digests) for record in response_log.records}) == 3
