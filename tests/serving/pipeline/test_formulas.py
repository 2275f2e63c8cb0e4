"""Formulas that are set without a new model: taken by running servers, refused where they cannot be
used, logged with each answer.
"""

import shutil

import numpy as np
import pytest
from starlette.testclient import TestClient
from tests.support.serving.pipeline import ResponseRecorder
from tests.support.shops import serving_shop

from tailorbird.errors import DeclarationError
from tailorbird.events import RoutePlan, SimulatedClock
from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import Registry, read_formulas
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.handling import Service
from tailorbird.serving.messages import RecommendQuery
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.formulas import LiveFormulas, set_formula
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle

SLOTS = serving_shop.slots()


@pytest.fixture
def registry(tmp_path, bundle_folder):
    registry = Registry(tmp_path / "registry", clock=SimulatedClock(serving_shop.NOW))
    registry.promote(registry.add(bundle_folder), by="ann", why="first")
    return registry


def pipeline_of(registry, features, response_log, formulas):
    return Pipeline(
        slots=SLOTS,
        bundle_selector=FixedBundle(
            Bundle.load(registry.champion_folder(), schema_hash=features.schema_hash)
        ),
        feature_provider=SingleSchema(features, serving_shop.FakeReader(features)),
        response_log=response_log,
        clock=SimulatedClock(serving_shop.NOW),
        rng=np.random.default_rng(0),
        formula_provider=formulas,
    )


def test_a_formula_is_taken_while_requests_run_and_logged_with_each(registry, features):
    response_log, formulas = ResponseRecorder(), LiveFormulas(registry, SLOTS)
    pipeline = pipeline_of(registry, features, response_log, formulas)
    query = RecommendQuery(slot="home", user_id="u1", size=3)
    dear = [item.item_id for item in pipeline.answer(query).items]
    set_formula(registry, SLOTS["home"], "-1.0*click", by="ann", why="cheap first")
    assert formulas.reload_if_changed()
    assert not formulas.reload_if_changed()
    cheap = [item.item_id for item in pipeline.answer(query).items]
    assert int(dear[0][1:]) > 30
    assert int(cheap[0][1:]) < 5
    set_formula(registry, SLOTS["home"], "", by="ann", why="enough")
    formulas.reload_if_changed()
    assert [item.item_id for item in pipeline.answer(query).items] == dear
    assert [(record.formula, record.formula_version) for record in response_log.records] == [
        ("1.0*click", None),
        ("- 1.0*click", "f0001"),
        ("1.0*click", None),
    ]
    assert [entry.action for entry in registry.audit()][-2:] == ["formula", "formula"]


def test_what_cannot_be_used_is_refused_or_left_aside(registry):
    with pytest.raises(
        DeclarationError, match="the champion v0001 predicts no 'purchase'; it predicts click"
    ):
        set_formula(registry, SLOTS["home"], "click + purchase", by="ann", why="more")
    for text in ("return_7d", "0*click", "0*click + return_7d"):
        with pytest.raises(DeclarationError, match="no head of the objective tells items apart"):
            set_formula(registry, SLOTS["home"], text, by="ann", why="loyal")
    assert read_formulas(registry.path).changes == ()
    set_formula(registry, SLOTS["home"], "3*click", by="ann", why="more")
    formulas = LiveFormulas(registry, SLOTS)
    formulas.reload_if_changed()
    (registry.path / "formulas.json").write_text("{}{")
    assert not formulas.reload_if_changed()
    assert (
        formulas.formula_for(SLOTS["home"]).weights,
        formulas.formula_for(SLOTS["search"]).version,
    ) == ({"click": 3.0}, "")
    shutil.rmtree(registry.path)
    formulas.reload_if_changed()
    assert formulas.formula_for(SLOTS["home"]).version == ""


def test_an_admin_changes_it_over_http(registry, tmp_path, features):
    formulas = LiveFormulas(registry, SLOTS)
    pipeline = pipeline_of(registry, features, None, formulas)
    with EventCollector(
        tmp_path / "stream", "serve-1", RoutePlan(), SimulatedClock(serving_shop.NOW)
    ) as collector:
        service = Service(pipeline, collector, formulas=formulas)
        client = TestClient(create_app(service), base_url="http://localhost")
        put = client.put("/v1/formulas/home", json={"formula": "2*click", "why": "a try"})
        assert put.status_code == 200
        assert put.json() | {"at": 0} == {
            "slot": "home",
            "formula": "2.0*click",
            "version": "f0001",
            "declared": "1.0*click",
            "by": "key ",
            "why": "a try",
            "at": 0,
            "missing": [],
        }
        assert [each["formula"] for each in client.get("/v1/formulas").json()] == [
            "2.0*click",
            "1.0*click",
            "1.0*click",
        ]
        assert formulas.formula_for(SLOTS["home"]).version == "f0001"
        for slot, body, code in (
            ("nowhere", {"formula": "click", "why": "x"}, "unknown_slot"),
            ("home", {"formula": "purchase", "why": "x"}, "bad_formula"),
            ("home", {"formula": "click"}, "bad_query"),
        ):
            refused = client.put(f"/v1/formulas/{slot}", json=body)
            assert (refused.status_code, refused.json()["code"]) == (400, code)
