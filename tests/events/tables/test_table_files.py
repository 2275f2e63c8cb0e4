import gzip
import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.adapters import convert_lines

from tailorbird.errors import DamageError, InputError
from tailorbird.events.adapters import FORMATS, digest_files, find_files
from tailorbird.events.tables.files import (
    count_records,
    read_lines,
    read_records,
    split_records,
    suffix_without_compression,
)

TEXT = b"one\n\n  two \nthree"


def test_a_folder_gives_what_matches_compressed_or_not_sorted(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.csv", "a.csv.gz", "deep/c.csv.zst", "note.txt"):
        (tmp_path / name).touch()
    files = find_files(tmp_path, ("*.csv",))
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "a.csv.gz",
        "b.csv",
        "deep/c.csv.zst",
    ]


@pytest.mark.parametrize("format_", ["snowplow", "ga4"])
def test_what_loaders_write_has_no_suffix(format_: str, tmp_path: Path) -> None:
    names = [
        "2026-11-20-100512-4964-4965.gz",
        "events_20261118_000000000000",
        "shop-2026-11-20-100512-4964-4965",
    ]
    for name in (*names, "_SUCCESS", ".DS_Store", "LICENSE", "SHA256SUMS", "note.pdf"):
        (tmp_path / name).touch()
    assert [file.name for file in find_files(tmp_path, FORMATS[format_].patterns)] == names
    for name in names:
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="nor one without a suffix"):
        find_files(tmp_path, FORMATS[format_].patterns)


def test_an_explicit_file_needs_no_matching_name(tmp_path: Path) -> None:
    (tmp_path / "odd").touch()
    assert find_files(tmp_path / "odd", ("*.csv",)) == [tmp_path / "odd"]


@pytest.mark.parametrize(
    ("name", "message"), [("gone", "no such file or folder"), ("", r"no file like \*\.csv")]
)
def test_nothing_there(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_files(tmp_path / name, ("*.csv",))


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_lines_are_numbered_and_blank_ones_left_out(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"lines.jsonl{ending}"
    if ending == ".zst":
        with pa.CompressedOutputStream(str(file), "zstd") as sink:
            sink.write(TEXT)
    else:
        file.write_bytes(gzip.compress(TEXT) if ending == ".gz" else TEXT)
    assert list(read_lines(file)) == [(1, b"one"), (3, b"two"), (4, b"three")]
    assert suffix_without_compression(file) == ".jsonl"


@pytest.mark.parametrize("cut", [-12, 40])
def test_damaged_compression_names_the_file(tmp_path: Path, cut: int) -> None:
    compressed = gzip.compress(b"\n".join(b"%d" % i for i in range(5_000)))
    (tmp_path / "cut.gz").write_bytes(compressed[:cut])
    with pytest.raises(InputError, match=r"cut\.gz: damaged after line"):
        list(read_lines(tmp_path / "cut.gz"))


def test_a_file_with_the_wrong_ending_is_damaged_too(tmp_path: Path) -> None:
    for name in ("plain.gz", "plain.zst"):
        (tmp_path / name).write_bytes(TEXT)
        with pytest.raises(InputError, match="damaged after line 0"):
            list(read_lines(tmp_path / name))


def test_checksum_files_are_verified(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(TEXT)
    digest = hashlib.sha256(TEXT).hexdigest()
    assert digest_files([file]) == {file: digest}
    (tmp_path / "SHA256SUMS").write_bytes(
        f"{digest} *./a.csv\n{'0' * 64}  \xfcber.csv\n".encode("latin-1")
    )
    assert digest_files([file]) == {file: digest}
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  a.csv\n")
    with pytest.raises(DamageError, match="SHA256SUMS says 000000000000"):
        digest_files([file])


def test_a_file_may_begin_with_a_byte_order_mark_and_be_packed_in_pieces(tmp_path: Path) -> None:
    file = tmp_path / "pieces.jsonl.gz"
    file.write_bytes(gzip.compress(b"\xef\xbb\xbfone\n") + gzip.compress(b"two\n"))
    assert list(read_lines(file)) == [(1, b"one"), (2, b"two")]


@pytest.mark.parametrize(
    ("format_", "name"),
    [
        ("mapping", "c.csv.gz"),
        ("personalize", "c.csv.gz"),
        ("movielens", "ratings.csv.gz"),
        ("gorse", "c.jsonl.gz"),
    ],
)
def test_a_file_that_cannot_be_decompressed_raises_in_every_format(
    format_: str, name: str, tmp_path: Path
) -> None:
    packed = bytearray(gzip.compress(TEXT))
    packed[10] |= 0b110  # a kind of block that does not exist
    (tmp_path / name).write_bytes(packed)
    with pytest.raises(InputError, match=r"damaged|cannot be read"):
        convert_lines(
            format_,
            tmp_path,
            mapping='[[source]]\nfile = "c.*"\nuser_id = "who"\nitem_id = "what"\n',
        )


PIECES = st.sampled_from(
    [
        b"[",
        b"]",
        b"{",
        b"}",
        b"{}",
        b'{"a":[1,"},{"]}',
        b",",
        b"\n",
        b"\r\n",
        b" ",
        b"\t",
        b"\x0b",
        b"1",
        b'"x',
        b"\xff",
    ]
)


@given(
    st.lists(PIECES, max_size=12).map(b"".join)
    | st.lists(st.sampled_from([b"{}", b'{"a":1}', b" ", b""]), max_size=9).map(b"\n".join)
)
@example(b"")
@example(b"[]")
@example(b" [1, {}, []] ")
@example(b"[" * 100_000)
def test_records_are_counted_as_they_are_split(body: bytes) -> None:
    assert count_records(body) == len(split_records(body))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text("{}")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "a.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(InputError, match=r"a\.jsonl: is a link out of the folder"):
        find_files(tmp_path / "export", ("*.jsonl",))
    (tmp_path / "export" / "a.jsonl").unlink()
    (tmp_path / "export" / "b.jsonl").write_text("{}")
    (tmp_path / "export" / "c.jsonl").symlink_to("b.jsonl")
    assert len(find_files(tmp_path / "export", ("*.jsonl",))) == 2


def test_a_line_beyond_measure_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailorbird.events.tables.files._LINE_BYTES_MAX", 1_000)
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(b'{"a": 1}\n' + b"x" * 5_000)
    with pytest.raises(InputError, match="line 2 is longer than"):
        list(read_lines(tmp_path / "a.jsonl.gz"))
    (tmp_path / "b.json").write_bytes(b"[" + b",".join([b'{"a": 1}'] * 500) + b"]")
    assert len(list(read_records(tmp_path / "b.json"))) == 500, "a list is one line"
