"""The index that requests are answered from while items change: made beside them, not in them."""

import json
import threading

import numpy as np
from tests.serving import shop

from tailorbird.events import RoutePlan, SystemClock
from tailorbird.retrieval import Index, NewItem, with_items
from tailorbird.router import Router
from tailorbird.serving.catalogue import Catalogue
from tailorbird.serving.door import Door
from tailorbird.stream import routed_path


def test_requests_go_on_with_the_items_before_while_those_of_now_are_laid_over(tmp_path):
    """Neither the overlay nor what `ready` computes of it is waited for by a request, with the champion's index or a canary's."""
    champion, canary, forgotten = (Index.bare(["i1"]) for _ in range(3))
    with Site(tmp_path) as site:
        site.item("i2")
        site.catalogue.refresh()
        assert [len(site.catalogue.over(base)) for base in (forgotten, champion, canary)] == [2, 2, 2]
        site.item("i3")
        site.catalogue.refresh()
        assert [len(site.catalogue.over(base)) for base in (champion, canary)] == [3, 3]
        inside, go = threading.Event(), threading.Event()
        told = []

        def slow(index):
            told.append(len(index))
            inside.set()
            assert go.wait(10)

        site.catalogue.ready = slow
        site.item("i4")
        refreshing = threading.Thread(target=site.catalogue.refresh)
        refreshing.start()
        assert inside.wait(10)
        assert [len(site.catalogue.over(base)) for base in (champion, canary)] == [3, 3]
        go.set()
        refreshing.join(10)
        assert told == [4, 4]  # the third was not asked for since the change before
        assert [len(site.catalogue.over(base)) for base in (champion, canary, forgotten)] == [4, 4, 4]


def test_a_price_that_changed_computes_no_order_anew(bundle):
    """Orders are by what items there are and how they were liked; of 100,000 they take far longer than the change itself."""
    index = bundle.index
    [row] = index.find_ids(["i3"]).tolist()
    dearer = with_items(index, [NewItem("i3", {"price": 99.0, "category": index.category.text(row)}, 0)])
    for name in ("_key_order", "_popular", "_trending", "_hottest", "_fresh", "popularity", "_by_category"):
        assert dearer.__dict__[name] is index.__dict__[name]
    moved = with_items(index, [NewItem("i3", {"category": "elsewhere"}, 0)])
    assert moved.popular(5, "elsewhere").rows.tolist() == [row]
    more = with_items(index, [NewItem("new", {"category": "coats"}, shop.NOW)])
    assert more.fresh(1).rows.tolist() == [len(index)]
    view = more.only(np.arange(len(more)) % 2 == 0)
    whole = more.popular(100, "coats").rows
    assert view.popular(100, "coats").rows.tolist() == whole[whole % 2 == 0].tolist()


class Site:
    """A door, a router and the catalogue behind them."""

    def __init__(self, folder):
        clock, plan = SystemClock(), RoutePlan()
        self.door = Door(folder, "serve-1", plan, clock)
        self.router = Router(folder, plan, clock=clock)
        self.catalogue = Catalogue(routed_path(folder))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.catalogue.stop()
        self.router.close()
        self.door.close()

    def item(self, item_id):
        event = {"event_id": item_id, "type": "item", "item_id": item_id, "properties": {"price": 1.0}}
        assert self.door.submit(json.dumps(event).encode())[0].accepted
        while self.router.step().more:
            pass
