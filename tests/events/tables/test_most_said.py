"""Of an owner the value that most rows have, column by column; what is empty says nothing."""

import pyarrow as pa

from tailorbird.events.tables.most_frequent import MostFrequentValues


def _rows(*batches: dict[str, list]) -> dict[str, list]:
    counter = MostFrequentValues("item", ["title", "price", "tags"])
    for batch in batches:
        counter.add(pa.RecordBatch.from_pydict(batch))
    rows = counter.to_batch()
    assert rows is not None
    return rows.to_pydict()


def test_the_most_frequent_value_over_all_batches_counts() -> None:
    first = {
        "item": ["a", "b", "a"],
        "title": ["wrong code?", "Hat", "Lamp"],
        "price": [1.0, 2.0, None],
        "tags": [["x"], None, ["x", "y"]],
    }
    later = {
        "item": ["a", "c", None],
        "title": ["Lamp", None, "of nobody"],
        "price": [3.0, None, 9.0],
        "tags": [["x", "y"], None, None],
    }
    assert _rows(first, later) == {
        "item": ["a", "b", "c"],
        "title": ["Lamp", "Hat", None],
        "price": [1.0, 2.0, None],  # of as many the smallest
        "tags": [["x", "y"], None, None],
    }


def test_numbers_in_one_batch_and_texts_in_another() -> None:
    number = {"item": ["a"], "title": ["Lamp"], "price": [1], "tags": [[1]]}
    columns = _rows(number, {**number, "price": ["cheap"]})
    assert columns["price"] == ["1"]


def test_many_batches_are_added_up() -> None:
    batches = [
        {
            "item": ["a"],
            "title": ["old" if n < 30 else "new"],
            "price": [float(n)],
            "tags": [[n % 2]],
        }
        for n in range(100)
    ]
    columns = _rows(*batches)
    assert (columns["title"], columns["tags"]) == (["new"], [[0]])
