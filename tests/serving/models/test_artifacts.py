"""A champion that somebody tampered with, or that is broken, as servers meet it: it is refused, the
one before answers, an alarm counts.

What exactly is refused in a bundle, and with which sentence, is in `tests/ranking`; here each kind
of damage goes all the way to an answer.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.support.serving.pipeline import item_numbers
from tests.support.serving.rollout import CaughtUpSchemas, make_pipeline
from tests.support.shops import ranking_world, serving_shop

from tailorbird.events import SystemClock
from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import Manifest, Registry, seal
from tailorbird.serving.messages import RecommendQuery
from tailorbird.serving.metrics import Metrics
from tailorbird.serving.models.bundles import probe_in_child
from tailorbird.serving.models.rollout import Rollout

MODEL = Path("model") / "click.onnx"


class Site:
    """A registry whose first version serves; the second is to be damaged and then named the
    champion, without any check.
    """

    def __init__(self, folder: Path, features, bundle_folder: Path, probe=None) -> None:
        self.registry = Registry(folder / "registry", clock=SystemClock())
        for _ in range(2):
            self.registry.add(bundle_folder)
        self.registry.promote("v0001", by="test", why="first")
        self.metrics = Metrics()
        self.rollout = Rollout(
            self.registry,
            lambda path: Bundle.load(path, schema_hash=features.schema_hash),
            self.metrics,
            CaughtUpSchemas(),
            probe=probe,
        )
        self.rollout.tick()
        self.pipeline = make_pipeline(self.rollout, features)
        self.before = self.pipeline.answer(RecommendQuery(slot="home", user_id="u1"))
        self.damaged = self.registry.path / "v0002"

    def name_it(self) -> None:
        aliases = msgspec.structs.replace(
            self.registry.aliases(), champion="v0002", history=("v0001",)
        )
        fresh = self.registry.path / "aliases.mishap"
        fresh.write_bytes(msgspec.json.encode(aliases))
        fresh.rename(self.registry.path / "aliases.json")
        self.rollout.tick()

    def alarms(self) -> float:
        return float(
            self.metrics.text()
            .decode()
            .partition("\ntailorbird_bundle_load_failures_total ")[2]
            .split()[0]
        )

    def require_unmoved(self) -> None:
        """Require that the promoted bundle does not serve, and answers are as before and lack
        nothing.
        """
        answer = self.pipeline.answer(RecommendQuery(slot="home", user_id="u1"))
        assert (answer.model, answer.degraded, item_numbers(answer)) == (
            "v0001",
            [],
            item_numbers(self.before),
        )
        assert self.alarms() == 1


@pytest.fixture
def site(tmp_path, features, bundle_folder):
    return Site(tmp_path, features, bundle_folder)


def resealed(folder: Path) -> None:
    """Checksums that fit what lies there now, as whoever may write to the registry could make
    them.
    """
    seal(folder, msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest))


def external(where: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / MODEL).write_bytes(ranking_world.make_linear_model(3, external=where))
        resealed(folder)

    return damage


def flipped(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 4
        (folder / name).write_bytes(data)

    return damage


def deleting(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return damage


def linked(folder: Path) -> None:
    shutil.move(folder / MODEL, folder.parent / "outside.onnx")
    (folder / MODEL).symlink_to(folder.parent / "outside.onnx")


def hard_linked(folder: Path) -> None:
    os.link(folder / MODEL, folder.parent / "outside.onnx")


def pointing_outside(folder: Path) -> None:
    manifest = (
        (folder / "manifest.json")
        .read_bytes()
        .replace(b'"model/click.onnx": {', b'"../outside.onnx": {')
    )
    (folder / "manifest.json").write_bytes(manifest)
    import hashlib

    (folder / "manifest.sha256").write_text(hashlib.sha256(manifest).hexdigest())


def not_finite_golden(folder: Path) -> None:
    golden = np.load(folder / "golden_input.npy")
    np.save(folder / "golden_input.npy", np.full_like(golden, np.inf))
    resealed(folder)


def other_schema(folder: Path) -> None:
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    seal(folder, msgspec.structs.replace(manifest, schema_hash="0" * 12))


def no_model(folder: Path) -> None:
    (folder / MODEL).write_bytes(b"\xff" * 100)
    resealed(folder)


DAMAGES = {
    **{
        f"a tensor in {where}": external(where)
        for where in ("../secret.bin", "/etc/hostname", "weights.bin", "*/_ORT_MEM_ADDR_/*")
    },
    **{
        f"a bit of {name}": flipped(name)
        for name in (
            str(MODEL),
            "encoder.json",
            "calibration.json",
            "index/items.arrow",
            "manifest.json",
        )
    },
    **{f"{name} gone": deleting(name) for name in (str(MODEL), "index", "manifest.sha256")},
    "a link": linked,
    "a hard link": hard_linked,
    "a path outside": pointing_outside,
    "outputs that are no numbers": not_finite_golden,
    "another schema": other_schema,
    "no model at all": no_model,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_champion_is_refused_the_one_before_answers_and_an_alarm_counts(site, damage):
    for path in site.damaged.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    damage(site.damaged)
    site.name_it()
    site.require_unmoved()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "expected_message"), [("kill", "by signal 9"), ("stall:30", "took more than")]
)
def test_a_model_that_ends_or_holds_its_loader_does_so_to_a_child_alone(
    tmp_path, features, bundle_folder, monkeypatch, fault, expected_message
):
    monkeypatch.setattr(
        "tailorbird.serving.models.bundles.PROBE_TIMEOUT_S", 3.0 if fault != "kill" else 60.0
    )
    probed = []

    def probe(folder: Path) -> None:
        probed.append(folder.name)
        if folder.name == "v0002":
            monkeypatch.setenv("TAILORBIRD_FAULTS", f"serving.probe={fault}")
            probe_in_child(folder)

    site = Site(tmp_path, features, bundle_folder, probe=probe)
    site.name_it()
    assert "v0002" in probed
    assert expected_message in site.rollout.champion.problem
    site.require_unmoved()


def test_a_model_that_passes_its_golden_rows_and_gives_no_numbers_later_is_left_for_the_one_before(
    site, features, tmp_path
):
    version = site.registry.add(serving_shop.write_nan_bundle(tmp_path / "nan", features))
    site.registry.promote(version, by="test", why="its golden rows were fine")
    site.rollout.tick()
    answer = site.pipeline.answer(RecommendQuery(slot="home", user_id="u1"))
    assert (answer.model, answer.degraded, item_numbers(answer)) == (
        "v0001",
        ["previous_model"],
        item_numbers(site.before),
    )
    site.registry.rollback(by="test", why="no numbers")
    site.rollout.tick()
    assert site.pipeline.answer(RecommendQuery(slot="home", user_id="u1")).degraded == []
