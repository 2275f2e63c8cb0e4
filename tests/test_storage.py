"""Each promise of `storage.StorageBackend`, for a local folder and for a bucket."""

import errno
import hashlib
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.network.bucket import BUCKET, s3_server

from tailorbird.errors import StorageError
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StaleError, open_storage


@pytest.fixture(scope="module")
def s3():
    with s3_server() as url:
        yield url


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def folder(request, tmp_path):
    """An empty folder, or an unused prefix of a bucket."""
    if request.param == "local":
        return tmp_path / "lake"
    request.getfixturevalue("s3")
    return open_storage(f"s3://{BUCKET}/{uuid.uuid4().hex}", tmp_path)


def test_a_new_file_is_written_once(folder):
    storage_at(folder).make_folder()
    path = folder / "part.bin"
    storage_at(path).write_new(b"first")
    with pytest.raises(StorageError):
        storage_at(path).write_new(b"second")
    assert path.read_bytes() == b"first"


def test_a_file_is_replaced_and_leaves_nothing_beside_it(folder):
    storage_at(folder).make_folder()
    path = folder / "positions.json"
    for content in (b"one", b"another"):
        storage_at(path).replace(content)
        storage_at(path).sync()
        assert path.read_bytes() == content
    assert [each.name for each in folder.iterdir()] == ["positions.json"]
    assert storage_at(path).sha256() == hashlib.sha256(b"another").hexdigest()
    assert storage_at(path).is_regular_file()


def test_paths_are_listed_read_and_deleted_alike(folder):
    for name in ("a=1/x.parquet", "a=2/y.parquet", "z.json"):
        storage_at((folder / name).parent).make_folder()
        storage_at(folder / name).write_new(name.encode())
    assert sorted(each.name for each in folder.rglob("*.parquet")) == ["x.parquet", "y.parquet"]
    assert [each.name for each in folder.glob("a=2/*.parquet")] == ["y.parquet"]
    assert (folder / "z.json").read_bytes() == b"z.json"
    (folder / "z.json").unlink()
    (folder / "z.json").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "z.json").read_bytes()


def test_arrow_reads_the_file(folder):
    table = pa.table({"n": [1, 2, 3]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage_at(folder).make_folder()
    storage_at(folder / "t.parquet").write_new(sink.getvalue().to_pybytes())
    assert pq.ParquetFile(storage_at(folder / "t.parquet").arrow_source()).read() == table


def test_an_error_of_the_storage_names_the_place(folder):
    with pytest.raises(StorageError) as caught, storage_at(folder / "x").translate_errors():
        raise OSError(5, "input/output error")
    assert caught.value.where == str(folder / "x")
    assert "input/output error" in caught.value.message


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EROFS, "make the file system writable"),
        (errno.ENOENT, "name another place"),
        (errno.EIO, "look at the disk"),
    ],
)
def test_an_error_of_the_disk_says_what_mends_it(tmp_path, number, fix):
    with pytest.raises(StorageError) as caught, storage_at(tmp_path / "x").translate_errors():
        raise OSError(number, "refused")
    assert fix in caught.value.fix


def test_a_second_writer_is_kept_out_by_a_lock_or_by_conditions(folder):
    """A place has either a path for a file lock, or an object with conditional writes."""
    storage = storage_at(folder / "ledger")
    assert (
        storage.is_remote
        == (storage.local_path is None)
        == (storage.conditional_object is not None)
    )
    if storage.conditional_object is None:
        return
    tag = storage.conditional_object.put_new(b"mine")
    with pytest.raises(FileExistsError):
        storage.conditional_object.put_new(b"yours")
    storage.conditional_object.put_if(b"newer", tag)
    with pytest.raises(StaleError):
        storage.conditional_object.put_if(b"late", tag)
    assert storage.conditional_object.read_bytes() == b"newer"
