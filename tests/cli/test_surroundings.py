"""The streams, versions, environment variables and limits that commands really meet."""

import io
import logging
import subprocess
import sys
from importlib import metadata

import jax
import numpy as np
import pytest
from helpers import ROOT, make_finished_run

from data_prep.settings import MAX_NAME_BYTES, UserError, check_path
from data_prep.text import shown, shown_lines
from ttt4rec_jax import plots
from ttt4rec_jax.cli import recommend, run, surroundings, terminal
from ttt4rec_jax.cli.command import exit_code
from ttt4rec_jax.cli.compare import main as compare
from ttt4rec_jax.cli.main import main as train
from ttt4rec_jax.config import memory, requirements
from ttt4rec_jax.config.execution import RunConfig
from ttt4rec_jax.parallel.backend import check_backend
from ttt4rec_jax.pipeline.devices import enable_compilation_cache
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.serving.load_export import Recommendation

# --- text that acts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2Jid", r"\x1b[2Jid"),
        ("a\x9b2J\x7f", r"a\x9b2J\x7f"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("abc\u202edef\u2066", r"abc\u202edef\u2066"),
        ("x\u2028y\ud800", r"x\u2028y\ud800"),
        ("Amélie ± 日本 \u200d", "Amélie ± 日本 \u200d"),
        (7, "7"),
    ],
)
def test_control_characters_are_shown_escaped(text, expected):
    assert shown(text) == expected
    assert shown_lines("a\nb\x1b") == "a\nb\\x1b"


def test_an_error_that_quotes_data_cannot_act_on_the_terminal():
    assert str(UserError("user '\x1b[2J\u202e' is\nunknown")) == r"user '\x1b[2J\u202e' is unknown"


def test_ids_and_titles_from_data_are_escaped_wherever_they_are_printed(tmp_path, capsys, caplog):
    catalogue = Catalogue(["\x1b[2Ja", "b\nc"], ["\x9b31mred", "\u202etitle"], np.ones(2, int))
    top = Recommendation(catalogue.ids, np.zeros(2, np.float32), catalogue.titles, "model")
    texts = [
        recommend.format_table(top, []),
        recommend.format_item(catalogue, "b\nc"),
        recommend.format_matches(catalogue, "\x1b", catalogue.ids),
    ]
    run.reporter(RunFolder(tmp_path), [])("data \x1b[2J\nnext")
    terminal.prepare_streams()
    logging.getLogger("ttt4rec_jax").warning("%s: bad", "\x1b[2J")
    texts += [capsys.readouterr().out, caplog.text]
    assert all(not set(text) & set("\x1b\x9b\u202e") for text in texts)
    assert [text.count("\n") for text in texts] == [1, 0, 2, 2, 1]
    line = {"epoch": 1, "loss": 1.0, "validation": {"sampled": {"ndcg@10": 0.1}}}
    figure = plots.curves({"a\x1b[2J$\\frac{$": [line], "b": [line]}, "ndcg@10")
    plots.save(figure, tmp_path / "curves.png")
    drawn = [text.get_text() for text in figure.legends[0].get_texts()]
    assert drawn == ["a\\x1b[2J$\\frac{$", "b"]


# --- streams


def printed(encoding: str, text: str, monkeypatch) -> bytes:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    assert exit_code(lambda: print(text, flush=True)) == 0
    return raw.getvalue().rstrip()


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", rb"0.5 +- 0.1 \xe9\u65e5"),
        ("latin-1", b"0.5 \xb1 0.1 \xe9\\u65e5"),
        ("utf-8", "0.5 ± 0.1 é日".encode()),
    ],
)
def test_a_terminal_of_another_encoding_gets_stand_ins(monkeypatch, encoding, expected):
    assert printed(encoding, "0.5 ± 0.1 é日", monkeypatch) == expected


def test_a_disk_that_fills_under_the_output_does_not_end_a_run(monkeypatch, capsys, tmp_path):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    run.reporter(RunFolder(tmp_path), [])("epoch 1")
    assert "No space left on device); the run goes on" in capsys.readouterr().err


def test_a_closed_pipe_interrupts_a_run_but_not_one_whose_result_is_on_disk(monkeypatch, tmp_path):
    class Closed(io.StringIO):
        def flush(self):
            raise BrokenPipeError

        def fileno(self):
            raise OSError

    monkeypatch.setattr(sys, "stdout", Closed())
    report = run.reporter(RunFolder(tmp_path), [""])
    with pytest.raises(BrokenPipeError):
        report("epoch 1")
    (tmp_path / "result.json").touch()
    report("the closing table")


def test_commands_with_closed_or_full_streams_and_with_a_pipe_that_closes(tmp_path):
    """One process of a shell for all of them; the codes are those that docs/reliability.md has."""
    first, second = (make_finished_run(tmp_path / m, m) for m in ("sasrec", "gru4rec"))
    command = f"{sys.executable} {ROOT}/experiments/compare.py {first} {second}"
    script = f"""
    {command} >&- ; echo closed $?
    {command} <&- 2>&- >out ; echo quiet $?
    {command} >/dev/full 2>error ; echo full $?
    PYTHONIOENCODING=ascii {command} >ascii ; echo ascii $?
    {command} | head -1 >head ; echo head ${{PIPESTATUS[0]}}
    TERM=dumb COLUMNS=20 {command} >narrow; echo narrow $?
    """
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    codes = dict(line.split() for line in done.stdout.splitlines())
    assert codes == {
        "closed": "0",
        "quiet": "0",
        "full": "2",
        "ascii": "0",
        "head": "0",
        "narrow": "0",
    }
    assert done.stderr == ""
    error = (tmp_path / "error").read_text()
    assert error.startswith("error: No space left on device") and error.count("\n") == 1
    assert (tmp_path / "ascii").read_bytes().isascii()
    assert (tmp_path / "narrow").read_text() == (tmp_path / "out").read_text()


# --- paths


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x" * 256, "has 256 bytes, expected at most 255"),
        ("runs/" + "é" * 128 + "/a", "has 256 bytes"),
        ("d/" * 2100, "the path 'd/d/"),
        ("a\0b", "null character"),
    ],
)
def test_a_path_that_no_file_can_have_is_one_line_with_the_flag(path, message):
    with pytest.raises(UserError, match="--run_dir: ") as error:
        RunConfig(run_dir=path)
    assert message in str(error.value) and len(str(error.value)) < 250
    check_path("--run_dir", "x" * MAX_NAME_BYTES)


@pytest.mark.parametrize(
    "flag", ["run_dir", "cache_dir", "data_dir", "program_cache", "dataset", "user_col"]
)
def test_every_flag_that_names_a_place_is_checked(flag, capsys):
    value = "x" * 300 + ".csv" * (flag == "dataset")
    assert train(["main.py", "--dataset=synthetic", f"--{flag}={value}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --{flag}: ") and error.count("\n") == 1


def test_an_os_error_of_any_command_is_one_line(capsys, tmp_path):
    assert compare(["compare.py", "y" * 300]) == 2
    error = capsys.readouterr().err
    assert "File name too long" in error and error.count("\n") == 1
    (tmp_path / "file").touch()
    assert train(["main.py", "--dataset=synthetic", f"--run_dir={tmp_path / 'file'}"]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


def test_a_program_cache_that_cannot_be_used(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    before = jax.config.jax_compilation_cache_dir
    with pytest.raises(UserError, match=r"--program_cache: .*file cannot be used"):
        enable_compilation_cache(str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    enable_compilation_cache("")
    assert "compiled without this cache" in caplog.text
    assert jax.config.jax_compilation_cache_dir == before


def test_a_user_without_a_home_is_told_what_to_name(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "~")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UserError, match="no home; set HOME, or name folders"):
        enable_compilation_cache("")


# --- JAX


@pytest.mark.parametrize("platform", ["cuda", "tpu", "nonsense"])
def test_a_platform_that_is_not_there_is_one_line(monkeypatch, platform):
    monkeypatch.setattr(jax, "devices", failing(AssertionError()))
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platform)
    try:
        with pytest.raises(UserError) as error:
            check_backend()
    finally:
        jax.config.update("jax_platforms", before)
    assert f"JAX_PLATFORMS={platform}: " in str(error.value)
    assert "it found the platform cpu" in str(error.value)
    assert ("pip install" in str(error.value)) == (platform != "nonsense")


def test_settings_of_jax_that_change_numbers_are_replaced(capsys):
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    try:
        with pytest.raises(UserError, match="jax_enable_x64 is on"):
            check_backend()
        surroundings.start_jax()
        assert not jax.config.jax_enable_x64 and jax.config.jax_numpy_rank_promotion == "allow"
    finally:
        jax.config.update("jax_enable_x64", False)
        jax.config.update("jax_numpy_rank_promotion", "allow")
    assert capsys.readouterr().err.count("is ignored") == 2


def failing(error):
    def fail(*arguments):
        raise error

    return fail


# --- versions


@pytest.mark.parametrize(
    ("version", "bounds", "expected"),
    [
        ("0.12.2", "<0.13,>=0.12.2", True),
        ("0.12.1", ">=0.12.2, <0.13", False),
        ("0.13.0rc1", ">=0.12.2,<0.13", False),
        ("0.12.10", ">=0.12.2,<0.13", True),
        ("2.0", ">=2.0.0,<3", True),
        ("3.0.0", ">=2.0,<3", False),
    ],
)
def test_versions_are_compared_by_number(version, bounds, expected):
    assert requirements.is_within(version, bounds) == expected


def test_an_untried_version_is_one_line_that_says_what_to_install(monkeypatch):
    check = requirements.check_requirements.__wrapped__
    check()
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: "9.1" if n == "optax" else installed(n))
    with pytest.raises(UserError, match=r"optax 9\.1 is installed.*pip install 'optax>=") as error:
        check()
    assert "\n" not in str(error.value)


# --- limits, memory, and codes


@pytest.mark.parametrize(("limit", "least"), [("-v 1000000", "2500000"), ("-n 12", "32")])
def test_limits_under_which_native_code_would_abort_are_refused(tmp_path, limit, least):
    command = f"ulimit {limit}; {sys.executable} -m ttt4rec_jax train --dataset=synthetic"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    flag, found = limit.split()
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    expected = f"error: ulimit {flag}: found {found}, expected at least {least}"
    assert done.stderr.startswith(expected) and not list(tmp_path.iterdir())


class JaxRuntimeError(RuntimeError):
    """The name of XLA's error, which is made without exhausting a machine."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError("Unable to allocate 74.5 GiB"), 2, "out of memory (Unable to allocate 74.5"),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: 741 bytes.\nmore"), 2, "(RESOURCE_EXHAUSTED: 741"),
        (OSError(24, "Too many open files", "a\x1bb"), 2, r"a\x1bb: Too many open files"),
        (UserError("--x: wrong"), 2, "--x: wrong"),
    ],
)
def test_what_the_machine_lacks_is_one_line(capsys, error, code, message):
    assert exit_code(failing(error)) == code
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1
    assert ("--batch_size" in text) == ("out of memory" in text)
    with pytest.raises(UserError if "--batch_size" in text else type(error)), memory.in_one_line():
        raise error


@pytest.mark.parametrize("error", [ValueError("a bug"), JaxRuntimeError("INTERNAL: a bug")])
def test_a_bug_keeps_its_traceback_which_is_exit_code_1_of_python(error):
    with pytest.raises(type(error), match="a bug"):
        exit_code(failing(error))


def test_stand_ins_are_all_that_the_program_prints_beyond_ascii():
    found = set()
    for folder in ("cli", "pipeline", "training", "evaluation", "runs"):
        for path in (ROOT / "ttt4rec_jax" / folder).glob("*.py"):
            found |= {c for c in path.read_text(encoding="utf-8") if not c.isascii()}
    assert found <= set(terminal.STAND_INS)
