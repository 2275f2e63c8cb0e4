"""Records as Metarank writes them."""

ITEM = {
    "event": "item",
    "id": "e1",
    "timestamp": "1599391467000",
    "item": "product1",
    "fields": [
        {"name": "title", "value": "Nice jeans"},
        {"name": "price", "value": 25.0},
        {"name": "sizes", "value": [30, 32]},
        {"name": "tags", "value": ["blue", "denim"]},
        {"name": "on_sale", "value": True},
    ],
}


USER = {
    "event": "user",
    "id": "e2",
    "timestamp": 1599391467001,
    "user": "u1",
    "fields": [{"name": "age", "value": 33}],
}


RANKING = {
    "event": "ranking",
    "id": "r1",
    "timestamp": "2020-09-06T11:24:27.002Z",
    "user": "u1",
    "session": "s1",
    "fields": [{"name": "query", "value": "jeans"}],
    "tenant": "shop-a",
    "items": [
        {"id": "p3", "relevancy": 0.7, "fields": [{"name": "score", "value": 2.0}]},
        {"id": "product1", "label": 1},
        {"id": "p2"},
    ],
}


CLICK = {
    "event": "interaction",
    "id": "e4",
    "ranking": "r1",
    "timestamp": "1599391467003",
    "user": "u1",
    "session": "s1",
    "type": "click",
    "item": "product1",
    "fields": [{"name": "quantity", "value": 1}],
}
