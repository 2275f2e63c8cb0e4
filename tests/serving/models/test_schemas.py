"""With which schema a request reads: opened with its bundle, closed when the last request that
reads with it leaves.
"""

import shutil
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from tests.support.shops import serving_shop

from tailorbird.errors import BundleError, NotReadyError
from tailorbird.events import RoutePlan, SimulatedClock
from tailorbird.features import FeatureSet, ReadRequest, count, entity
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.schemas import apply_schema, save_declarations
from tailorbird.ranking.bundle import Bundle
from tailorbird.router import Router
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.messages import RecommendQuery
from tailorbird.serving.models.schemas import LiveFeatureProvider
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.stream import routed_path

REQUEST = ReadRequest("u1", now=serving_shop.NOW)


@pytest.fixture(scope="session")
def other(features) -> FeatureSet:
    """Another schema with the same columns, so that one model fits both."""
    unchanged = [one for one in features.features if one.name != "item_clicks"]
    return FeatureSet.from_declarations(
        [count("item_clicks", entity("item"), "click", window="1d"), *unchanged]
    )


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory, other) -> Bundle:
    return Bundle.load(
        serving_shop.write_shop_bundle(tmp_path_factory.mktemp("other") / "bundle", other),
        schema_hash=None,
    )


class Site:
    """A routed log, with workers of several schemas beside it."""

    def __init__(self, folder) -> None:
        self.folder, self.state = folder, folder / "state"
        self.clock, self.plan = SimulatedClock(serving_shop.NOW), RoutePlan()
        self.collector = EventCollector(folder / "stream", "serve-1", self.plan, self.clock)
        self.workers: list[FeatureWorker] = []

    def send(self, number: int) -> None:
        body = b'{"event_id":"e%d","type":"click","user_id":"u1","item_id":"i1","ts":%d}' % (
            number,
            serving_shop.NOW - number,
        )
        assert self.collector.submit(body)[0].accepted
        with Router(self.folder / "stream", self.plan, clock=self.clock) as router:
            router.step()

    def worker(self, features: FeatureSet) -> FeatureWorker:
        worker = FeatureWorker(
            routed_path(self.folder / "stream"), self.state, features, clock=self.clock
        )
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.collector.close()


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def schemas(site, features):
    schemas = LiveFeatureProvider(site.state, features, retry_s=0)
    yield schemas
    schemas.close()


def follow(worker: FeatureWorker) -> None:
    while worker.step().rows:
        pass


def p_of(schemas: LiveFeatureProvider, bundle: Bundle | None) -> int:
    with schemas.open_features(bundle) as access:
        assert access.reader is not None
        return access.reader.read(REQUEST, ["i1"]).log_position


def test_a_request_reads_with_the_schema_of_its_bundle(
    site, schemas, features, other, bundle, other_bundle
):
    site.send(1)
    follow(site.worker(features))
    site.worker(other)
    assert (p_of(schemas, bundle), p_of(schemas, other_bundle)) == (1, 0)
    with schemas.open_features(other_bundle) as access:
        assert access.features.schema_hash == other.schema_hash
        assert access.user_columns == ((1, "user_clicks"),)


def test_a_state_is_closed_when_the_last_request_that_reads_it_leaves(
    site, schemas, features, other, bundle, other_bundle
):
    for each in (features, other):
        follow(site.worker(each))
    schemas.set_serving(bundle)
    with ExitStack() as requests:
        early = requests.enter_context(schemas.open_features(bundle))
        schemas.set_serving(other_bundle)
        late = requests.enter_context(schemas.open_features(other_bundle))
        assert (
            early.reader.read(REQUEST, ["i1"]).numeric.shape
            == late.reader.read(REQUEST, ["i1"]).numeric.shape
        )
    with pytest.raises(NotReadyError, match="closed"):
        early.reader.read(REQUEST, ["i1"])
    late.reader.read(REQUEST, ["i1"])
    assert p_of(schemas, bundle) == 0, (
        "one that took the old bundle before the switch, and begins after it, reads all the same"
    )


def test_a_bundle_has_caught_up_when_its_state_is_as_far_as_the_one_that_serves(
    site, schemas, features, other, bundle, other_bundle
):
    site.send(1)
    worker = site.worker(features)
    follow(worker)
    assert not schemas.is_caught_up(other_bundle, bundle), "there is no state yet"
    lagging_worker = site.worker(other)
    assert not schemas.is_caught_up(other_bundle, bundle), "there is, but it knows nothing"
    site.send(2)
    follow(worker)
    lagging_worker.step(rows_max=1)
    assert schemas.is_caught_up(other_bundle, bundle), (
        "as far as the old one was then; it need not win a race"
    )
    assert schemas.is_caught_up(bundle, bundle)


def test_without_a_bundle_the_applied_schema_is_read_once_it_has_caught_up(site, features, other):
    schemas = LiveFeatureProvider(site.state, features, retry_s=0)
    site.send(1)
    follow(site.worker(features))
    apply_schema(site.state, other, at=0)
    with schemas.open_features(None) as access:
        assert access.features.schema_hash == features.schema_hash
    follow(site.worker(other))
    schemas._next_check_at = 0.0
    with schemas.open_features(None) as access:
        assert access.features.schema_hash == other.schema_hash
        assert access.reader.read(REQUEST, ["i1"]).log_position == 1
    schemas.close()


def test_a_bundle_without_declarations_is_given_those_that_are_kept(
    site, schemas, features, other, bundle, other_bundle
):
    assert schemas.attach_schema(replace(bundle, features=None)).features == features
    with pytest.raises(BundleError, match="whose declarations are not here"):
        schemas.attach_schema(replace(other_bundle, features=None))
    save_declarations(site.state, other)
    assert schemas.attach_schema(replace(other_bundle, features=None)).features == other


def test_declarations_that_are_not_the_manifests_are_refused(
    tmp_path, bundle_folder, other, features
):
    from tailorbird.features.codec import encode_features
    from tailorbird.registry import read_sealed, seal

    shutil.copytree(bundle_folder, tmp_path / "copy")
    sealed = read_sealed(tmp_path / "copy")
    (tmp_path / "copy" / "features.json").chmod(0o644)
    (tmp_path / "copy" / "features.json").write_bytes(encode_features(other))
    with pytest.raises(BundleError, match=r"features\.json does not match its checksum"):
        Bundle.load(tmp_path / "copy", schema_hash=None)
    seal(tmp_path / "copy", sealed.manifest)
    with pytest.raises(
        BundleError,
        match=f"its declarations are schema {other.schema_hash}, it is kept as "
        f"{features.schema_hash}",
    ):
        Bundle.load(tmp_path / "copy", schema_hash=None)


def test_an_answer_logs_the_schema_that_it_read(
    site, schemas, features, other, bundle, other_bundle, live
):
    from tailorbird.serving.pipeline.protocols import FixedBundle

    class ResponseRecorder:
        def __init__(self) -> None:
            self.schemas: list[str] = []

        def record_response(self, event_body, record) -> bool:
            self.schemas.append(record.schema_hash)
            return True

    response_log = ResponseRecorder()
    for each in (features, other):
        follow(site.worker(each))
    for each in (bundle, other_bundle):
        pipeline = Pipeline(
            slots=serving_shop.slots(),
            bundle_selector=FixedBundle(each),
            feature_provider=schemas,
            response_log=response_log,
            clock=site.clock,
            rng=np.random.default_rng(0),
            table_provider=live,
        )
        assert pipeline.answer(RecommendQuery(slot="home", user_id="u1")).degraded == []
        assert pipeline.missing_parts() == []
    assert response_log.schemas == [features.schema_hash, other.schema_hash]
