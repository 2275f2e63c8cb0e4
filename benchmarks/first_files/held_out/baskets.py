"""Purchases of retailers, as published for research."""

from pathlib import Path

import numpy as np

from benchmarks.first_files.held_out.drawing import (
    DAY,
    DIGITS,
    HEX,
    blank,
    draw_actions,
    draw_choices,
    draw_codes,
    draw_even,
    draw_numbers,
    draw_prices,
    draw_titles,
    format_comma,
    format_times,
    pick,
    write_table,
)
from benchmarks.first_files.layout import NONE, Layout


def _write_instacart(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(10, n_rows // 120)
    n_items = max(40, n_rows // 12)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2017-01-01",
        days=360,
        per_session=10,
        gap_s=0,
        distinct="session",
    )
    first = np.unique(actions.session, return_index=True)[1]
    by_person = first[np.lexsort((actions.second[first], actions.person[first]))]
    people = actions.person[by_person]
    seconds = actions.second[by_person]
    is_first = np.r_[True, people[1:] != people[:-1]]
    is_last = np.r_[people[1:] != people[:-1], True]
    starts = np.maximum.accumulate(np.where(is_first, np.arange(len(people)), 0))
    days = np.r_[0, np.diff(seconds // DAY)].clip(0, 30).astype(float).tolist()
    order_ids = np.array(draw_numbers(rng, len(people), 1, 3_421_084))
    is_train = is_last & (people % 3 == 0)
    write_table(
        folder / "orders.csv",
        {
            "order_id": order_ids,
            "user_id": people + 1,
            "eval_set": np.where(is_train, "train", "prior"),
            "order_number": np.arange(len(people)) - starts + 1,
            "order_dow": (seconds // DAY + 4) % 7,
            "order_hour_of_day": format_times(seconds, "%H"),
            "days_since_prior_order": [
                None if begins else day for begins, day in zip(is_first.tolist(), days, strict=True)
            ],
        },
    )
    order_of_session = np.zeros(actions.session.max() + 1, int)
    order_of_session[actions.session[by_person]] = np.arange(len(people))
    order = order_of_session[actions.session]
    rows = np.lexsort((np.arange(len(actions)), order_ids[order]))
    begins = np.r_[True, np.diff(order[rows]) != 0]
    position = np.arange(len(rows)) - np.maximum.accumulate(
        np.where(begins, np.arange(len(rows)), 0)
    )
    pair = actions.person * n_items + actions.item
    is_again = np.ones(len(actions), int)
    is_again[np.unique(pair, return_index=True)[1]] = 0
    for name, part in (("prior", ~is_train[order[rows]]), ("train", is_train[order[rows]])):
        write_table(
            folder / f"order_products__{name}.csv",
            {
                "order_id": order_ids[order[rows]][part],
                "product_id": actions.item[rows][part] + 1,
                "add_to_cart_order": position[part] + 1,
                "reordered": is_again[rows][part],
            },
        )
    departments = ["frozen", "other", "bakery", "produce", "alcohol", "international"]
    aisles = ["prepared soups salads", "specialty cheeses", "energy granola bars", "fresh fruits"]
    aisle = rng.integers(0, len(aisles), n_items)
    write_table(
        folder / "products.csv",
        {
            "product_id": range(1, n_items + 1),
            "product_name": draw_titles(
                rng, n_items, ["Organic", "Whole Milk", '"Zero"', "Tea, Green"]
            ),
            "aisle_id": aisle + 1,
            "department_id": aisle + 2,
        },
    )
    write_table(folder / "aisles.csv", {"aisle_id": range(1, len(aisles) + 1), "aisle": aisles})
    write_table(
        folder / "departments.csv",
        {"department_id": range(1, len(departments) + 1), "department": departments},
    )


def _write_dunnhumby(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(10, n_rows // 200)
    n_items = max(40, n_rows // 6)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2012-01-01",
        days=711,
        per_session=9,
        gap_s=0,
        distinct="session",
    )
    n = len(actions)
    day = (actions.second - int(np.datetime64("2012-01-01", "s").astype(np.int64))) // DAY + 1
    people = np.array(draw_numbers(rng, n_people, 1, 2501))
    items = np.sort(draw_numbers(rng, n_items, 25_671, 18_316_298))
    prices = np.array(draw_prices(rng, n_items, 2.5))
    quantity = rng.geometric(0.75, n)
    discount = np.where(rng.random(n) < 0.5, 0.0, -prices[actions.item] * 0.2).round(2)
    stores = rng.integers(1, 500, n_people)
    write_table(
        folder / "transaction_data.csv",
        {
            "household_key": people[actions.person],
            "BASKET_ID": actions.session * 977 + 26_984_851_472,
            "DAY": day,
            "PRODUCT_ID": items[actions.item],
            "QUANTITY": quantity,
            "SALES_VALUE": (quantity * prices[actions.item] + discount).clip(0).round(2),
            "STORE_ID": stores[actions.person],
            "RETAIL_DISC": discount,
            "TRANS_TIME": [int(t) for t in format_times(actions.second, "%H%M")],
            "WEEK_NO": (day + 5) // 7 + 1,
            "COUPON_DISC": np.where(rng.random(n) < 0.015, -0.5, 0.0),
            "COUPON_MATCH_DISC": np.where(rng.random(n) < 0.008, -0.25, 0.0),
        },
    )
    kinds = [
        ("GROCERY", "FRZN ICE", "ICE - CRUSHED/CUBED"),
        ("PRODUCE", "TROPICAL FRUIT", "BANANAS"),
        ("MEAT-PCKGD", "BACON", "FLAVORED/OTHER"),
        ("DRUG GM", "VITAMINS", "VITAMIN - MINERALS"),
    ]
    kind_of = draw_choices(rng, kinds, n_items)
    write_table(
        folder / "product.csv",
        {
            "PRODUCT_ID": items,
            "MANUFACTURER": rng.integers(1, 6_500, n_items),
            "DEPARTMENT": [kind[0] for kind in kind_of],
            "BRAND": draw_choices(rng, ["National", "Private"], n_items),
            "COMMODITY_DESC": [kind[1] for kind in kind_of],
            "SUB_COMMODITY_DESC": [kind[2] for kind in kind_of],
            "CURR_SIZE_OF_PRODUCT": draw_choices(rng, ["22 LB", "", "50 OZ", "14 OZ"], n_items),
        },
    )
    known = people[: max(5, n_people // 3)]
    n_known = len(known)
    write_table(
        folder / "hh_demographic.csv",
        {
            "AGE_DESC": draw_choices(rng, ["45-54", "35-44", "25-34", "65+"], n_known),
            "MARITAL_STATUS_CODE": draw_choices(rng, ["A", "U", "B"], n_known),
            "INCOME_DESC": draw_choices(rng, ["50-74K", "35-49K", "Under 15K"], n_known),
            "HOMEOWNER_DESC": draw_choices(rng, ["Homeowner", "Unknown", "Renter"], n_known),
            "HH_COMP_DESC": draw_choices(rng, ["2 Adults No Kids", "Single Female"], n_known),
            "HOUSEHOLD_SIZE_DESC": draw_choices(rng, ["2", "1", "3", "5+"], n_known),
            "KID_CATEGORY_DESC": draw_choices(rng, ["None/Unknown", "1", "3+"], n_known),
            "household_key": known,
        },
    )
    write_table(
        folder / "campaign_desc.csv",
        {
            "DESCRIPTION": ["TypeB", "TypeC", "TypeA"],
            "CAMPAIGN": [24, 15, 18],
            "START_DAY": [659, 547, 587],
            "END_DAY": [719, 708, 642],
        },
    )
    rows = rng.integers(0, n, max(5, n // 100))
    write_table(
        folder / "coupon_redempt.csv",
        {
            "household_key": people[actions.person[rows]],
            "DAY": day[rows],
            "COUPON_UPC": rng.integers(10_000_085_364, 10_000_085_484, len(rows)),
            "CAMPAIGN": rng.choice([24, 15, 18], len(rows)),
        },
    )


def _write_tafeng(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(10, n_rows // 25)
    n_items = max(40, n_rows // 15)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2000-11-01",
        days=120,
        per_session=6,
        gap_s=0,
        distinct="session",
    )
    n = len(actions)
    people = [f"{number:08d}" for number in draw_numbers(rng, n_people, 1_069, 20_002_000)]
    bands = ["<25", "25-29", "30-34", "35-39", "40-44", "45-49", "50-54", "55-59", "60-64", ">65"]
    ages = blank(rng, draw_even(rng, bands, n_people), 0.03)
    areas = draw_choices(rng, ["115", "221", "Others", "114", "105", "Unknown"], n_people)
    items = [f"471{code}" for code in draw_codes(rng, n_items, 10, DIGITS)]
    subclass = rng.choice(draw_numbers(rng, max(5, n_items // 8), 100_101, 780_510), n_items)
    prices = np.array(draw_prices(rng, n_items, 70)).round().clip(1).astype(int)
    amount = rng.geometric(0.75, n)
    write_table(
        folder / "ta_feng_all_months_merged.csv",
        {
            "TRANSACTION_DT": format_times(actions.second, "%-m/%-d/%Y"),
            "CUSTOMER_ID": pick(people, actions.person),
            "AGE_GROUP": pick(ages, actions.person),
            "PIN_CODE": pick(areas, actions.person),
            "PRODUCT_SUBCLASS": subclass[actions.item],
            "PRODUCT_ID": pick(items, actions.item),
            "AMOUNT": amount,
            "ASSET": (amount * prices[actions.item] * 8 // 10).clip(1),
            "SALES_PRICE": amount * prices[actions.item],
        },
    )


def _write_spanish(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(10, n_rows // 15)
    n_items = max(30, n_rows // 40)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2023-01-09",
        days=420,
        per_session=3,
        gap_s=0,
        distinct="session",
    )
    n = len(actions)
    people = [f"C{number:05d}" for number in draw_numbers(rng, n_people, 1, 99_999)]
    items = [f"{code}-{i % 7}" for i, code in enumerate(draw_codes(rng, n_items, 5, DIGITS, "A"))]
    titles = draw_titles(
        rng, n_items, ["Jamón", "ibérico", "aceite", "de", "oliva", "piñón", "señora"]
    )
    prices = np.array(draw_prices(rng, n_items, 45))
    quantity = rng.geometric(0.7, n)
    families = draw_choices(rng, ["Alimentación", "Menaje", "Niños", "Jardín"], n_items)
    first_names = ["María", "José", "Begoña", "Iñaki"]
    names = [
        f"{first} {last}"
        for first, last in zip(
            draw_even(rng, first_names, n_people),
            draw_even(rng, ["Núñez", "García", "Peña", "López"], n_people),
            strict=True,
        )
    ]
    write_table(
        folder / "ventas.csv",
        {
            "Nº Pedido": [f"P{2023}/{number:06d}" for number in actions.session.tolist()],
            "Fecha": format_times(actions.second, "%d/%m/%Y %H:%M"),
            "Cliente": pick(people, actions.person),
            "Artículo": pick(items, actions.item),
            "Descripción": pick(titles, actions.item),
            "Familia": pick(families, actions.item),
            "Cantidad": quantity,
            "Precio": format_comma(prices[actions.item]),
            "Importe": format_comma(quantity * prices[actions.item]),
        },
        delimiter=";",
        encoding="cp1252",
        newline="\r\n",
    )
    write_table(
        folder / "clientes.csv",
        {
            "Cliente": people,
            "Nombre": names,
            "Población": draw_choices(rng, ["A Coruña", "Málaga", "Madrid"], n_people),
            "C.P.": draw_codes(rng, n_people, 5, DIGITS),
            "Fecha alta": format_times(
                rng.integers(1_500_000_000, 1_670_000_000, n_people), "%d/%m/%Y"
            ),
        },
        delimiter=";",
        encoding="cp1252",
        newline="\r\n",
    )


def _write_olist(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows * 3 // 4)
    n_items = max(30, n_rows // 4)
    n_sellers = max(5, n_items // 10)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2016-10-01",
        days=690,
        per_session=1.15,
        gap_s=0,
    )
    sessions, first, order = np.unique(actions.session, return_index=True, return_inverse=True)
    n_orders = len(sessions)
    order_ids = draw_codes(rng, n_orders, 32, HEX)
    customer_ids = draw_codes(rng, n_orders, 32, HEX)
    people = draw_codes(rng, n_people, 32, HEX)
    items = draw_codes(rng, n_items, 32, HEX)
    sellers = draw_codes(rng, n_sellers, 32, HEX)
    bought = actions.second[first]
    form = "%Y-%m-%d %H:%M:%S"
    shuffled = rng.permutation(n_orders)
    status = draw_choices(rng, ["delivered", "shipped", "canceled"], n_orders, [0.97, 0.02, 0.01])
    columns = {
        "order_id": order_ids,
        "customer_id": customer_ids,
        "order_status": status,
        "order_purchase_timestamp": format_times(bought, form),
        "order_approved_at": blank(rng, format_times(bought + 900, form), 0.002),
        "order_delivered_carrier_date": blank(rng, format_times(bought + 2 * DAY, form), 0.02),
        "order_delivered_customer_date": blank(
            rng, format_times(bought + rng.integers(3, 25, n_orders) * DAY, form), 0.03
        ),
        "order_estimated_delivery_date": format_times((bought // DAY + 24) * DAY, form),
    }
    write_table(
        folder / "olist_orders_dataset.csv",
        {name: pick(values, shuffled) for name, values in columns.items()},
    )
    begins = np.r_[True, np.diff(order) != 0]
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    prices = np.array(draw_prices(rng, n_items, 80))
    seller_of = rng.integers(0, n_sellers, n_items)
    write_table(
        folder / "olist_order_items_dataset.csv",
        {
            "order_id": pick(order_ids, order),
            "order_item_id": rank + 1,
            "product_id": pick(items, actions.item),
            "seller_id": pick(sellers, seller_of[actions.item]),
            "shipping_limit_date": format_times(actions.second + 6 * DAY, form),
            "price": prices[actions.item],
            "freight_value": rng.lognormal(2.8, 0.5, len(order)).round(2),
        },
    )
    places = [("sao paulo", "SP"), ("rio de janeiro", "RJ"), ("curitiba", "PR")]
    place_of = draw_choices(rng, places, n_people)
    zips = draw_codes(rng, n_people, 5, DIGITS)
    buyer = actions.person[first]
    write_table(
        folder / "olist_customers_dataset.csv",
        {
            "customer_id": customer_ids,
            "customer_unique_id": pick(people, buyer),
            "customer_zip_code_prefix": pick(zips, buyer),
            "customer_city": [place_of[p][0] for p in buyer.tolist()],
            "customer_state": [place_of[p][1] for p in buyer.tolist()],
        },
    )
    kinds = ["beleza_saude", "cama_mesa_banho", "esporte_lazer", "moveis_decoracao"]
    write_table(
        folder / "olist_products_dataset.csv",
        {
            "product_id": items,
            "product_category_name": blank(rng, draw_choices(rng, kinds, n_items), 0.02),
            "product_name_lenght": rng.integers(20, 64, n_items),
            "product_description_lenght": rng.integers(50, 3000, n_items),
            "product_photos_qty": rng.geometric(0.5, n_items),
            "product_weight_g": rng.lognormal(6.5, 1, n_items).astype(int),
            "product_length_cm": rng.integers(16, 100, n_items),
            "product_height_cm": rng.integers(2, 60, n_items),
            "product_width_cm": rng.integers(11, 60, n_items),
        },
    )
    write_table(
        folder / "olist_sellers_dataset.csv",
        {
            "seller_id": sellers,
            "seller_zip_code_prefix": draw_codes(rng, n_sellers, 5, DIGITS),
            "seller_city": draw_choices(rng, ["sao paulo", "ibitinga"], n_sellers),
            "seller_state": ["SP"] * n_sellers,
        },
    )
    write_table(
        folder / "olist_order_payments_dataset.csv",
        {
            "order_id": order_ids,
            "payment_sequential": [1] * n_orders,
            "payment_type": draw_choices(rng, ["credit_card", "boleto", "voucher"], n_orders),
            "payment_installments": rng.geometric(0.4, n_orders),
            "payment_value": rng.lognormal(4.6, 0.8, n_orders).round(2),
        },
    )
    write_table(
        folder / "olist_order_reviews_dataset.csv",
        {
            "review_id": draw_codes(rng, n_orders, 32, HEX),
            "order_id": order_ids,
            "review_score": draw_choices(rng, [5, 4, 1, 3, 2], n_orders),
            "review_comment_title": blank(rng, ["recomendo"] * n_orders, 0.88),
            "review_comment_message": blank(rng, ["Recebi bem antes do prazo."] * n_orders, 0.58),
            "review_creation_date": format_times((bought // DAY + 12) * DAY, form),
            "review_answer_timestamp": format_times(bought + 14 * DAY, form),
        },
    )
    write_table(
        folder / "product_category_name_translation.csv",
        {
            "product_category_name": kinds,
            "product_category_name_english": [
                "health_beauty",
                "bed_bath_table",
                "sports_leisure",
                "furniture_decor",
            ],
        },
        encoding="utf-8-sig",
    )


def _write_hm(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(10, n_rows // 12)
    n_items = max(40, n_rows // 12)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2018-09-20",
        days=730,
        per_session=3.5,
        gap_s=0,
    )
    people = draw_codes(rng, n_people, 64, HEX)
    codes = np.sort(draw_numbers(rng, n_items, 108_775, 959_461)).tolist()
    articles = [f"0{code}{i % 20 + 1:03d}" for i, code in enumerate(codes)]
    prices = rng.lognormal(-3.7, 0.6, n_items).round(17)
    # An order is made in one channel, and the same article may be bought twice.
    channel = rng.choice([1, 2], actions.session.max() + 1, p=[0.3, 0.7])
    write_table(
        folder / "transactions_train.csv",
        {
            "t_dat": format_times(actions.second, "%Y-%m-%d"),
            "customer_id": pick(people, actions.person),
            "article_id": pick(articles, actions.item),
            "price": prices[actions.item],
            "sales_channel_id": channel[actions.session],
        },
    )

    def draw_level(number: str, name: str, values: list[str]) -> None:
        drawn = rng.integers(0, len(values), n_items)
        is_letter = number == "index_code"
        table[number] = ["ABDF"[i] if is_letter else 1000 + i for i in drawn.tolist()]
        table[name] = list(pick(values, drawn))

    table: dict[str, list[object]] = {
        "article_id": list(articles),
        "product_code": [f"0{code}" for code in codes],
        "prod_name": list(draw_titles(rng, n_items)),
    }
    draw_level("product_type_no", "product_type_name", ["Vest top", "Bra", "Trousers", "Sweater"])
    table["product_group_name"] = list(draw_even(rng, ["Garment Upper body", "Underwear"], n_items))
    draw_level("graphical_appearance_no", "graphical_appearance_name", ["Solid", "Stripe", "Dot"])
    draw_level("colour_group_code", "colour_group_name", ["Black", "White", "Light Pink"])
    draw_level("perceived_colour_value_id", "perceived_colour_value_name", ["Dark", "Light"])
    draw_level("perceived_colour_master_id", "perceived_colour_master_name", ["Black", "Pink"])
    draw_level("department_no", "department_name", ["Jersey Basic", "Clean Lingerie", "Trouser"])
    draw_level("index_code", "index_name", ["Ladieswear", "Divided", "Menswear"])
    draw_level("index_group_no", "index_group_name", ["Ladieswear", "Baby/Children", "Menswear"])
    draw_level("section_no", "section_name", ["Womens Everyday Basics", "Womens Lingerie"])
    draw_level("garment_group_no", "garment_group_name", ["Under-, Nightwear", "Trousers"])
    table["detail_desc"] = list(blank(rng, draw_titles(rng, n_items, n_words=(6, 12)), 0.004))
    write_table(folder / "articles.csv", table)
    is_active = (rng.random(n_people) < 0.34).tolist()
    write_table(
        folder / "customers.csv",
        {
            "customer_id": people,
            "FN": ["1.0" if active else None for active in is_active],
            "Active": ["1.0" if active else None for active in is_active],
            "club_member_status": blank(
                rng, draw_choices(rng, ["ACTIVE", "PRE-CREATE"], n_people, [0.93, 0.07]), 0.004
            ),
            "fashion_news_frequency": draw_choices(rng, ["NONE", "Regularly"], n_people),
            "age": blank(rng, rng.integers(16, 80, n_people).tolist(), 0.01),
            "postal_code": draw_codes(rng, n_people, 64, HEX),
        },
    )


LAYOUTS = (
    Layout(
        name="instacart-orders",
        documented_by="https://gist.github.com/jeremystan/c3b39d947d9b88b3ccff3147dbcf6c6b",
        write=_write_instacart,
        time=NONE,
        person="orders.csv:user_id",
        item="order_products__prior.csv:product_id",
        type="=purchase",
        item_profiles="products.csv:product_id",
    ),
    Layout(
        name="dunnhumby-journey",
        documented_by="dunnhumby, The Complete Journey, user guide",
        write=_write_dunnhumby,
        time="transaction_data.csv:DAY",
        person="transaction_data.csv:household_key",
        item="transaction_data.csv:PRODUCT_ID",
        type="=purchase",
        item_profiles="product.csv:PRODUCT_ID",
        user_profiles="hh_demographic.csv:household_key",
        # Days count from a first day that the publisher does not tell.
        questions=frozenset({"time"}),
    ),
    Layout(
        name="tafeng-grocery-taiwan",
        documented_by="https://www.kaggle.com/datasets/chiranjivdas09/ta-feng-grocery-dataset",
        write=_write_tafeng,
        time="ta_feng_all_months_merged.csv:TRANSACTION_DT",
        person="ta_feng_all_months_merged.csv:CUSTOMER_ID",
        item="ta_feng_all_months_merged.csv:PRODUCT_ID",
        type="=purchase",
    ),
    Layout(
        name="spanish-shop-sales",
        documented_by="no publisher: sales of a Spanish shop's accounting, saved by Excel",
        write=_write_spanish,
        time="ventas.csv:Fecha",
        person="ventas.csv:Cliente",
        item="ventas.csv:Artículo",
        type="=purchase",
        user_profiles="clientes.csv:Cliente",
    ),
    Layout(
        name="brazilian-olist-orders",
        documented_by="https://www.kaggle.com/datasets/olistbr/brazilian-ecommerce",
        write=_write_olist,
        time="olist_orders_dataset.csv:order_purchase_timestamp",
        # A `customer_id` is made for each order.
        person="olist_customers_dataset.csv:customer_unique_id",
        item="olist_order_items_dataset.csv:product_id",
        type="=purchase",
        item_profiles="olist_products_dataset.csv:product_id",
        user_profiles="olist_customers_dataset.csv:customer_unique_id|olist_customers_dataset.csv:customer_id",
    ),
    Layout(
        name="hm-transactions",
        documented_by="https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations/data",
        write=_write_hm,
        time="transactions_train.csv:t_dat",
        person="transactions_train.csv:customer_id",
        item="transactions_train.csv:article_id",
        type="=purchase",
        item_profiles="articles.csv:article_id",
        user_profiles="customers.csv:customer_id",
    ),
)
