"""Reviews and ratings of products, places, films, books and recipes."""

import csv
from pathlib import Path

import numpy as np

from benchmarks.first_files.held_out.drawing import (
    DAY,
    DIGITS,
    LOWER,
    UPPER,
    blank,
    draw_actions,
    draw_choices,
    draw_codes,
    draw_even,
    draw_numbers,
    draw_prices,
    draw_ratings,
    draw_texts,
    draw_titles,
    format_comma,
    format_times,
    pick,
    to_records,
    write_json_lines,
    write_table,
)
from benchmarks.first_files.layout import NONE, Layout

_FRENCH = (
    *("délicieux", "recette", "facile", "très", "bonne", "pâte", "crème", "gâteau", "poulet"),
    *("rôti", "légumes", "été", "sucré", "salé", "four", "œuf", "beurre", "j'ai", "ajouté", "un"),
    *("peu", "de", "thym", "à", "refaire", "parfait", "goûter", "où", "l'oignon"),
)


def _write_amazon(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 3)
    n_items = max(20, n_rows // 8)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2016-01-01",
        days=2700,
        per_session=1.5,
        gap_s=200,
        distinct="person",
    )
    n = len(actions)
    people = draw_codes(rng, n_people, 27, UPPER + "234567", "A")
    parents = draw_codes(rng, n_items, 8, UPPER + DIGITS, "B0")
    variants = draw_codes(rng, n_items, 8, UPPER + DIGITS, "B0")
    is_variant = rng.random(n) < 0.25
    asins = [
        variants[i] if other else parents[i]
        for i, other in zip(actions.item.tolist(), is_variant.tolist(), strict=True)
    ]
    pictures = draw_codes(rng, n, 11, UPPER + LOWER + DIGITS)
    has_picture = (rng.random(n) < 0.06).tolist()
    write_json_lines(
        folder / "All_Beauty.jsonl",
        to_records(
            {
                "rating": [float(r) for r in draw_ratings(rng, actions.item, n_items)],
                "title": draw_titles(rng, n),
                "text": draw_texts(rng, n),
                "images": [
                    [
                        {
                            "small_image_url": f"https://m.media-amazon.com/images/I/{code}._SL256_.jpg",
                            "medium_image_url": f"https://m.media-amazon.com/images/I/{code}._SL800_.jpg",
                            "large_image_url": f"https://m.media-amazon.com/images/I/{code}._SL1600_.jpg",
                            "attachment_type": "IMAGE",
                        }
                    ]
                    if has
                    else []
                    for code, has in zip(pictures, has_picture, strict=True)
                ],
                "asin": asins,
                "parent_asin": pick(parents, actions.item),
                "user_id": pick(people, actions.person),
                "timestamp": actions.second * 1000 + rng.integers(0, 1000, n),
                "helpful_vote": rng.geometric(0.6, n) - 1,
                "verified_purchase": (rng.random(n) < 0.9).tolist(),
            }
        ),
    )
    brands = draw_titles(rng, 60, n_words=(1, 2))
    write_json_lines(
        folder / "meta_All_Beauty.jsonl",
        to_records(
            {
                "main_category": ["All Beauty"] * n_items,
                "title": draw_titles(rng, n_items, n_words=(4, 9)),
                "average_rating": rng.normal(4, 0.4, n_items).clip(1, 5).round(1),
                "rating_number": rng.zipf(1.6, n_items).clip(1, 90_000),
                "features": [[text] for text in draw_titles(rng, n_items, n_words=(3, 6))],
                "description": [[] for _ in range(n_items)],
                "price": blank(rng, draw_prices(rng, n_items), 0.8),
                "images": [
                    [
                        {
                            "thumb": f"https://m.media-amazon.com/images/I/{code}._SS40_.jpg",
                            "large": f"https://m.media-amazon.com/images/I/{code}.jpg",
                            "variant": "MAIN",
                            "hi_res": None,
                        }
                    ]
                    for code in draw_codes(rng, n_items, 11, UPPER + LOWER + DIGITS)
                ],
                "videos": [[] for _ in range(n_items)],
                "store": blank(rng, draw_even(rng, brands, n_items), 0.1),
                "categories": [[] for _ in range(n_items)],
                "details": [
                    {"Brand": brand, "UPC": upc}
                    for brand, upc in zip(
                        draw_even(rng, brands, n_items),
                        draw_codes(rng, n_items, 12, DIGITS),
                        strict=True,
                    )
                ],
                "parent_asin": parents,
                "bought_together": [None] * n_items,
            }
        ),
    )


def _write_yelp(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 4)
    n_items = max(20, n_rows // 30)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2015-02-01",
        days=2500,
        per_session=1.4,
        gap_s=600,
    )
    n = len(actions)
    letters = UPPER + LOWER + DIGITS + "-_"
    people = draw_codes(rng, n_people, 22, letters)
    places = draw_codes(rng, n_items, 22, letters)
    write_json_lines(
        folder / "yelp_academic_dataset_review.json",
        to_records(
            {
                "review_id": draw_codes(rng, n, 22, letters),
                "user_id": pick(people, actions.person),
                "business_id": pick(places, actions.item),
                "stars": [float(r) for r in draw_ratings(rng, actions.item, n_items)],
                "useful": rng.geometric(0.5, n) - 1,
                "funny": rng.geometric(0.8, n) - 1,
                "cool": rng.geometric(0.7, n) - 1,
                "text": draw_texts(rng, n),
                "date": format_times(actions.second, "%Y-%m-%d %H:%M:%S"),
            }
        ),
    )
    cities = [("Philadelphia", "PA"), ("Tampa", "FL"), ("Nashville", "TN"), ("Reno", "NV")]
    in_city = draw_choices(rng, cities, n_items)
    kinds = ["Restaurants, Italian", "Shopping, Fashion", "Food, Coffee & Tea", "Nightlife, Bars"]
    write_json_lines(
        folder / "yelp_academic_dataset_business.json",
        to_records(
            {
                "business_id": places,
                "name": draw_titles(rng, n_items),
                "address": [f"{number} Main St" for number in rng.integers(1, 9000, n_items)],
                "city": [city for city, _ in in_city],
                "state": [state for _, state in in_city],
                "postal_code": draw_codes(rng, n_items, 5, DIGITS),
                "latitude": rng.uniform(27, 40, n_items).round(7),
                "longitude": rng.uniform(-120, -75, n_items).round(7),
                "stars": (rng.integers(2, 11, n_items) / 2),
                "review_count": rng.zipf(1.7, n_items).clip(5, 7000),
                "is_open": rng.integers(0, 2, n_items),
                "attributes": blank(
                    rng,
                    [
                        {"BusinessAcceptsCreditCards": "True", "WiFi": "u'free'"}
                        for _ in range(n_items)
                    ],
                    0.1,
                ),
                "categories": draw_choices(rng, kinds, n_items),
                "hours": blank(
                    rng, [{"Monday": "8:0-22:0", "Friday": "8:0-23:0"} for _ in range(n_items)], 0.2
                ),
            }
        ),
    )
    compliments = [
        "hot",
        "more",
        "profile",
        "cute",
        "list",
        "note",
        "plain",
        "cool",
        "funny",
        "writer",
        "photos",
    ]
    write_json_lines(
        folder / "yelp_academic_dataset_user.json",
        to_records(
            {
                "user_id": people,
                "name": draw_titles(rng, n_people, ["Ann", "Bob", "Cleo", "Dan", "Eve"], (1, 1)),
                "review_count": rng.zipf(1.7, n_people).clip(1, 9000),
                "yelping_since": format_times(
                    rng.integers(1_150_000_000, 1_420_000_000, n_people), "%Y-%m-%d %H:%M:%S"
                ),
                "useful": rng.zipf(1.7, n_people).clip(0, 90_000),
                "funny": rng.zipf(1.9, n_people).clip(0, 90_000),
                "cool": rng.zipf(1.9, n_people).clip(0, 90_000),
                "elite": draw_choices(rng, ["", "2016,2017", "2018,2019,20,2021"], n_people),
                "friends": draw_choices(rng, ["None", ", ".join(people[:3])], n_people),
                "fans": rng.geometric(0.5, n_people) - 1,
                "average_stars": rng.normal(3.7, 0.6, n_people).clip(1, 5).round(2),
                **{f"compliment_{name}": rng.geometric(0.8, n_people) - 1 for name in compliments},
            }
        ),
    )
    n_tips = n // 8
    rows = rng.integers(0, n, n_tips)
    write_json_lines(
        folder / "yelp_academic_dataset_tip.json",
        to_records(
            {
                "user_id": pick(people, actions.person[rows]),
                "business_id": pick(places, actions.item[rows]),
                "text": draw_titles(rng, n_tips, n_words=(3, 8)),
                "date": format_times(actions.second[rows] + 7200, "%Y-%m-%d %H:%M:%S"),
                "compliment_count": [0] * n_tips,
            }
        ),
    )
    write_json_lines(
        folder / "yelp_academic_dataset_checkin.json",
        (
            {
                "business_id": place,
                "date": ", ".join(
                    format_times(np.sort(rng.choice(actions.second, 5)), "%Y-%m-%d %H:%M:%S")
                ),
            }
            for place in places
        ),
    )


def _write_netflix(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 40)
    n_items = max(20, n_rows // 60)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2003-11-01",
        days=780,
        per_session=8,
        distinct="person",
    )
    people = np.array(draw_numbers(rng, n_people, 6, 2_649_430))
    films = np.arange(1, n_items + 1)
    # The training set is a file a film, so that the rows stand film after film.
    order = np.lexsort((actions.second, actions.item))
    write_table(
        folder / "ratings.csv",
        {
            "MovieID": films[actions.item][order],
            "CustomerID": people[actions.person][order],
            "Rating": np.array(draw_ratings(rng, actions.item, n_items))[order],
            "Date": format_times(actions.second[order], "%Y-%m-%d"),
        },
    )
    titles = draw_titles(rng, n_items)
    years = blank(rng, rng.integers(1930, 2006, n_items).tolist(), 0.02)
    lines = [
        # Commas in titles are not escaped.
        f"{film},{year or 'NULL'},{title}{', The' if film % 9 == 0 else ''}{' é' * (film % 31 == 0)}\n"
        for film, year, title in zip(films.tolist(), years, titles, strict=True)
    ]
    (folder / "movie_titles.txt").write_text("".join(lines), encoding="latin-1")


def _write_goodbooks(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 40)
    n_items = max(30, n_rows // 40)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2017-01-01",
        days=10,
        per_session=20,
        distinct="person",
    )
    n = len(actions)
    books = np.arange(1, n_items + 1)
    write_table(
        folder / "ratings.csv",
        {
            "user_id": actions.person + 1,
            "book_id": books[actions.item],
            "rating": draw_ratings(rng, actions.item, n_items),
        },
    )
    rows = rng.integers(0, n, n // 6)
    write_table(
        folder / "to_read.csv",
        {
            "user_id": np.sort(actions.person[rows]) + 1,
            "book_id": rng.integers(1, n_items + 1, len(rows)),
        },
    )
    goodreads = draw_numbers(rng, n_items, 1, 30_000_000)
    titles = draw_titles(rng, n_items)
    counts = rng.zipf(1.4, n_items).clip(2_000, 4_000_000)
    authors = ["Suzanne Collins", "J.K. Rowling, Mary GrandPré", "Harper Lee", "Haruki Murakami"]
    write_table(
        folder / "books.csv",
        {
            "book_id": books,
            "goodreads_book_id": goodreads,
            "best_book_id": goodreads,
            "work_id": draw_numbers(rng, n_items, 1, 50_000_000),
            "books_count": rng.integers(1, 300, n_items),
            "isbn": blank(rng, draw_codes(rng, n_items, 9, DIGITS), 0.07),
            "isbn13": blank(
                rng, [float(f"978{c}") for c in draw_codes(rng, n_items, 10, DIGITS)], 0.06
            ),
            "authors": draw_choices(rng, authors, n_items),
            "original_publication_year": [float(y) for y in rng.integers(1900, 2017, n_items)],
            "original_title": blank(rng, titles, 0.06),
            "title": titles,
            "language_code": blank(rng, draw_choices(rng, ["eng", "en-US", "en-GB"], n_items), 0.1),
            "average_rating": rng.normal(4, 0.25, n_items).round(2),
            "ratings_count": counts,
            "work_ratings_count": counts + 900,
            "work_text_reviews_count": counts // 40,
            **{f"ratings_{star}": counts * star // 15 for star in range(1, 6)},
            "image_url": [f"https://images.gr-assets.com/books/{g}m/{g}.jpg" for g in goodreads],
            "small_image_url": [
                f"https://images.gr-assets.com/books/{g}s/{g}.jpg" for g in goodreads
            ],
        },
    )
    tags = ["to-read", "favorites", "fantasy", "owned", "fiction", "classics"]
    write_table(folder / "tags.csv", {"tag_id": range(len(tags)), "tag_name": tags})
    write_table(
        folder / "book_tags.csv",
        {
            "goodreads_book_id": np.repeat(goodreads, 2),
            "tag_id": rng.integers(0, len(tags), 2 * n_items),
            "count": rng.zipf(1.5, 2 * n_items).clip(1, 600_000),
        },
    )


def _write_bookcrossing(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 10)
    n_items = max(20, n_rows // 4)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2004-08-01",
        days=30,
        per_session=8,
        distinct="person",
    )
    people = np.sort(draw_numbers(rng, n_people, 1, 278_859))
    books = [
        f"{code}{'X' if i % 11 == 0 else i % 10}"
        for i, code in enumerate(draw_codes(rng, n_items, 8, DIGITS, "0"))
    ]
    order = np.argsort(actions.person, kind="stable")
    n = len(actions)
    explicit = rng.integers(4, 11, n)
    ratings = np.where(rng.random(n) < 0.62, 0, explicit)
    write_table(
        folder / "BX-Book-Ratings.csv",
        {
            "User-ID": [str(p) for p in people[actions.person[order]]],
            "ISBN": pick(books, actions.item[order]),
            "Book-Rating": [str(r) for r in ratings],
        },
        delimiter=";",
        encoding="latin-1",
        quoting=csv.QUOTE_ALL,
        newline="\r\n",
    )
    titles = draw_titles(rng, n_items, ["Die", "Träume", "The", "Secret", "Garden", "Été", "Niños"])
    publishers = ["Ballantine Books", "Goldmann", "Penguin USA", "Éditions 10/18"]
    write_table(
        folder / "BX-Books.csv",
        {
            "ISBN": books,
            "Book-Title": [
                f"{title} &amp; Other Stories" if i % 13 == 0 else title
                for i, title in enumerate(titles)
            ],
            "Book-Author": draw_titles(rng, n_items),
            "Year-Of-Publication": [str(y) for y in rng.choice([0, *range(1970, 2004)], n_items)],
            "Publisher": draw_choices(rng, publishers, n_items),
            **{
                f"Image-URL-{size}": [
                    f"http://images.amazon.com/images/P/{book}.01.{form}ZZZZZZZ.jpg"
                    for book in books
                ]
                for size, form in (("S", "THUMB"), ("M", "MZ"), ("L", "LZ"))
            },
        },
        delimiter=";",
        encoding="latin-1",
        quoting=csv.QUOTE_ALL,
        newline="\r\n",
    )
    cities = [
        "köln, nordrhein-westfalen, germany",
        "seattle, washington, usa",
        "madrid, madrid, spain",
    ]
    ages = blank(rng, [f'"{age}"' for age in rng.integers(14, 75, n_people)], 0.4, "NULL")
    lines = [
        f'"{person}";"{city}";{age}\r\n'
        for person, city, age in zip(people, draw_choices(rng, cities, n_people), ages, strict=True)
    ]
    (folder / "BX-Users.csv").write_bytes(
        ('"User-ID";"Location";"Age"\r\n' + "".join(lines)).encode("latin-1")
    )


def _write_food(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 5)
    n_items = max(20, n_rows // 6)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2002-01-01",
        days=6000,
        per_session=2,
        distinct="person",
    )
    people = np.array(draw_numbers(rng, n_people, 1_500, 2_002_372_000))
    recipes = np.array(draw_numbers(rng, n_items, 40, 537_000))
    n = len(actions)
    stars = np.where(rng.random(n) < 0.05, 0, draw_ratings(rng, actions.item, n_items))
    order = rng.permutation(n)
    write_table(
        folder / "RAW_interactions.csv",
        {
            "user_id": people[actions.person[order]],
            "recipe_id": recipes[actions.item[order]],
            "date": format_times(actions.second[order], "%Y-%m-%d"),
            "rating": stars[order],
            "review": draw_texts(rng, n),
        },
    )
    ingredients = ["winter squash", "mexican seasoning", "honey", "butter", "olive oil", "salt"]
    n_steps = rng.integers(2, 12, n_items).tolist()
    n_parts = rng.integers(2, 7, n_items).tolist()
    write_table(
        folder / "RAW_recipes.csv",
        {
            "name": [title.lower() for title in draw_titles(rng, n_items, n_words=(3, 7))],
            "id": recipes,
            "minutes": rng.integers(1, 40, n_items) * 5,
            "contributor_id": rng.integers(1_500, 500_000, n_items),
            "submitted": format_times(
                rng.integers(935_000_000, 1_010_000_000, n_items), "%Y-%m-%d"
            ),
            "tags": draw_choices(
                rng,
                [
                    "['30-minutes-or-less', 'time-to-make', 'course']",
                    "['weeknight', 'main-dish', 'vegetables']",
                    "['desserts', 'easy', 'holiday-event']",
                ],
                n_items,
            ),
            "nutrition": [
                str([round(calories, 1), *rest])
                for calories, rest in zip(
                    rng.uniform(20, 900, n_items).tolist(),
                    rng.integers(0, 90, (n_items, 6)).astype(float).tolist(),
                    strict=True,
                )
            ],
            "n_steps": n_steps,
            "steps": [str([f"step {s} of the work" for s in range(k)]) for k in n_steps],
            "description": blank(rng, draw_texts(rng, n_items), 0.02),
            "ingredients": [str(ingredients[:k]) for k in n_parts],
            "n_ingredients": n_parts,
        },
    )


def _write_allrecipes(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 8)
    n_items = max(20, n_rows // 15)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2021-03-01",
        days=900,
        per_session=2,
        gap_s=300,
    )
    n = len(actions)
    people = np.array(draw_numbers(rng, n_people, 1000, 990_000))
    names = draw_codes(rng, n_people, 7, LOWER)
    recipes = np.array(draw_numbers(rng, n_items, 100, 60_000))
    write_table(
        folder / "avis.csv",
        {
            "N° avis": np.arange(n) + 310_045,
            "Identifiant membre": people[actions.person],
            "Pseudo": pick(names, actions.person),
            "Identifiant recette": recipes[actions.item],
            "Note": draw_ratings(rng, actions.item, n_items),
            "Déposé le": format_times(actions.second, "%d/%m/%Y %Hh%M"),
            "Commentaire": draw_texts(rng, n, _FRENCH),
        },
        delimiter=";",
        encoding="utf-8-sig",
    )
    write_table(
        folder / "recettes.csv",
        {
            "Identifiant recette": recipes,
            "Titre": draw_titles(rng, n_items, _FRENCH),
            "Catégorie": draw_choices(rng, ["Entrées", "Plats", "Desserts", "Apéritif"], n_items),
            "Préparation (min)": rng.integers(1, 12, n_items) * 5,
            "Cuisson (min)": rng.integers(0, 18, n_items) * 5,
            "Nombre de portions": rng.integers(2, 9, n_items),
            "Difficulté": draw_choices(rng, ["Facile", "Moyenne", "Difficile"], n_items),
            "Note moyenne": format_comma(rng.normal(4.1, 0.4, n_items).clip(1, 5), 1),
        },
        delimiter=";",
        encoding="utf-8-sig",
    )


def _write_tripadvisor(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 4)
    n_items = max(20, n_rows // 40)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2012-05-01",
        days=2500,
        per_session=1.3,
        distinct="person",
    )
    n = len(actions)
    hotels = [
        f"Hotel_Review-g{g}-d{d}-Reviews-{title.replace(' ', '_')}-City"
        for g, d, title in zip(
            rng.integers(100, 9_999_999, n_items),
            draw_numbers(rng, n_items, 10_000, 9_999_999),
            draw_titles(rng, n_items),
            strict=True,
        )
    ]
    authors = draw_codes(rng, n_people, 9, LOWER + DIGITS)
    ratings = draw_ratings(rng, actions.item, n_items)
    aspects = ["sleep quality", "value", "rooms", "service", "cleanliness", "location"]
    subset = (rng.random((n, len(aspects))) < 0.35).tolist()
    write_json_lines(
        folder / "HotelRec.txt",
        to_records(
            {
                "hotel_url": pick(hotels, actions.item),
                "author": pick(authors, actions.person),
                "date": format_times(actions.second // DAY * DAY, "%Y-%m-%dT%H:%M:%S"),
                "rating": [float(r) for r in ratings],
                "title": draw_titles(rng, n, n_words=(2, 6)),
                "text": draw_texts(rng, n),
                "property_dict": [
                    {a: float(r) for a, has in zip(aspects, flags, strict=True) if has}
                    for flags, r in zip(subset, ratings, strict=True)
                ],
            }
        ),
    )


LAYOUTS = (
    Layout(
        name="amazon-reviews-2023",
        documented_by="https://amazon-reviews-2023.github.io/",
        write=_write_amazon,
        time="All_Beauty.jsonl:timestamp",
        person="All_Beauty.jsonl:user_id",
        item="All_Beauty.jsonl:parent_asin|All_Beauty.jsonl:asin",
        type="=rating",
        item_profiles="meta_All_Beauty.jsonl:parent_asin",
    ),
    Layout(
        name="yelp-reviews",
        documented_by="https://www.yelp.com/dataset/documentation/main",
        write=_write_yelp,
        time="yelp_academic_dataset_review.json:date",
        person="yelp_academic_dataset_review.json:user_id",
        item="yelp_academic_dataset_review.json:business_id",
        type="=rating",
        item_profiles="yelp_academic_dataset_business.json:business_id",
        user_profiles="yelp_academic_dataset_user.json:user_id",
    ),
    Layout(
        name="netflix-prize-rows",
        documented_by="README of the Netflix Prize's training set, its files joined to rows",
        write=_write_netflix,
        time="ratings.csv:Date",
        person="ratings.csv:CustomerID",
        item="ratings.csv:MovieID",
        type="=rating",
        item_profiles="movie_titles.txt:#1",
    ),
    Layout(
        name="goodbooks-no-time",
        documented_by="https://github.com/zygmuntz/goodbooks-10k",
        write=_write_goodbooks,
        time=NONE,
        person="ratings.csv:user_id",
        item="ratings.csv:book_id",
        type="=rating",
        item_profiles="books.csv:book_id",
    ),
    Layout(
        name="bookcrossing-latin1",
        documented_by="http://www2.informatik.uni-freiburg.de/~cziegler/BX/",
        write=_write_bookcrossing,
        time=NONE,
        person="BX-Book-Ratings.csv:User-ID",
        item="BX-Book-Ratings.csv:ISBN",
        type="=rating",
        item_profiles="BX-Books.csv:ISBN",
        user_profiles="BX-Users.csv:User-ID",
    ),
    Layout(
        name="recipes-food-com",
        documented_by="https://www.kaggle.com/datasets/shuyangli94/food-com-recipes-and-user-interactions",
        write=_write_food,
        time="RAW_interactions.csv:date",
        person="RAW_interactions.csv:user_id",
        item="RAW_interactions.csv:recipe_id",
        type="=rating",
        item_profiles="RAW_recipes.csv:id",
    ),
    Layout(
        name="allrecipes-french",
        documented_by="no publisher: a French recipe site's reviews in French columns",
        write=_write_allrecipes,
        time="avis.csv:Déposé le",
        person="avis.csv:Identifiant membre|avis.csv:Pseudo",
        item="avis.csv:Identifiant recette",
        type="=rating",
        item_profiles="recettes.csv:Identifiant recette",
    ),
    Layout(
        name="tripadvisor-reviews",
        documented_by="https://github.com/Diego999/HotelRec",
        write=_write_tripadvisor,
        time="HotelRec.txt:date",
        person="HotelRec.txt:author",
        item="HotelRec.txt:hotel_url",
        type="=rating",
    ),
)
