"""A bundle scores as the model it was written from, or is refused with a sentence; it never serves
something else.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.support.shops import ranking_world

from tailorbird.candidates.query import CandidateColumns
from tailorbird.errors import BundleError
from tailorbird.ranking.bundle import Bundle, write_bundle
from tailorbird.ranking.head_sessions import run_heads
from tailorbird.ranking.onnx_session import start_session
from tailorbird.registry import Head, Manifest, Registry, read_sealed, seal

SCHEMA = "abc123abc123"


class Clock:
    def now(self):
        return ranking_world.T0


@pytest.fixture
def copy(bundle_folder, tmp_path):
    return shutil.copytree(bundle_folder, tmp_path / "bundle")


def test_scores_are_the_formula_over_calibrated_heads(bundle_folder):
    bundle = Bundle.load(bundle_folder, schema_hash=SCHEMA)
    numbers = list(range(20))
    rows, keys = ranking_world.make_rows(numbers, recent=[3, 4, 5]), ranking_world.keys_of(numbers)

    scores = bundle.score(rows, keys)

    raw = bundle.raw_scores(bundle.encoder.encode_request(rows, keys, bundle.index))
    click, purchase = 1 / (1 + np.exp(1 - raw["click"])), 1 / (1 + np.exp(3 - raw["purchase"]))
    np.testing.assert_allclose(scores.heads["click"], click)
    np.testing.assert_allclose(scores.value, click + 8 * purchase)
    only_clicks = bundle.score(rows, keys, objective={"click": 2.0})
    np.testing.assert_allclose(only_clicks.value, 2 * click)


def test_an_objective_may_name_a_head_that_is_not_there_but_not_only_such(bundle_folder):
    bundle = Bundle.load(bundle_folder, schema_hash=SCHEMA)
    rows, keys = ranking_world.make_rows([1, 2]), ranking_world.keys_of([1, 2])
    scores = bundle.score(rows, keys, objective={"click": 1.0, "dwell": 3.0})
    np.testing.assert_array_equal(scores.value, scores.heads["click"])
    with pytest.raises(BundleError, match="objective asks for dwell"):
        bundle.score(rows, keys, objective={"dwell": 3.0})


def test_a_net_scores_an_item_independently_of_the_batch():
    """In every bit, so that what a server scored among hundreds is made again of the few that it
    showed (`models verify`).
    """
    draw = np.random.default_rng(2)
    weights = draw.standard_normal((31, 1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Log", ["x"], ["logs"]),
            helper.make_node("MatMul", ["logs", "w"], ["sum"]),
            helper.make_node("Sigmoid", ["sum"], ["probability"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 31])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    sessions, heads = (
        {"net": start_session(model.SerializeToString(), where="net")},
        [Head("click", "net")],
    )
    rows = draw.uniform(1, 1_000, (96, 31)).astype(np.float32)
    all_scores = run_heads(sessions, heads, rows)["click"]
    for many in range(1, 30):
        sample = draw.integers(0, 96, many)
        assert (
            run_heads(sessions, heads, np.ascontiguousarray(rows[sample]))["click"].tolist()
            == all_scores[sample].tolist()
        ), many


def test_no_items_are_no_scores(bundle_folder):
    bundle = Bundle.load(bundle_folder, schema_hash=SCHEMA)
    assert bundle.score(ranking_world.make_rows([]), ranking_world.keys_of([])).value.shape == (0,)


def test_a_bundle_for_other_features_is_refused(bundle_folder):
    with pytest.raises(BundleError, match="not on ffffffffffff"):
        Bundle.load(bundle_folder, schema_hash="ffffffffffff")
    assert Bundle.load(bundle_folder, schema_hash=None).schema_hash == SCHEMA


def test_scores_survive_the_registry(bundle_folder, tmp_path):
    registry = Registry(tmp_path / "registry", clock=Clock())
    version = registry.add(bundle_folder)
    registry.promote(version, by="test", why="first")
    served = Bundle.load(registry.champion_folder(), schema_hash=SCHEMA)
    assert served.version == "v0001"
    rows, keys = ranking_world.make_rows([1, 2, 3], recent=[7]), ranking_world.keys_of([1, 2, 3])
    written = Bundle.load(bundle_folder, schema_hash=SCHEMA)
    np.testing.assert_array_equal(served.score(rows, keys).value, written.score(rows, keys).value)


def test_every_flipped_byte_is_refused(copy):
    """One bit in each file, at three places each; the manifest and its checksum included."""
    rng = np.random.default_rng(0)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    for path in files:
        original = path.read_bytes()
        for at in {0, len(original) - 1, int(rng.integers(len(original)))} if original else ():
            broken = bytearray(original)
            broken[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(broken))
            if path.name == "manifest.sha256" and broken.strip() == original.strip():
                continue  # the newline at its end
            with pytest.raises(BundleError):
                Bundle.load(copy, schema_hash=SCHEMA)
        path.write_bytes(original)
    Bundle.load(copy, schema_hash=SCHEMA)


def test_cut_longer_missing_and_extra_files_are_refused(copy):
    model = copy / "model" / "all.onnx"
    original = model.read_bytes()
    for content in (original[:-1], original + b"\0", b""):
        model.write_bytes(content)
        with pytest.raises(BundleError, match=r"all\.onnx"):
            Bundle.load(copy, schema_hash=SCHEMA)
    model.unlink()
    with pytest.raises(BundleError, match=r"all\.onnx is missing"):
        Bundle.load(copy, schema_hash=SCHEMA)
    model.write_bytes(original)
    (copy / "index" / "surprise.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"index/surprise\.bin is not in the manifest"):
        Bundle.load(copy, schema_hash=SCHEMA)


def test_links_are_refused(copy, tmp_path):
    model = copy / "model" / "all.onnx"
    outside = tmp_path / "outside.onnx"
    shutil.move(model, outside)
    model.symlink_to(outside)
    with pytest.raises(BundleError, match="is a link"):
        Bundle.load(copy, schema_hash=SCHEMA)
    model.unlink()
    os.link(outside, model)
    with pytest.raises(BundleError, match="hard link"):
        Bundle.load(copy, schema_hash=SCHEMA)
    model.unlink()
    shutil.copy(outside, model)
    shutil.move(copy / "model", tmp_path / "elsewhere")
    (copy / "model").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is a link"):
        Bundle.load(copy, schema_hash=SCHEMA)
    pipe = copy / "pipe"
    (copy / "model").unlink()
    shutil.move(tmp_path / "elsewhere", copy / "model")
    os.mkfifo(pipe)
    with pytest.raises(BundleError, match="pipe is not in the manifest"):
        Bundle.load(copy, schema_hash=SCHEMA)


@pytest.mark.parametrize(
    "where",
    ["../secret.bin", "/etc/hostname", "weights.bin", "model/weights.bin", "*/_ORT_MEM_ADDR_/*"],
)
def test_a_model_with_tensors_in_another_file_is_refused(copy, where, tmp_path, monkeypatch):
    encoder = ranking_world.make_encoder()
    (tmp_path / "weights.bin").write_bytes(
        b"\0" * 4096
    )  # what from-bytes loading would read from the current directory
    monkeypatch.chdir(tmp_path)
    (copy / "model" / "all.onnx").write_bytes(
        ranking_world.make_linear_model(len(encoder.names), external=where)
    )
    seal(copy, read_manifest(copy))
    with pytest.raises(BundleError, match="keeps a tensor in another file"):
        Bundle.load(copy, schema_hash=SCHEMA)


def test_a_model_that_answers_its_golden_rows_differently_is_refused(copy):
    width = len(ranking_world.make_encoder().names)
    (copy / "model" / "all.onnx").write_bytes(ranking_world.make_linear_model(width, seed=5))
    seal(copy, read_manifest(copy))
    with pytest.raises(BundleError, match="golden rows differently"):
        Bundle.load(copy, schema_hash=SCHEMA)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no model",
        b"\x00" * 100,
        b"\xff" * 100,
        b"\x08\x07ORTM" + b"\0" * 50,
        b"    ORTM" + b"\0" * 50,
    ],
)
def test_what_is_no_model_is_refused(copy, content):
    (copy / "model" / "all.onnx").write_bytes(content)
    seal(copy, read_manifest(copy))
    with pytest.raises(BundleError):
        Bundle.load(copy, schema_hash=SCHEMA)


def test_a_model_of_another_width_is_refused(copy):
    (copy / "model" / "all.onnx").write_bytes(ranking_world.make_linear_model(3))
    seal(copy, read_manifest(copy))
    with pytest.raises(BundleError, match="one float matrix"):
        Bundle.load(copy, schema_hash=SCHEMA)


def read_manifest(folder):
    """The manifest as it is, before a test changes what it describes."""
    return msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)


def test_sealing_again_repairs_a_bundle(copy):
    (copy / "notes.txt").write_text("added")
    seal(copy, read_manifest(copy))
    assert "notes.txt" in read_sealed(copy).manifest.files


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_damage_under_fitting_checksums_is_refused_or_harmless_and_never_crashes(copy, seed):
    command = [sys.executable, "-m", "tests.ranking.mutants", copy, str(seed), "80"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, cwd=root
    )
    assert done.returncode == 0, done.stderr[-2000:]
    refused, loaded = map(int, done.stdout.split())
    assert refused + loaded == 80
    assert refused > 40


def test_without_heads_it_is_an_index_alone(bundle_folder, tmp_path):
    encoder = Bundle.load(bundle_folder, schema_hash=SCHEMA).encoder
    manifest = write_bundle(
        tmp_path / "index-alone",
        created_at=1,
        schema_hash=SCHEMA,
        encoder=encoder,
        models={},
        heads=[],
        index=bundle_folder / "index",
        golden=np.zeros((0, 0), np.float32),
        baseline="item_knn+popular:24h",
    )
    assert manifest.heads == ()
    assert manifest.sources == ("item_knn", "popular:24h")
    bundle = Bundle.load(tmp_path / "index-alone", schema_hash=SCHEMA)
    assert bundle.heads == ()
    assert (bundle.baseline, bundle.sources) == ("item_knn+popular:24h", manifest.sources)
    assert len(bundle.index) > 0


@pytest.mark.parametrize(
    "changed",
    [{"sources": ("popular:24h", "crowd")}, {"baseline": "crowd"}, {"baseline": "search"}],
)
def test_a_bundle_that_reads_sources_which_are_none_is_refused(copy, changed):
    seal(copy, msgspec.structs.replace(read_manifest(copy), **changed))
    with pytest.raises(BundleError, match=r"unknown source 'crowd'|'search' orders no items"):
        Bundle.load(copy, schema_hash=SCHEMA)


def test_sources_of_the_encoder_are_in_the_manifest(tmp_path):
    live = CandidateColumns(("trending", "item_knn:2"))
    encoder = ranking_world.make_encoder(candidates=live, computed=live.names)
    models, golden = (
        {"model/all.onnx": ranking_world.make_linear_model(len(encoder.names))},
        np.zeros((1, len(encoder.names)), np.float32),
    )
    ranking_world.make_bundle(tmp_path / "bundle", encoder=encoder, models=models, golden=golden)
    bundle = Bundle.load(tmp_path / "bundle", schema_hash=SCHEMA)
    assert bundle.sources == ("trending", "item_knn:2")
    rows, keys = ranking_world.make_rows([1, 2]), ranking_world.keys_of([1, 2])
    live_columns = np.ones((2, 4), np.float32)
    expected = bundle.score_matrix(
        bundle.encoder.encode_request(rows, keys, bundle.index, live=live_columns)
    )
    np.testing.assert_array_equal(
        bundle.score(rows, keys, live_columns=live_columns).value, expected.value
    )
    assert (bundle.score(rows, keys).value != expected.value).all()
