"""Nets learn what is there, say it with the right prior, come out of the same seed the same, and
answer from ONNX as they were trained.
"""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: pip install 'tailorbird[deep]'")

from tests.support.nets import LAYOUT, make_rows  # noqa: E402

from tailorbird.errors import UsageError  # noqa: E402
from tailorbird.models.architectures import fit  # noqa: E402
from tailorbird.models.deep.checkpoint import copy_weights  # noqa: E402
from tailorbird.models.deep.fitting import NETS, fit_net  # noqa: E402
from tailorbird.models.deep.layout import build_layout  # noqa: E402
from tailorbird.models.deep.model import initialise_net  # noqa: E402
from tailorbird.models.deep.parameters import resolve_parameters  # noqa: E402
from tailorbird.models.deep.rows import Rows, write_parts  # noqa: E402
from tailorbird.models.export import INPUT, OUTPUT, TOLERANCE  # noqa: E402
from tailorbird.ranking.onnx_check import check_onnx  # noqa: E402

SMALL = {"hidden": [16, 8], "epochs": 2, "threads": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "numeric"), [("mlp", "standardise"), ("dcn", "quantile"), ("mmoe", "periodic")]
)
def test_the_export_answers_as_the_net_on_10_000_rows(architecture: str, numeric: str) -> None:
    rows = make_rows(10_000)
    rows.matrix[3, 0], rows.matrix[4, 1], rows.matrix[5] = np.inf, -np.inf, np.nan
    model = fit(architecture, {**SMALL, "epochs": 1, "numeric": numeric, "tower": []}, LAYOUT, rows)
    files, places = model.export()
    (data,) = files.values()
    check_onnx(data, where=architecture)
    assert b"/site-packages/" not in data, "no path of the machine that exported it"
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    ours = model.score(rows.matrix)
    for size in (1, 7, 10_000):  # the batch is free
        probabilities = session.run([OUTPUT], {INPUT: rows.matrix[:size]})[0]
        for head, place in places.items():
            assert np.abs(probabilities[:, place.column] - ours[head][:size]).max() <= TOLERANCE
    assert np.isfinite(probabilities).all()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", NETS)
def test_each_architecture_learns(architecture: str) -> None:
    rows, later = make_rows(12_000), make_rows(4_000, seed=1)
    model = fit(architecture, {**SMALL, "epochs": 4, "rate": 3e-3}, LAYOUT, rows, later)
    for head, label in later.labels.items():
        rate = label.mean()
        chance = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
        assert min(model.curve[f"validation_{head}"]) < chance - 0.02
        assert label[model.score(later.matrix)[head] > rate].mean() > 1.35 * rate


def test_the_reference_net_is_as_documented() -> None:
    parameters = resolve_parameters("mlp", {})
    layers = initialise_net(LAYOUT, make_rows(500), ["click"], parameters, 7).parts[0].layers
    assert [str(layer).partition("(")[0] for layer in layers] == [
        "Linear",
        "ReLU",
        "Dropout",
        "Linear",
        "ReLU",
    ]
    assert (layers[0].out_features, layers[2].p, layers[3].out_features) == (128, 0.2, 64)
    assert (parameters.epochs, parameters.batch, parameters.patience, parameters.weight_decay) == (
        10,
        256,
        0,
        0.0,
    )
    model = fit("mlp", {"threads": 1}, LAYOUT, make_rows(1_500).select_heads(["click"]))
    assert len(model.curve["validation"]) == 10, "the newest fifth is watched, and ends nothing"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_from_memory_and_from_files(tmp_path: Path) -> None:
    rows, later = make_rows(6_000, block_rows=500), make_rows(1_000, seed=1)
    cuts = (slice(3_100), slice(3_100, 3_200), slice(3_200, None))
    pieces = [
        Rows(rows.matrix[cut], {head: label[cut] for head, label in rows.labels.items()})
        for cut in cuts
    ]
    parts = write_parts(tmp_path / "parts", pieces, block_rows=500)
    assert parts.sizes == rows.sizes
    parameters = {**SMALL, "negative_share": 0.5, "unknown_share": 0.1, "patience": 1}
    models = [
        fit_net("dcn", parameters, LAYOUT, each, later, seed=seed)
        for each, seed in ((rows, 3), (parts, 3), (rows, 4))
    ]
    one, same, other = (copy_weights(model.deep.net) for model in models)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "given", [{"expert_hidden": []}, {"expert_hidden": [16, 0]}, {"tower": [0]}, {"hidden": []}]
)
def test_layers_without_a_width_are_refused(given: dict) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(given))} is"):
        resolve_parameters("mmoe", given)
    assert resolve_parameters("mmoe", {"tower": []}).tower == (), (
        "a head may read the experts at once"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {"negative_share": 0.2},
        {"positive_weight": 6.0},
        {"positive_weight": 0, "negative_share": 0.3},
    ],
)
def test_weights_and_drawn_negatives_are_taken_off_again(parameters: dict) -> None:
    rows = make_rows(16_000)
    model = fit(
        "dcn",
        {**SMALL, "epochs": 3, "rate": 3e-3, **parameters},
        LAYOUT,
        rows,
        make_rows(2_000, seed=1),
    )
    for head, probabilities in model.score(rows.matrix).items():
        assert probabilities.mean() == pytest.approx(rows.labels[head].mean(), rel=0.15)


def test_an_unknown_label_counts_nothing() -> None:
    rows = make_rows(4_000)
    rows.labels["buy"][2_000:] = np.nan
    alone = Rows(rows.matrix[:2_000], {"buy": rows.labels["buy"][:2_000]})
    model = fit("mmoe", {**SMALL, "epochs": 5, "rate": 1e-2}, LAYOUT, rows, make_rows(500, seed=1))
    assert np.isfinite(model.curve["train_buy"]).all()
    assert model.score(rows.matrix)["buy"].mean() == pytest.approx(
        alone.labels["buy"].mean(), abs=0.05
    )


def test_who_watches_can_end_it() -> None:
    reports: list[tuple[int, float]] = []

    def watch(epoch: int, figures: dict) -> bool:
        reports.append((epoch, figures["validation"]))
        return epoch == 2

    for architecture in ("mlp", "gbdt"):
        reports.clear()
        model = fit(
            architecture,
            {"threads": 1},
            LAYOUT,
            make_rows(2_000).select_heads(["click"]),
            on_epoch=watch,
        )
        assert [epoch for epoch, _ in reports] == [1, 2]
        assert model.score(make_rows(10).matrix)["click"].shape == (10,)


def test_nets_over_ids_overfit_from_the_second_epoch_on() -> None:
    """Check that the training loss keeps falling while the later loss rises, as in click models."""
    rng = np.random.default_rng(2)

    def visits(rows: int) -> Rows:
        people = rng.integers(2, 6_002, rows)
        return Rows(
            people[:, None].astype(np.float32),
            {"click": (rng.random(rows) < 0.2).astype(np.float32)},
        )

    rows, later = visits(12_000), visits(4_000)
    parameters = {"rate": 1e-2, "epochs": 4, "dropout": 0.0, "threads": 1}
    of_ids = build_layout(["person"], {"person": 6_002})
    curve = fit("mlp", parameters, of_ids, rows, later).curve
    assert curve["train"][3] < curve["train"][0] - 0.05
    assert curve["validation"][3] > curve["validation"][0] + 0.05
    stopped = fit("mlp", {**parameters, "patience": 1}, of_ids, rows, later)
    assert stopped.deep.best_epoch_by_head == {"click": 1}
    assert len(stopped.curve["validation"]) == 2


@pytest.mark.parametrize(
    ("architecture", "parameters", "wrong"),
    [
        ("forest", {}, "no architecture 'forest'"),
        ("dcn", {"layers": 3}, "no parameter 'layers'"),
        ("dcn", {"numeric": "log"}, "numeric is 'log'"),
        ("mlp", {"dropout": 1.0}, "dropout is 1.0"),
        ("gbdt", {"depth": 3}, "no parameter 'depth'"),
    ],
)
def test_a_wrong_choice_is_named(architecture: str, parameters: dict, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        fit(architecture, parameters, LAYOUT, make_rows(100))


def test_one_class_is_refused() -> None:
    rows = Rows(make_rows(100).matrix, {"click": np.zeros(100, np.float32)})
    with pytest.raises(UsageError, match="0 positives and 80 negatives of click"):
        fit("mlp", {}, LAYOUT, rows)
