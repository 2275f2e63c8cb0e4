"""MIND and Instacart, by the layouts that their makers describe. What they become as a whole is
tried in `tests/first_hour`.
"""

from pathlib import Path

import pytest
from tests.support.adapters import convert_events, read_refusals

from tailorbird.errors import InputError

ROW = "1\tU7\t11/15/2019 8:55:22 AM\tN9 N8\tN1-0 N2-1 N3-0"
ORDERS = (
    "order_id,user_id,eval_set,order_number,order_dow,order_hour_of_day,days_since_prior_order\n"
)
LINES = "order_id,product_id,add_to_cart_order,reordered\n"


def test_a_row_of_mind_is_an_answer_an_impression_and_clicks(tmp_path: Path) -> None:
    (tmp_path / "behaviors.tsv").write_text(ROW + "\n")
    answer, impression, click = convert_events("mind", tmp_path, slot="front")
    about = {"ts": 1573808122000000, "user_id": "U7", "request_id": answer["event_id"]}
    assert {
        **about,
        "type": "answer",
        "answer": {"slot": "front"},
        "items": ["N1", "N2", "N3"],
    }.items() <= answer.items()
    assert {
        **about,
        "type": "impression",
        "items": ["N1", "N2", "N3"],
    }.items() <= impression.items()
    assert {**about, "type": "click", "item_id": "N2"}.items() <= click.items()


def test_an_unreadable_mind_row_is_quarantined_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "behaviors.tsv").write_text(f"{ROW}\n2\tU7\tyesterday\t\tN1-0\n3\tU7\n")
    accepted, refused = read_refusals("mind", tmp_path)
    assert accepted == 3
    assert [code for code, *_ in refused] == ["wrong_type", "wrong_type"]


def test_orders_of_instacart_follow_each_other_by_their_days(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text(
        f"{ORDERS}5,1,prior,2,0,09,7.0\n4,1,prior,1,3,08,\n6,2,prior,1,0,23,\n"
    )
    (tmp_path / "order_products__prior.csv").write_text(
        f"{LINES}4,9,1,0\n5,9,2,1\n6,8,1,0\n7,8,1,0\n"
    )
    accepted, refused = read_refusals("instacart", tmp_path)
    assert (accepted, [path for _, path, *_ in refused]) == (3, ["$.order_id"])
    (tmp_path / "order_products__prior.csv").write_text(f"{LINES}4,9,1,0\n5,9,2,1\n6,8,1,0\n")
    bought = convert_events("instacart", tmp_path)
    begin = 1_483_228_800_000_000
    day, hour, second = 86_400_000_000, 3_600_000_000, 1_000_000
    assert [
        (each["user_id"], each["item_id"], each["session_id"], each["ts"]) for each in bought
    ] == [
        ("1", "9", "4", begin + 3 * day + 8 * hour + second),
        ("1", "9", "5", begin + 10 * day + 9 * hour + 2 * second),
        ("2", "8", "6", begin + 23 * hour + second),
    ]


def test_products_of_instacart_get_the_names_of_aisle_and_department(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text(
        "product_id,product_name,aisle_id,department_id\n9,Milk,2,1\n"
    )
    (tmp_path / "aisles.csv").write_text("aisle_id,aisle\n2,milk and cream\n")
    (tmp_path / "departments.csv").write_text("department_id,department\n1,dairy\n")
    (item,) = convert_events("instacart", tmp_path)
    assert item["item_id"] == "9"
    assert item["properties"] == {"title": "Milk", "category": "dairy", "aisle": "milk and cream"}


def test_missing_orders_raise(tmp_path: Path) -> None:
    (tmp_path / "order_products__prior.csv").write_text(f"{LINES}4,9,1,0\n")
    with pytest.raises(InputError, match=r"orders\.csv is missing"):
        convert_events("instacart", tmp_path)


def test_unreadable_instacart_rows_are_quarantined(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text(f"{ORDERS}4,1,prior,1,3,08,\n")
    (tmp_path / "order_products__prior.csv").write_text(f"{LINES}4,9,1,0\n4,8\n4,7,2,0\n")
    (tmp_path / "products.csv").write_text(
        "product_id,product_name,aisle_id,department_id\n9,Milk,2,1\n8,Bread\n"
    )
    accepted, refused = read_refusals("instacart", tmp_path)
    assert (accepted, [code for code, *_ in refused]) == (3, ["wrong_width", "wrong_width"])
    (tmp_path / "order_products__prior.csv").write_text(f"{LINES}4,9,1,0\nfour,8,1,0\n")
    with pytest.raises(InputError, match="order_id holds something that is no number"):
        convert_events("instacart", tmp_path)
