"""The index that requests are answered from while items change: made beside them, not in them."""

import json
import threading
from dataclasses import replace

import numpy as np
from tests.support.shops import serving_shop

from tailorbird.events import MINUTE, SECOND, RoutePlan, SystemClock
from tailorbird.retrieval import Index, NewItem, with_items
from tailorbird.router import Router
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.models.catalogue import Catalogue
from tailorbird.stream import routed_path


def test_requests_go_on_with_the_items_before_while_those_of_now_are_laid_over(tmp_path):
    """Neither the overlay nor what `ready` computes of it is waited for by a request, with the
    champion's index or a canary's.
    """
    champion, canary, forgotten = (Index.from_ids(["i1"]) for _ in range(3))
    with Site(tmp_path) as site:
        site.item("i2")
        site.catalogue.refresh()
        assert [
            len(site.catalogue.overlay_for(base)) for base in (forgotten, champion, canary)
        ] == [2, 2, 2]
        site.item("i3")
        site.catalogue.refresh()
        assert [len(site.catalogue.overlay_for(base)) for base in (champion, canary)] == [3, 3]
        inside, go = threading.Event(), threading.Event()
        sizes = []

        def slow(index):
            sizes.append(len(index))
            inside.set()
            assert go.wait(10)

        site.catalogue.warm_index = slow
        site.item("i4")
        refreshing = threading.Thread(target=site.catalogue.refresh)
        refreshing.start()
        assert inside.wait(10)
        assert [len(site.catalogue.overlay_for(base)) for base in (champion, canary)] == [3, 3]
        go.set()
        refreshing.join(10)
        assert sizes == [4, 4]  # the third was not asked for since the change before
        assert [
            len(site.catalogue.overlay_for(base)) for base in (champion, canary, forgotten)
        ] == [4, 4, 4]


def test_a_price_that_changed_computes_no_order_anew(bundle):
    """Orders are by what items there are; of 100,000 they take far longer than the change
    itself.
    """
    index = bundle.index
    [row] = index.find_ids(["i3"]).tolist()
    dearer = with_items(
        index, [NewItem("i3", {"price": 99.0, "category": index.category.text(row)}, 0)]
    )
    view = dearer.restrict(np.arange(len(index)) % 2 == 0)
    for name in ("_key_order", "category"):
        assert dearer.__dict__[name] is index.__dict__[name]
        assert view.__dict__[name] is index.__dict__[name]
    moved = with_items(index, [NewItem("i3", {"category": "elsewhere"}, 0)])
    assert (moved.category.text(row), index.category.text(row)) == (
        "elsewhere",
        serving_shop.CATEGORIES[3],
    )
    more = with_items(index, [NewItem("new", {"category": "coats"}, serving_shop.NOW)])
    assert more.find_ids(["new", "i3"]).tolist() == [len(index), row]


def test_an_item_without_a_profile_is_known_by_what_people_do_and_a_profile_adds_to_it(tmp_path):
    base, first_seen = Index.from_ids(["i1"]), SystemClock().now() - SECOND
    with Site(tmp_path) as site:
        for item in ("i1", "bare", "bare"):
            site.click(item, ts=first_seen)
        site.catalogue.refresh()
        index = site.catalogue.overlay_for(base)
        assert index.ids == ("i1", "bare")
        assert index.first_seen.tolist() == [0, first_seen]
        assert len(site.catalogue.overlay_for(None)) == 2, "nor does it take a bundle"
        site.item("bare")
        site.catalogue.refresh()
        index = site.catalogue.overlay_for(base)
        assert index.ids == ("i1", "bare")
        assert index.attributes["price"][1] == 1.0


def test_a_profile_that_an_index_was_built_from_is_not_laid_over_it_however_late_it_came_in(
    tmp_path,
):
    """Import a log of last year today, with an index of its end."""
    end = SystemClock().now() - 20 * MINUTE
    with Site(tmp_path) as site:
        site.item("i1", ts=end - 2 * SECOND)
        site.catalogue.refresh()
        base = replace(Index.from_ids(["i1"]), as_of=end, log_position=site.catalogue.position - 1)
        assert site.catalogue.overlay_for(base) is base
        unknown = replace(base, log_position=0)
        assert site.catalogue.overlay_for(unknown).attributes["price"][0] == 1.0, (
            "an index that does not say goes by the time"
        )
        site.item("i1", ts=end - SECOND, price=2.0)
        site.catalogue.refresh()
        assert site.catalogue.overlay_for(base).attributes["price"][0] == 2.0


class Site:
    """A collector, a router and the catalogue behind them."""

    def __init__(self, folder):
        self.clicks = 0
        clock, plan = SystemClock(), RoutePlan()
        self.collector = EventCollector(folder, "serve-1", plan, clock)
        self.router = Router(folder, plan, clock=clock)
        self.catalogue = Catalogue(routed_path(folder))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.catalogue.stop()
        self.router.close()
        self.collector.close()

    def item(self, item_id, price=1.0, **more):
        self._take(
            {
                "event_id": f"{item_id}-{price}",
                "type": "item",
                "item_id": item_id,
                "properties": {"price": price},
                **more,
            }
        )

    def click(self, item_id, ts):
        self.clicks += 1
        self._take(
            {
                "event_id": f"click-{self.clicks}",
                "type": "click",
                "ts": ts,
                "user_id": "u1",
                "item_id": item_id,
            }
        )

    def _take(self, event):
        assert self.collector.submit(json.dumps(event).encode())[0].accepted
        while self.router.step().has_more:
            pass
