"""Transforms as a project declares them: what is wrong is told with the line; what is right moves
no schema.
"""

import inspect

import pytest

from tailorbird import features
from tailorbird.errors import DeclarationError
from tailorbird.features import load_features, transforms
from tailorbird.features.transform_checks import check_heads
from tailorbird.features.transforms import Transform, log, target, transform

HEAD = """
from tailorbird.features import attribute, context, count, entity, sequence
from tailorbird.features.transforms import (
    clip, frequency, hashing, impute, log, ranks, standardise, target, transform, vectors,
    vocabulary,
)
item, user = entity("item"), entity("user")
attribute("price", item, "price", kind="numeric")
attribute("category", item, "category", kind="categorical")
count("clicks", item, "click", window="1d")
sequence("recent", user, "click")
"""
LINE = HEAD.count("\n") + 1


def load(tmp_path, text):
    (tmp_path / "features.py").write_text(HEAD + text)
    return load_features(tmp_path / "features.py")


def test_they_are_collected_in_order_and_are_no_part_of_the_schema(tmp_path):
    base_set = load(tmp_path, "")
    features = load(
        tmp_path,
        'transform("price", log(), clip(), standardise(), impute("median"), indicator=True)\n'
        'transform("category")\n'
        'transform("category", target("click", smoothing=20))\n'
        'transform("category", impute("constant", "none"), frequency(), log(), name="common")\n'
        'transform("category", hashing(64), name="bucket")\n'
        'transform("category", vectors({"hats": [1, 2], "shoes": [0, 1]}, trained_until=0))\n',
    )
    assert base_set.transforms == ()
    assert features.schema_hash == base_set.schema_hash
    assert [name for one in features.transforms for name in one.outputs] == [
        "price",
        "price_missing",
        "category",
        "category_target_click",
        "common",
        "bucket",
        "category_vector_0",
        "category_vector_1",
    ]
    assert features.transforms[2].heads == ("click",)
    assert features.transforms[0].location == f"{tmp_path}/features.py:{LINE}"


def test_no_call_of_it_is_called_as_one_of_the_vocabulary_is():
    calls = {
        name
        for name, one in vars(transforms).items()
        if inspect.isfunction(one) and one.__module__ == transforms.__name__
    }
    assert calls & {"log", "ranks", "target"}
    assert not calls & set(features.__all__)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('transform("colour", log())', "there is no column 'colour'"),
        ('transform("recent", log())', "recent is a sequence"),
        ('transform("category", log())', "log takes a number, and category is a category there"),
        (
            'transform("category", vocabulary(), standardise())',
            "standardise takes a number, and category is a code there",
        ),
        (
            'transform("category", hashing(), impute("mean"))',
            "impute takes a number, and category is a code there",
        ),
        (
            'transform("price", vocabulary())',
            "vocabulary takes a category, and price is a number there",
        ),
        ('transform("price", target("click"))', "target takes a category"),
        (
            'transform("category", frequency(), target("click"))',
            "target takes a category, and category is a number there",
        ),
        ('transform("category", impute("mean"), frequency())', "a category has no mean"),
        (
            'transform("category", impute("constant", 3), frequency())',
            "expected a text for category, got 3",
        ),
        (
            'transform("price", impute("constant", "cheap"))',
            "expected a number for price, got 'cheap'",
        ),
        ('transform("price", impute("constant"))', "a constant needs a number or a text"),
        (
            'transform("price", impute("constant", float("nan")))',
            "a constant needs a number or a text",
        ),
        ('transform("price", impute("mean", 3))', "mean takes no value"),
        ('transform("price", impute("average"))', "expected one of mean, median, mode, constant"),
        ('transform("price", log)', "is no step"),
        ('transform("price", clip(3, 2))', "low <= high"),
        ('transform("price", clip(high=float("inf")))', "expected a number"),
        ('transform("price", clip(quantiles=(0.9, 0.1)))', "expected quantiles"),
        ('transform("price", ranks(1))', "expected 2 to"),
        ('transform("category", hashing(1 << 30))', "buckets"),
        ('transform("category", target("click", smoothing=-1))', "smoothing >= 0"),
        ('transform("category", target(3))', "expected the name of a head"),
        ('transform("category", frequency(count_min=0))', "count_min"),
        ('transform("category", vocabulary(size_max=1 << 30))', "size_max"),
        ('transform("category", vectors({}, trained_until=0))', "at least one vector"),
        (
            'transform("category", vectors({"a": [1], "b": [1, 2]}, trained_until=0))',
            "all of one length",
        ),
        ('transform("category", vectors({"a": [float("nan")]}, trained_until=0))', "finite"),
        ('transform("category", vectors({"a": ["x"]}, trained_until=0))', "a list of numbers"),
        ('transform("category", vectors({"a": [1.0]}, trained_until=-1))', "trained_until"),
        (
            'transform("price", log(), name="clicks")',
            "a column of the matrix is called clicks, as a feature is",
        ),
        (
            'transform("price", log(), name="recent_age")',
            "a column of the matrix is called recent_age, as one of every model is",
        ),
        (
            'transform("category", ranks())',
            "ranks takes a number, and category is a category there",
        ),
        ('transform("price", log(), name="a b")', "letters, digits and _"),
    ],
)
def test_errors_are_reported_with_their_line(tmp_path, text, message):
    with pytest.raises(DeclarationError) as caught:
        load(tmp_path, f"\n{text}\n")
    assert message in str(caught.value)
    assert f"features.py:{LINE + 1}" in str(caught.value)


def test_two_columns_of_one_name_are_refused_where_the_second_is(tmp_path):
    with pytest.raises(
        DeclarationError,
        match=rf"features.py:{LINE + 1}: .*is called price, as at .*features.py:{LINE}",
    ):
        load(tmp_path, 'transform("price", log())\ntransform("price")\n')


def test_a_target_without_a_slot_is_reported_with_its_line():
    made = transform("category", target("buy"))
    check_heads([made], ["buy", "click"])
    with pytest.raises(
        DeclarationError,
        match=r"test_transforms.py:\d+: transform: 'buy' is no head .*\n.*click, purchase",
    ):
        check_heads([made], ["purchase", "click"])


def test_outside_of_a_project_a_transform_is_a_value():
    assert transform("price", log()) == Transform("price", (log(),))
