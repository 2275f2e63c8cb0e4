"""A small file is there whole or not at all, and nothing is left beside it."""

import os

import pytest

from tailorbird.atomic_write import atomic_write, finish_shredding, shred, write_private


def test_a_file_is_replaced_without_leftovers(tmp_path):
    path = tmp_path / "made" / "told.json"
    for data in (b"one", b"two"):
        atomic_write(path, data)
        assert path.read_bytes() == data
    assert [one.name for one in path.parent.iterdir()] == ["told.json"]


def test_what_cannot_be_put_in_place_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "told.json"
    atomic_write(path, b"one")

    def broken(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        atomic_write(path, b"two")
    assert path.read_bytes() == b"one"
    assert [one.name for one in tmp_path.iterdir()] == ["told.json"]


class Died(BaseException):
    """The process ended here."""


def test_a_shredded_file_is_intact_or_deleted_at_any_crash(tmp_path, monkeypatch):
    path, content = tmp_path / "journal.json", b"whose it was" * 1_000
    for name in ("replace", "fsync", "unlink"):
        for number in range(1, 9):
            write_private(path, content)
            calls, real = 0, getattr(os, name)

            def dies(*arguments, number=number, real=real):
                nonlocal calls
                calls += 1
                if calls == number:
                    raise Died
                return real(*arguments)

            with monkeypatch.context() as patched:
                patched.setattr(os, name, dies)
                try:
                    shred(path)
                except Died:
                    pass
                else:
                    assert list(tmp_path.iterdir()) == []
                    break
            assert not path.exists() or path.read_bytes() == content, (name, number)
            finish_shredding(path)
            assert {one.name for one in tmp_path.iterdir()} <= {path.name}
        else:
            raise AssertionError(f"{name} was called eight times and more")


def test_bytes_are_overwritten_before_the_name_is_removed(tmp_path):
    path = tmp_path / "journal.json"
    write_private(path, b"whose it was")
    os.link(path, tmp_path / "the same bytes")
    shred(path)
    assert (tmp_path / "the same bytes").read_bytes() == bytes(len(b"whose it was"))
    shred(path)
