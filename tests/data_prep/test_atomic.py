"""Files and folders appear whole or not at all; leftovers of killed processes go; locks hold."""

import os
import time

import pytest

from data_prep import atomic


class StopError(Exception):
    pass


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic.file(path) as file:
        file.write(b"new")
        (temporary,) = (other for other in tmp_path.iterdir() if other != path)
        assert atomic.is_leftover(temporary) and path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt, OSError])
def test_an_error_leaves_what_was_there(tmp_path, error):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(error), atomic.file(tmp_path / "file") as file:
        file.write(b"new")
        raise error
    with pytest.raises(error), atomic.folder(tmp_path / "folder", replace=True) as new:
        (new / "new").touch()
        raise error
    assert names(tmp_path) == ["file", "folder"] and names(tmp_path / "folder") == ["old"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with atomic.file(tmp_path / "file") as one, atomic.file(tmp_path / "file") as two:
        one.write(b"1" * 10)
        two.write(b"2" * 5)
    assert (tmp_path / "file").read_bytes() == b"1" * 10 and names(tmp_path) == ["file"]


def test_a_folder_takes_the_place_of_another_only_if_asked(tmp_path):
    path = tmp_path / "above" / "folder"
    with atomic.folder(path) as new:
        (new / "first").touch()
    with pytest.raises(OSError), atomic.folder(path) as new:
        (new / "second").touch()
    assert names(path) == ["first"]
    with atomic.folder(path, replace=True) as new:
        (new / "second").touch()
        assert names(path) == ["first"]
    assert names(path) == ["second"] and names(path.parent) == ["folder"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    with atomic.folder(path) as new:
        (new / "first").touch()
    rename = type(path).rename

    def fail(source, target):
        if source.name == "new":
            raise OSError("no")
        return rename(source, target)

    monkeypatch.setattr(type(path), "rename", fail)
    with pytest.raises(OSError, match="no"), atomic.folder(path, replace=True):
        pass
    assert names(path) == ["first"] and names(tmp_path) == ["folder"]


def test_leftovers_are_removed_after_a_day_and_nothing_else(tmp_path):
    folder = atomic.temporary_path(tmp_path / "folder")
    (folder / "deep").mkdir(parents=True)
    file = atomic.temporary_path(tmp_path / "file")
    recent = atomic.temporary_path(tmp_path / "file")
    others = [tmp_path / name for name in ("mine.part", ".mine.part", "mine")]
    for path in (file, recent, *others):
        path.touch()
    old = time.time() - atomic.STALE_S - 60
    for path in (folder, file, *others):
        os.utime(path, (old, old))
    with atomic.file(tmp_path / "new"):
        pass
    assert {*tmp_path.iterdir()} == {recent, *others, tmp_path / "new"}


def test_a_long_name_has_a_temporary_one(tmp_path):
    name = "ä" * 120  # 240 of the 255 bytes that a name may have
    with atomic.file(tmp_path / name) as file:
        file.write(b"x")
    assert names(tmp_path) == [name]


def test_a_lock_is_held_by_one(tmp_path):
    with open(tmp_path / "lock", "w") as one, open(tmp_path / "lock", "w") as two:
        assert atomic.lock(one, wait=False) == ""
        with pytest.raises(BlockingIOError):
            atomic.lock(two, wait=False)
        one.close()
        assert atomic.lock(two, wait=True) == ""
