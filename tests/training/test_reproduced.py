"""A training set is drawn again, row by row, from the versions that its bundle names, whatever
became of the lake since.
"""

from importlib.resources import files

import pytest

from tailorbird.events import DAY, RoutePlan, SimulatedClock, SlotPlan
from tailorbird.features import load_features
from tailorbird.lake import Lake, LakeRole, verify, versions_of
from tailorbird.lake.delta.versions import from_manifest, to_manifest
from tailorbird.ranking import Slot
from tailorbird.router import Router
from tailorbird.simulator import Site
from tailorbird.stream.importer import import_files
from tailorbird.training.dataset.rows import load_training_data
from tailorbird.training.settings import TrainSettings

pytestmark = pytest.mark.slow

HOME = Slot("home", objective={"click": 1.0})
DAYS = 4


class Shop:
    """A history in two halves, of which one is in the lake."""

    def __init__(self, folder):
        (folder / "features.py").write_text(
            (files("tailorbird.platform") / "templates" / "features.py").read_text()
        )
        self.features = load_features(folder / "features.py")
        self.stream, self.lake = folder / "stream", folder / "lake"
        self.stream.mkdir()
        site = Site(3, users=200, items=80, days=DAYS + 2)
        self.clock = SimulatedClock(site.start + DAYS * DAY)
        site.history(DAYS).write(folder / "history.jsonl")
        lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
        self.halves = [folder / "first.jsonl", folder / "second.jsonl"]
        for part, (start, end) in zip(
            self.halves, [(0, len(lines) // 2), (len(lines) // 2, len(lines))], strict=True
        ):
            part.write_text("".join(lines[start:end]))
        attributes = {
            "user_attributes": self.features.user_attributes,
            "item_attributes": self.features.item_attributes,
        }
        self.plan = RoutePlan(**attributes, slots={"home": SlotPlan()})
        self.load(0)

    def load(self, half):
        import_files(self.stream, "tailorbird", self.halves[half], plan=self.plan, clock=self.clock)
        with Router(self.stream, self.plan, clock=self.clock) as router:
            while router.step().rows:
                pass
        with LakeRole(self.stream, self.lake, clock=self.clock) as role:
            while not role.step(
                rows_max=5_000
            ).is_idle:  # several commits, so that there is something to put together
                pass

    def drawn(self, lake, now):
        row_settings = TrainSettings(quick=True).row_settings(now)
        return load_training_data(lake, self.features, HOME, row_settings).dataset


@pytest.mark.parametrize("sort", ["position", "person"])
def test_after_loads_compaction_and_vacuum_the_set_is_the_same(tmp_path, sort):
    shop = Shop(tmp_path)
    now, noted = shop.clock.now(), to_manifest(versions_of(shop.lake))
    first = shop.drawn(Lake(shop.lake), now)
    shop.load(1)
    with LakeRole(shop.stream, shop.lake, clock=shop.clock, sort=sort) as role:
        assert role.count_due_files(include_unsettled=True)
        while role.upkeep(include_unsettled=True):
            pass
        shop.clock.advance_to(now + 20 * DAY)
        assert sum(each.files for each in role.vacuum(keep_us=DAY).values()) > 0
    again = shop.drawn(Lake(shop.lake, versions=from_manifest(noted)), now)
    assert again.digest() == first.digest()
    assert again.row_count == first.row_count > 500
    later = shop.drawn(Lake(shop.lake), now)
    assert later.digest() != first.digest(), "there is more to learn from now"
    assert verify(shop.lake).is_clean
