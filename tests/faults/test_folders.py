"""Folders from elsewhere: links that leave them, false sizes, changed bytes, other data."""

import io
import json
import os
import resource
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from helpers import catalogue_of, compiled, fit_run, small_config

from data_prep import arrays, atomic, files
from data_prep.settings import UserError
from ttt4rec_jax.api.run import Run
from ttt4rec_jax.data.dataset import load_dataset
from ttt4rec_jax.metrics import summarise
from ttt4rec_jax.pipeline import resume, sweep
from ttt4rec_jax.runs import items, read, verified
from ttt4rec_jax.runs.folder import RunFolder, load_config
from ttt4rec_jax.runs.load import check_fits, load_run
from ttt4rec_jax.serving import load_export

DATA = "ab" * 32


def entries(folder):
    """{path: content} of everything in a folder."""
    paths = sorted(folder.rglob("*"))
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture(scope="module")
def finished(random_dataset, tmp_path_factory):
    """The folder of a finished run."""
    folder = RunFolder(tmp_path_factory.mktemp("finished") / "run")
    config = small_config({"model": "sasrec"}, epochs=1, batch_size=128)
    outcome = fit_run(config, random_dataset, folder.path, compiled([config], random_dataset))
    folder.create(config, random_dataset.manifest | {"sha256": DATA})
    items.save(folder, catalogue_of(random_dataset), random_dataset, is_trained=False)
    test = {name: summarise(ranks) for name, ranks in outcome.test_ranks.items()}
    counts = {"users": 40, "items": 30, "interactions": 300}
    content = {"config": config.to_dict(), "test": test, "dataset": {"sha256": DATA, **counts}}
    content["protocol"] = dict.fromkeys(read.EVALUATION_TEXTS, "")
    folder.write_result(content, outcome.test_ranks, random_dataset.test.users)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    shutil.copytree(finished.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


# Links


LINKS = [".lock", "checkpoints", "checkpoints/best", "checkpoints/last", "config.json", "x.part"]


@pytest.mark.parametrize("name", LINKS)
def test_nothing_is_written_or_removed_through_a_link(run, tmp_path, name):
    home = tmp_path / "home"
    for folder in ("best/2023", "last/7", "2023"):
        (home / folder).mkdir(parents=True)
        (home / folder / "photo").write_text("mine")
    path = run.path / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    target = home if "checkpoints" in name else home / "2023" / "photo"
    path.symlink_to(target)
    before = entries(home)
    for action in (
        lambda: run.check({}, resume=True),
        lambda: run.locked().__enter__(),
    ):
        with pytest.raises(UserError, match=f"{path}, a symbolic link to {target}"):
            action()
    assert entries(home) == before


def test_a_run_of_links_is_served_but_not_copied(run, tmp_path):
    """Some caches of downloaded files consist of links; a copy could take along other files."""
    for path in (run.catalogue, run.best):
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    assert len(load_run(run.path)[3]) == 30
    with pytest.raises(UserError, match=r"nothing is copied from a folder with .* link to"):
        Run(run.path).save(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_run_folder_may_itself_be_a_link(run, tmp_path):
    (tmp_path / "link").symlink_to(run.path)
    linked = RunFolder(tmp_path / "link")
    linked.check({}, resume=True)
    with linked.locked():
        assert (run.path / ".lock").exists()


def test_a_lock_that_is_another_name_of_a_file_is_not_written(run, tmp_path):
    (tmp_path / "mine").write_text("mine")
    os.link(tmp_path / "mine", run.path / ".lock")
    with pytest.raises(UserError, match="not a lock file of this program"), run.locked():
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_pipes_are_refused_and_never_waited_for(run):
    run.config.unlink()
    os.mkfifo(run.config)
    with pytest.raises(UserError, match="not a regular file"):
        load_config(run.config)
    with pytest.raises(UserError, match="a pipe or a device"), run.locked():
        pass


def test_only_names_of_this_program_are_removed(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "x").touch()
    link = atomic.temporary_path(tmp_path / "folder")
    link.symlink_to(tmp_path / "target")
    atomic.remove(link)
    assert not link.is_symlink() and (tmp_path / "target" / "x").exists()
    assert not atomic.is_leftover(tmp_path / "film.part")
    link.symlink_to(tmp_path / "y")
    with pytest.raises(OSError), open(link, "w", opener=atomic.no_follow):
        pass
    assert not (tmp_path / "y").exists()


# Digests


def test_changed_bytes_are_one_line_and_never_other_content(run):
    """Every file that serving and comparing rely on, with a flipped bit, is refused or harmless."""
    readers = {
        run.config: load_config,
        run.catalogue: items.read,
        run.training_clicks: items.training_clicks,
        run.metrics: lambda path: read.history(path.parent),
        run.result: lambda path: read.read(path.parent),
        run.ranks: lambda path: read.read(path.parent),
    }
    assert {path.name for path in readers} == set(verified.digests(run.path))
    rng = np.random.default_rng(0)
    digests = run.path / verified.DIGESTS
    for path in (*readers, digests):
        whole = path.read_bytes()
        for bit in rng.integers(0, 8 * len(whole), 12).tolist():
            content = bytearray(whole)
            content[bit // 8] ^= 1 << bit % 8
            path.write_bytes(content)
            if path != digests:
                with pytest.raises(UserError, match="has changed since it was written") as error:
                    readers[path](path)
                assert "\n" not in str(error.value)
        path.write_bytes(whole)
    assert read.read(run.path).result["dataset"]["sha256"] == DATA


def test_a_damaged_list_of_digests_is_one_line(run):
    path = run.path / verified.DIGESTS
    for damaged in ("{", "[]", '{"catalogue.parquex": "0"}', "[" * 100_000):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"sha256.json: damaged .*; copy the run's folder"):
            load_config(run.config)


def test_a_run_without_digests_is_read_as_it_is(run, caplog):
    (run.path / verified.DIGESTS).unlink()
    assert len(items.read(run.catalogue)) == 30 and read.read(run.path) and not caplog.records


def test_a_kill_between_a_file_and_its_digest_leaves_it_readable(run, monkeypatch):
    config = load_config(run.config)
    write = verified.write_bytes

    def stop(path, content):
        write(path, content)
        if path.name == "config.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(verified, "write_bytes", stop)
    changed = small_config({"model": "sasrec"}, epochs=9, batch_size=128)
    with pytest.raises(KeyboardInterrupt):
        run.create(changed)
    assert load_config(run.config) == changed != config
    assert "config.json" not in verified.digests(run.path)


def test_what_is_finished_is_not_written_again(run):
    before = {path: path.stat().st_mtime_ns for path in run.path.iterdir()}
    run.write_metrics([])
    contents = {run.catalogue.name: run.catalogue.read_bytes()}
    verified.write(run.path, contents)
    assert before == {path: path.stat().st_mtime_ns for path in run.path.iterdir()}


# Other data


def test_a_resume_with_other_data_names_both_digests(run, random_dataset):
    root = RunFolder(run.path.parent)
    resume.check_data(root, ["run", "not started"], DATA)
    expected = f"data with sha256 {DATA[:16]}, found cdcdcdcdcdcdcdcd; give the data"
    with pytest.raises(UserError, match=expected):
        resume.check_data(root, ["run"], "cd" * 32)
    saved = json.loads(run.config.read_text())
    del saved["dataset"]  # of an earlier version: the result says it
    run.config.write_text(json.dumps(saved))
    (run.path / verified.DIGESTS).unlink()
    with pytest.raises(UserError, match=expected):
        resume.check_data(root, ["run"], "cd" * 32)
    run.result.unlink()  # nothing says it: the items are compared
    resume.check_data(root, ["run"], "cd" * 32)
    before = run.catalogue.read_bytes()
    others = items.Catalogue(["x"], None, np.ones(1, np.int64))
    with pytest.raises(UserError, match=r"30 items and .* that are not the 1 and 1 of the data"):
        items.save(run, others, random_dataset, is_trained=True)
    assert run.catalogue.read_bytes() == before


def test_a_group_of_other_members_is_refused(tmp_path):
    folder = sweep.group_folder(tmp_path, ["a", "b"])
    sweep.write_members(folder, ["a", "b"])
    assert sweep.started(tmp_path, {"a": 1, "b": 2}) == [{"a": 1, "b": 2}]
    (folder.path / sweep.MEMBERS).write_text('["a", "c"]')
    with pytest.raises(UserError, match="other members than its folder is named after"):
        sweep.started(tmp_path, {"a": 1, "b": 2})


# Sizes


@pytest.mark.parametrize(
    "name, value", [("dim", 10**9), ("max_len", 10**12), ("num_blocks", 10**9), ("dim", 16)]
)
def test_sizes_that_are_not_the_checkpoints_are_one_line(run, name, value):
    saved = json.loads(run.config.read_text())
    saved["model"][name] = value
    run.config.write_text(json.dumps(saved))
    (run.path / verified.DIGESTS).unlink()
    expected = "does not fit the settings" if value == 16 else rf"--{name}: {value} is out of range"
    with pytest.raises(UserError, match=expected) as error:
        load_run(run.path)
    assert "\n" not in str(error.value)
    if value == 16:
        with pytest.raises(UserError, match=expected):
            check_fits(run, load_config(run.config), 30)


def test_the_largest_sizes_allowed_take_no_memory_before_they_are_compared(run):
    """dim=65,536 would take 50 GB of parameters."""
    config = load_config(run.config)
    object.__setattr__(config.model, "dim", 2**16)
    run.config.write_text(json.dumps(config.to_dict()))
    (run.path / verified.DIGESTS).unlink()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory_in_use() + 2**30, before[1]))
    try:
        with pytest.raises(UserError, match="does not fit the settings"):
            check_fits(run, config, 30)
        with pytest.raises(UserError, match="does not fit the settings"):
            load_run(run.path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def memory_in_use() -> int:
    """The bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


FALSE_SHAPES = [b"(9999999999999999,)", b"(2, 9999999999)", b"(-3,)", b"(2,)", b"(4,)"]


@pytest.mark.parametrize("shape", FALSE_SHAPES)
def test_a_false_shape_is_refused_before_memory_is_taken(tmp_path, shape):
    honest = npy(np.arange(3))
    start = honest.index(b"(3,)")
    false = honest[:start] + shape + honest[start + 4 :].replace(b" ", b"", len(shape) - 4)
    assert len(false) == len(honest)
    (tmp_path / "x.npy").write_bytes(false)
    for mapped in (False, True):
        with pytest.raises(ValueError, match=r"needs .* bytes, found"):
            arrays.load(tmp_path / "x.npy", mapped)
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", kind) as archive:
            archive.writestr("x.npy", false)
        with pytest.raises(ValueError, match=r"needs .* bytes, found"):
            arrays.load_all(file.getvalue(), ["x"])
    (tmp_path / "x.npy").write_bytes(honest)
    assert arrays.load(tmp_path / "x.npy").tolist() == [0, 1, 2]
    assert arrays.load(tmp_path / "x.npy", mapped=True).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("old", "new"), [(b"}", b"("), (b"{", b"("), (b"(3,)", b"((((")])
def test_a_header_that_is_no_literal_is_refused(tmp_path, old, new):
    """NumPy's own error for some of these is one of the tokenizer, and no ValueError."""
    content = npy(np.arange(3)).replace(old, new)
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ValueError):
        arrays.load(tmp_path / "x.npy")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(ValueError):
        arrays.load_all(file.getvalue(), ["x"])
    (tmp_path / "x.npz").write_bytes(file.getvalue())
    with pytest.raises(load_export.UNREADABLE):
        load_export.read_arrays(tmp_path / "x.npz")


def test_a_prepared_array_of_a_false_shape_is_one_line(tmp_path):
    (tmp_path / "offsets.npy").write_bytes(npy(np.arange(3)) + b"more")
    with pytest.raises(UserError, match=r"offsets.npy: damaged .*; remove .*, and the data are"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("id", [1.5, [1], None])
def test_ids_that_are_neither_numbers_nor_text_are_one_line(tmp_path, id):
    pl.DataFrame({"id": [id], "clicks": [1]}).write_parquet(tmp_path / "catalogue.parquet")
    with pytest.raises(UserError, match=r"catalogue.parquet: cannot be read \("):
        items.read(tmp_path / "catalogue.parquet")


def test_a_false_size_in_an_archive_is_refused():
    file = io.BytesIO()
    np.savez_compressed(file, x=np.zeros(10_000))
    whole = file.getvalue()
    assert (arrays.load_all(whole, ["x"])["x"] == 0).all()
    size = struct.pack("<I", len(npy(np.zeros(10_000))))
    false = whole.replace(size, struct.pack("<I", 2**31))
    with pytest.raises(ValueError, match="2,147,483,648 bytes in"):
        arrays.load_all(false, ["x"])
    for cut in (b"", whole[: len(whole) // 2], whole[len(whole) // 2 :], b"\0" * 100):
        with pytest.raises(ValueError):
            arrays.load_all(cut, ["x"])


def test_a_table_that_claims_more_rows_than_bytes_can_hold_is_refused(tmp_path):
    table = pl.DataFrame({"id": [0], "clicks": [1]}).select(pl.all().repeat_by(10**7).explode())
    table.write_parquet(tmp_path / "catalogue.parquet")  # 80 MB of equal rows in a few kB
    with pytest.raises(UserError, match="10,000,000 rows in"):
        items.read(tmp_path / "catalogue.parquet")


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5000, "{", "\x00", '"\\ud800'])
def test_json_of_any_depth_is_a_value_or_one_line(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError):
        files.read_json(path)
    for name in ("config.json", "result.json", "metrics.jsonl", "sweep.json"):
        (tmp_path / name).write_text(content)
    for action in (
        lambda: load_config(tmp_path / "config.json"),
        lambda: read.result(tmp_path),
        lambda: read.history(tmp_path),
        lambda: sweep.saved_flags(tmp_path),
    ):
        with pytest.raises(UserError):
            action()
