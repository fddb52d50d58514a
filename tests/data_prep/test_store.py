"""The prepared folder on disk: reuse, damage, kills and races."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import contents, random_clicks, write_csv

from data_prep import atomic, negatives, readers, store
from data_prep import prepare as module
from data_prep.prepare import prepare
from data_prep.settings import UserError


@pytest.fixture
def makings(monkeypatch):
    """A list that grows by an element each time a source is read."""
    calls = []
    read = readers.read
    monkeypatch.setattr(readers, "read", lambda *args: calls.append(1) or read(*args))
    return calls


def test_same_source_and_settings_are_reused_and_others_are_not(config, tmp_path, makings):
    cache = tmp_path / "cache"
    first = prepare(config, cache_dir=cache)
    before = contents(first)
    path = Path(config.dataset)
    os.utime(path, (1, 1))  # the content counts, not the time
    assert prepare(config, cache_dir=cache) == first
    assert len(makings) == 1
    others = {
        prepare(dataclasses.replace(config, **change), cache_dir=cache)
        for change in (
            {"user_core": 14},
            {"item_core": 17},
            {"split": "temporal"},
            {"split": "temporal", "test_time": 0.95},
            {"eval_negatives": 2},
            {"negatives": "popularity"},
            {"data_seed": 1},
            {"on_bad_rows": "skip"},
            {"user_col": "item", "item_col": "user", "user_core": 18, "item_core": 15},
        )
    }
    assert len(others) == 9
    assert first not in others
    write_csv(path, random_clicks(seed=1))
    assert prepare(config, cache_dir=cache) not in {first, *others}
    assert contents(first) == before


def test_preparing_twice_gives_the_same_bytes(config, tmp_path):
    folders = [prepare(config, cache_dir=tmp_path / name) for name in ("a", "b")]
    assert folders[0].name == folders[1].name
    assert contents(folders[0]) == contents(folders[1])


def damage_shorter(folder):
    path = folder / "items.npy"
    path.write_bytes(path.read_bytes()[:-4])


def damage_bit(folder):
    path = folder / "test_negatives.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def damage_missing(folder):
    (folder / "users.parquet").unlink()


def damage_manifest(folder):
    (folder / "manifest.json").write_text("{")


def damage_all(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def damage_version(folder):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format_version": 0}))


@pytest.mark.parametrize(
    "damage",
    [damage_shorter, damage_bit, damage_missing, damage_manifest, damage_all, damage_version],
    ids=lambda d: d.__name__,
)
def test_a_damaged_folder_is_made_again(config, tmp_path, damage, caplog):
    cache = tmp_path / "cache"
    folder = prepare(config, cache_dir=cache)
    before = contents(folder)
    assert store.verify(folder) == ""
    damage(folder)
    assert store.verify(folder) != ""
    assert prepare(config, cache_dir=cache) == folder
    assert contents(folder) == before
    assert "is damaged" in caplog.text
    assert os.listdir(cache) == [folder.name]


@pytest.mark.parametrize("step", ["k_core", "draw", "write", "rename", "manifest"])
def test_an_interrupted_preparation_leaves_nothing(config, tmp_path, monkeypatch, step):
    class Killed(BaseException):
        pass

    def stop(*args, **kwargs):
        raise Killed

    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        target, name = {
            "k_core": (module.clicks, "k_core"),
            "draw": (negatives, "draw"),
            "write": (np, "save"),
            "rename": (os, "rename"),
            "manifest": (store, "content_digest"),
        }[step]
        patch.setattr(target, name, stop)
        with pytest.raises(Killed):
            prepare(config, cache_dir=cache)
    assert os.listdir(cache) == []
    assert store.verify(prepare(config, cache_dir=cache)) == ""


KILLED = """
import os, sys
import numpy as np
from data_prep.prepare import prepare
from data_prep.settings import DataConfig
saved = []
save = np.save
def save_then_die(*args, **kwargs):
    save(*args, **kwargs)
    saved.append(1)
    if len(saved) == 4:
        os._exit(9)
np.save = save_then_die
config = DataConfig(dataset=sys.argv[1], eval_negatives=3, user_core=15, item_core=18)
prepare(config, cache_dir=sys.argv[2])
"""


def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(config, tmp_path):
    cache = tmp_path / "cache"
    root = Path(module.__file__).parents[1]
    code = subprocess.run(
        [sys.executable, "-c", KILLED, config.dataset, str(cache)], cwd=root
    ).returncode
    assert code == 9
    (left,) = cache.iterdir()
    assert atomic.is_leftover(left)
    folder = prepare(config, cache_dir=cache)
    assert store.verify(folder) == ""
    assert left.exists()  # it may be another process's that still works
    old = time.time() - atomic.STALE_S - 60
    os.utime(left, (old, old))
    prepare(dataclasses.replace(config, data_seed=1), cache_dir=cache)
    assert not left.exists()


RACER = """
import sys
from pathlib import Path
from data_prep import store
from data_prep.prepare import prepare
from data_prep.settings import DataConfig
import time
write = store.write
def write_when_both_are_there(*args):
    (Path(sys.argv[2]) / f"ready-{sys.argv[3]}").touch()
    while len(list(Path(sys.argv[2]).glob("ready-*"))) < 2:
        time.sleep(0.01)
    write(*args)
store.write = write_when_both_are_there
config = DataConfig(dataset=sys.argv[1], eval_negatives=3, user_core=15, item_core=18)
print(prepare(config, cache_dir=sys.argv[2]))
"""


def test_two_processes_that_prepare_at_once_are_both_fine(config, tmp_path):
    cache = tmp_path / "cache"
    root = Path(module.__file__).parents[1]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, config.dataset, str(cache), str(n)],
            cwd=root,
            stdout=subprocess.PIPE,
        )
        for n in range(2)
    ]
    folders = {racer.communicate(timeout=60)[0].decode().strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0]
    (folder,) = map(Path, folders)
    assert store.verify(folder) == ""
    assert sorted(p.name for p in cache.iterdir()) == [folder.name, "ready-0", "ready-1"]


def test_a_folder_that_cannot_be_written_is_an_error(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--cache_dir: cannot write to .*file"):
        prepare(config, cache_dir=tmp_path / "file")
