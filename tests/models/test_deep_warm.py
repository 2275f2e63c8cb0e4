"""Weights of the last training under new ids: known ids keep their rows, new ones begin as the
unknown, gone ones are dropped.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: pip install 'tailorbird[deep]'")

from tests.support.nets import LAYOUT, make_rows  # noqa: E402

from tailorbird.errors import DamageError, UsageError  # noqa: E402
from tailorbird.models.deep.checkpoint import copy_weights  # noqa: E402
from tailorbird.models.deep.fitting import fit_net  # noqa: E402
from tailorbird.models.deep.layout import Layout  # noqa: E402
from tailorbird.models.deep.parameters import resolve_parameters  # noqa: E402
from tailorbird.models.deep.warm import (  # noqa: E402
    WarmState,
    load_warm_state,
    read_newest_meta,
    remove_old_series,
    save_warm_state,
    series_name,
    warm_start,
)

SMALL = {"hidden": [16, 8], "epochs": 1, "threads": 1}
PLACE = 4  # of the column of codes
OLD = np.arange(100, 148, dtype=np.uint64)  # 48 ids behind missing and unknown
ITEMS = np.arange(500, 530, dtype=np.uint64)  # 30 of 40 codes; 8 are buckets


def state(layout: Layout = LAYOUT, until: int = 1) -> WarmState:
    model = fit_net("mmoe", SMALL, layout, make_rows(2_000), make_rows(500, seed=1)).deep
    return WarmState(
        "mmoe",
        model.parameters,
        model.heads,
        model.layout,
        {PLACE: OLD, 8: ITEMS},
        copy_weights(model.net),
        until,
    )


def test_rows_follow_their_ids(tmp_path: Path) -> None:
    save_warm_state(tmp_path, state())
    warm = load_warm_state(tmp_path)
    meta = read_newest_meta(tmp_path)
    assert (meta.heads, meta.layout, meta.trained_until) == (
        warm.heads,
        warm.layout,
        warm.trained_until,
    )
    assert warm is not None
    now = np.array([147, 100, 9_000], np.uint64)
    layout = replace(LAYOUT, code_cardinalities={PLACE: 2 + len(now)})
    start = warm_start(warm, layout, {PLACE: now, 8: ITEMS[::-1]}, ("click", "buy"))
    assert (start.added, start.dropped) == (1, 46)
    old, new = (
        each["parts.0.fields.code_embeddings.0.weight"] for each in (warm.weights, start.weights)
    )
    np.testing.assert_array_equal(new, old[[0, 1, 2 + 47, 2, 1]])
    old, new = (
        each["parts.0.fields.item_embedding.weight"] for each in (warm.weights, start.weights)
    )
    np.testing.assert_array_equal(new[2:32], old[2:32][::-1])
    np.testing.assert_array_equal(new[32:], old[32:])
    model = fit_net(
        "mmoe",
        {**SMALL, "rate": 1e-9},
        start.layout,
        make_rows(500),
        make_rows(100),
        initial_weights=start.weights,
    )
    np.testing.assert_allclose(
        copy_weights(model.deep.net)["parts.0.fields.code_embeddings.0.weight"],
        new_codes(start),
        atol=1e-5,
    )


def new_codes(start) -> np.ndarray:
    return start.weights["parts.0.fields.code_embeddings.0.weight"]


def test_nets_of_another_shape_are_of_another_series() -> None:
    heads = ("click", "buy")
    mine = series_name("mmoe", resolve_parameters("mmoe", {}), LAYOUT, heads)
    assert (
        series_name(
            "mmoe",
            resolve_parameters("mmoe", {"rate": 0.1, "epochs": 3}),
            replace(LAYOUT, code_cardinalities={PLACE: 7}),
            heads,
        )
        == mine
    )
    other_series = [
        series_name("shared", resolve_parameters("mmoe", {}), LAYOUT, heads),
        series_name("mmoe", resolve_parameters("mmoe", {"hidden": [8]}), LAYOUT, heads),
        series_name(
            "mmoe",
            resolve_parameters("mmoe", {}),
            replace(LAYOUT, columns=("other", *LAYOUT.columns[1:])),
            heads,
        ),
        series_name("mmoe", resolve_parameters("mmoe", {}), LAYOUT, heads[::-1]),
    ]
    assert len({mine, *other_series}) == 5


def test_the_series_that_were_trained_last_are_stored(tmp_path: Path) -> None:
    for series, until in (("a", 3), ("b", 1), ("c", 2)):
        (tmp_path / series).mkdir()
        (tmp_path / series / f"{until:020}.npz").touch()
    (
        tmp_path / f"{9:020}.npz"
    ).touch()  # as they lay there before there were series: nothing goes on from it
    remove_old_series(tmp_path, series_max=2)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "c"]


@pytest.mark.slow
def test_it_begins_where_the_last_one_ended() -> None:
    """One epoch from warm weights is better than one from scratch."""
    rows, later = make_rows(6_000, seed=5), make_rows(3_000, seed=6)
    first = fit_net(
        "dcn", {**SMALL, "epochs": 4, "rate": 3e-3}, LAYOUT, make_rows(10_000), later
    ).deep
    warm = WarmState(
        "dcn",
        first.parameters,
        first.heads,
        first.layout,
        {PLACE: OLD, 8: ITEMS},
        copy_weights(first.net),
        1,
    )
    start = warm_start(warm, LAYOUT, {PLACE: OLD, 8: ITEMS}, first.heads)
    ours = fit_net(
        "dcn", {**SMALL, "rate": 3e-3}, start.layout, rows, later, initial_weights=start.weights
    )
    scratch = fit_net("dcn", {**SMALL, "rate": 3e-3}, LAYOUT, rows, later)
    assert ours.curve["validation"][0] < scratch.curve["validation"][0] - 0.01


def test_only_the_newest_states_are_stored_and_a_damaged_one_is_reported(tmp_path: Path) -> None:
    warm = state()
    for until in (5, 1, 4, 2, 3):
        save_warm_state(tmp_path, replace(warm, trained_until=until), states_max=3)
    assert sorted(int(path.stem) for path in tmp_path.iterdir()) == [3, 4, 5]
    newest = load_warm_state(tmp_path)
    assert newest is not None
    assert newest.trained_until == 5
    (tmp_path / f"{5:020}.npz").write_bytes(b"PK cut")
    with pytest.raises(DamageError, match="train without --incremental"):
        load_warm_state(tmp_path)
    assert load_warm_state(tmp_path / "nothing") is None
    assert read_newest_meta(tmp_path) is read_newest_meta(tmp_path / "nothing") is None, (
        "it only words a note"
    )


def test_other_columns_or_heads_are_refused() -> None:
    warm = state()
    keys = {PLACE: OLD, 8: ITEMS}
    with pytest.raises(UsageError, match="the columns have changed"):
        warm_start(warm, replace(LAYOUT, columns=("other", *LAYOUT.columns[1:])), keys, warm.heads)
    with pytest.raises(UsageError, match="the heads have changed"):
        warm_start(warm, LAYOUT, keys, ("click",))
    with pytest.raises(UsageError, match="other buckets"):
        warm_start(warm, LAYOUT, {PLACE: OLD, 8: ITEMS[:20]}, warm.heads)
