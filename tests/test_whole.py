"""A small file is there whole or not at all, and nothing is left beside it."""

import os

import pytest

from tailorbird.whole import write_whole


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "made" / "told.json"
    for data in (b"one", b"two"):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert [one.name for one in path.parent.iterdir()] == ["told.json"]


def test_what_cannot_be_put_in_place_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "told.json"
    write_whole(path, b"one")

    def broken(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        write_whole(path, b"two")
    assert path.read_bytes() == b"one"
    assert [one.name for one in tmp_path.iterdir()] == ["told.json"]
