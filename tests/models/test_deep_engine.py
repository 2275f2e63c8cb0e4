"""The engine of nets: killed runs end in the same bits, so do several processes, and what is logged
can be read by others.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch", reason="needs the extra deep: pip install 'tailorbird[deep]'")

from tests.support.nets import LAYOUT, make_rows  # noqa: E402
from tests.support.programs import train_a_net, train_within  # noqa: E402
from tests.support.training.bits import have_same_bits  # noqa: E402

from tailorbird.errors import DamageError, InputError, StorageError, UsageError  # noqa: E402
from tailorbird.models.deep.batches import epoch_batches  # noqa: E402
from tailorbird.models.deep.checkpoint import CHECKPOINT_FILE  # noqa: E402
from tailorbird.models.deep.logs import EventLog, group_tags, log_to_mlflow  # noqa: E402
from tailorbird.models.deep.parallel import fit_parallel  # noqa: E402
from tailorbird.models.deep.rows import PartRows, write_parts  # noqa: E402


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    write_parts(tmp_path / "rows", [make_rows(3_000), make_rows(3_000, seed=2)], block_rows=700)
    write_parts(tmp_path / "watched", [make_rows(1_000, seed=1)])
    return tmp_path


def test_a_run_killed_again_and_again_ends_in_the_same_bits(parts: Path) -> None:
    uninterrupted = train_a_net.fit(parts, None)
    seen: list[bytes] = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.programs.train_a_net", str(parts)],
            env=dict(os.environ),
        )
        before, until = mark(parts), time.monotonic() + 120
        while mark(parts) == before and process.poll() is None and time.monotonic() < until:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was killed in the middle of its work"
        seen.append((parts / "checkpoint" / CHECKPOINT_FILE).read_bytes())
    assert len(set(seen)) == 2, "each went on where the one before was"
    resumed = train_a_net.fit(parts, parts / "checkpoint")
    assert have_same_bits(uninterrupted, resumed)
    losses = {
        name: series for name, series in uninterrupted.curve.items() if name != "rows_per_second"
    }
    assert {name: resumed.curve[name] for name in losses} == losses
    assert uninterrupted.best_epoch_by_head == resumed.best_epoch_by_head


def mark(parts: Path) -> int:
    """Changes with each checkpoint."""
    path = parts / "checkpoint" / CHECKPOINT_FILE
    return path.stat().st_mtime_ns if path.exists() else 0


def test_a_checkpoint_of_other_data_is_left_alone_and_a_damaged_one_is_reported(
    parts: Path, tmp_path: Path
) -> None:
    write_parts(tmp_path / "other" / "rows", [make_rows(2_000, seed=9)])
    write_parts(tmp_path / "other" / "watched", [make_rows(500, seed=1)])
    fresh = train_a_net.fit(tmp_path / "other", None, "shared")
    train_a_net.fit(parts, tmp_path / "kept", "shared")
    assert have_same_bits(train_a_net.fit(tmp_path / "other", tmp_path / "kept", "shared"), fresh)
    (tmp_path / "kept" / CHECKPOINT_FILE).write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DamageError, match=r"remove it: training begins anew"):
        train_a_net.fit(parts, tmp_path / "kept", "shared")


@pytest.mark.nightly
def test_two_processes_end_in_the_bits_of_one(parts: Path) -> None:
    parameters = {**train_a_net.PARAMETERS, "epochs": 2, "shards": 2, "patience": 0}
    rows, watched = PartRows.open(parts / "rows"), PartRows.open(parts / "watched")
    nets = [
        fit_parallel(
            parts / f"run-{count}",
            "mmoe",
            parameters,
            LAYOUT,
            rows,
            watched,
            seed=3,
            processes=count,
        )
        for count in (1, 2)
    ]
    assert have_same_bits(*nets)
    assert nets[0].curve["validation"] == nets[1].curve["validation"]
    with pytest.raises(UsageError, match="2 shards cannot be shared by 3 processes"):
        fit_parallel(
            parts / "run-3", "mmoe", parameters, LAYOUT, rows, watched, seed=3, processes=3
        )


def test_processes_that_have_no_gpu_of_their_own_are_refused(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, watched = PartRows.open(parts / "rows"), PartRows.open(parts / "watched")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="2 processes need as many GPUs, and there are 1"):
        fit_parallel(
            parts / "run", "mmoe", {"shards": 2}, LAYOUT, rows, watched, seed=3, processes=2
        )


def test_blocks_of_files_are_read_where_they_lie(parts: Path) -> None:
    rows = PartRows.open(parts / "rows")
    assert rows.sizes == (*[700] * 8, 400), "blocks go over the ends of pieces"
    block = rows.block(4)
    assert not block.matrix.flags.owndata, "mapped, not copied"
    np.testing.assert_array_equal(
        block.matrix,
        np.concatenate([make_rows(3_000).matrix[2_800:], make_rows(3_000, seed=2).matrix[:500]]),
    )
    drawn = list(epoch_batches(rows, seed=1, epoch=0, batch_rows=64))
    assert [len(batch.matrix) for batch in drawn] == [64] * 93 + [48]
    everything = np.concatenate([batch.matrix[:, 0] for batch in drawn])
    expected = np.concatenate([rows.block(place).matrix[:, 0] for place in range(9)])
    np.testing.assert_array_equal(np.sort(everything), np.sort(expected))
    assert not np.array_equal(
        drawn[0].matrix, next(epoch_batches(rows, seed=1, epoch=1, batch_rows=64)).matrix
    )
    with pytest.raises(InputError, match="no parts"):
        PartRows.open(parts)
    (parts / "rows" / "000000.arrow").write_bytes(b"ARROW1 cut")
    with pytest.raises(InputError, match="cannot be read"):
        PartRows.open(parts / "rows")


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory by RLIMIT_DATA")
def test_rows_larger_than_memory_are_learned_from(tmp_path: Path) -> None:
    """A process that may take 64 MB more than it begins with learns from 100 MB, which it cannot
    load.
    """
    limit = 64 << 20
    pieces = (train_within.make_rows(100_000, seed) for seed in range(15))
    rows = write_parts(tmp_path / "rows", pieces, block_rows=8_192)
    size = sum(path.stat().st_size for path in (tmp_path / "rows").iterdir())
    assert size > 1.5 * limit

    def run(how: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "tests.support.programs.train_within",
            str(tmp_path / "rows"),
            str(limit),
            how,
        ]
        return subprocess.run(command, capture_output=True, text=True)

    assert "MemoryError" in run("memory").stderr
    done = run("files")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == train_within.digest(
        train_within.fit_net(train_within.load_all(rows))
    ), "in the bits of all in memory"


def test_mlflow_reads_the_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    tracking = (tmp_path / "runs").as_uri()
    curve = {"train": [0.5, 0.4], "validation_click": [0.6, 0.55]}
    run = log_to_mlflow("mmoe", {"architecture": "mmoe", "hidden": (16, 8)}, curve, tracking)
    client = mlflow.MlflowClient(tracking)
    mlflow_run = client.get_run(run)
    assert mlflow_run.info.run_name == "mmoe"
    assert mlflow_run.data.params == {"architecture": "mmoe", "hidden": "(16, 8)"}
    assert {
        name: [each.value for each in client.get_metric_history(run, name)] for name in curve
    } == curve
    assert [each.step for each in client.get_metric_history(run, "train")] == [1, 2]
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"MLflow did not take the training"):
        log_to_mlflow("mmoe", {}, curve, (tmp_path / "file" / "runs").as_uri())


def test_tensorboard_reads_the_log(tmp_path: Path) -> None:
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_file_loader", reason="needs tensorboard"
    )
    log = EventLog(tmp_path / "logs", now=lambda: 1_700_000_000.5)
    log.append_scalars(
        1, group_tags({"train": 0.5, "validation_click": 0.25, "rows_per_second": 1e5})
    )
    log.append_scalars(300, {"loss/train": 0.125})
    version, first, second = loader.EventFileLoader(str(log.path)).Load()
    assert version.file_version == "brain.Event:2"
    assert first.wall_time == 1_700_000_000.5
    tags = {value.tag: value.tensor.float_val[0] for value in first.summary.value}
    assert tags == {"loss/train": 0.5, "click/validation": 0.25, "rows_per_second": 1e5}
    assert (second.step, second.summary.value[0].tensor.float_val[0]) == (300, 0.125)
