"""The collector by its own word: requests drawn by Schemathesis from `/openapi.json`, valid and not,
over a real pipeline and collector.

No status but those that the document names, no body but those that it describes, and never a 5xx
that nobody asked for. `make fuzz-http` draws more of them: FUZZ_EXAMPLES=5000 for each route and
kind.
"""

import os

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.support.serving.app import PromptChurn, PromptFormulas, PromptScores
from tests.support.shops import serving_shop

from tailorbird.events import RoutePlan, SystemClock
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.http.access import Perimeter
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.handling import Service
from tailorbird.serving.http.routes import OPERATIONS
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "15"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


@pytest.fixture(scope="module")
def schema(tmp_path_factory, features, bundle):
    with EventCollector(
        tmp_path_factory.mktemp("drawn"), "serve-1", RoutePlan(), SystemClock()
    ) as collector:
        pipeline = Pipeline(
            slots=serving_shop.slots(),
            bundle_selector=FixedBundle(bundle),
            feature_provider=SingleSchema(features, serving_shop.FakeReader(features)),
            response_log=collector,
            clock=SystemClock(),
            rng=np.random.default_rng(0),
            table_provider=serving_shop.LiveTables(),
        )
        service = Service(
            pipeline,
            collector,
            perimeter=Perimeter(),
            churn=PromptChurn(),
            formulas=PromptFormulas(),
            scores=PromptScores(),
        )
        yield schemathesis.openapi.from_asgi("/openapi.json", create_app(service))
        service.pool.shutdown()


@pytest.mark.parametrize("mode", MODES, ids=["valid", "invalid"])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_whatever_the_document_allows_or_forbids_is_answered_as_it_says(schema, path, method, mode):
    operation = schema[path][method]
    if mode is GenerationMode.NEGATIVE and not (
        OPERATIONS[path, method].request_type or OPERATIONS[path, method].queries
    ):
        pytest.skip("nothing in it can be wrong")

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=EXAMPLES < 100,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.data())
    def draw(data):
        case = data.draw(operation.as_strategy(generation_mode=mode))
        case.call_and_validate(checks=CHECKS)

    draw()
