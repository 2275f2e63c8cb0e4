"""`tailorbird doctor` names the models that servers refuse."""

from pathlib import Path

from tailorbird.cli.init import init
from tailorbird.config import open_project
from tailorbird.events import SystemClock
from tailorbird.platform.diagnostics.models import check_models
from tailorbird.registry import Manifest, Registry, seal

CHURN = 'from tailorbird.ranking import Churn\n\nleaving = Churn("leaving")\n'


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)


def test_a_flipped_bit_is_an_error_in_the_champion_and_a_warning_in_others(tmp_path: Path) -> None:
    init(tmp_path / "shop", json=True)
    (tmp_path / "shop/churn.py").write_text(CHURN)
    project = open_project(tmp_path / "shop")
    assert list(check_models(project)) == []
    for folder in (project.paths.registry, project.paths.churn("leaving")):
        registry = Registry(folder, clock=SystemClock())
        for n in range(2):
            bundle = tmp_path / f"bundle-{folder.name}-{n}"
            bundle.mkdir()
            (bundle / "model.onnx").write_bytes(b"weights")
            seal(bundle, Manifest(created_at=5, schema_hash="abc", metrics={}, card=""))
            registry.promote(registry.add(bundle), by="me", why="a test")
    assert list(check_models(project)) == []

    flip(project.paths.registry / "v0001/model.onnx")
    flip(project.paths.churn("leaving") / "v0002/model.onnx")
    previous, champion = check_models(project)
    assert (previous[0], previous[1], champion[0], champion[1]) == (
        "model",
        "warning",
        "churn model leaving",
        "error",
    )
    assert "v0001, the previous, is refused" in previous[2]
    assert "v0002, the champion" in champion[2]
    assert "model.onnx does not match its checksum" in champion[2]
    assert champion[3] == "tailorbird models rollback --churn leaving --why …, or train again"
