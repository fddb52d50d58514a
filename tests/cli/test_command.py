"""What every command shares: the dialect of its flags, its help, its exit codes."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.settings import UserError, check, option
from ttt4rec_jax.cli.command import Command, FinishedRun, Section, exit_code
from ttt4rec_jax.config import MODELS, Capabilities, Config, ModelConfig
from ttt4rec_jax.training.interrupt import Interrupted

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    count: int = option(3, "How many.", low=1)
    rate: float = option(0.5, "How fast.", high=1.0)
    colour: str = option("red", "Which colour.", choices=("red", "blue"))
    loud: bool = option(False, "Whether it is heard.")

    def __post_init__(self):
        check(self)


FILES = Command("Count.", (Section("Flags:", Flags),), "FILE", "What is read.")
COUNT = Command("Count.", (Section("Flags:", Flags),))


@pytest.mark.parametrize(
    ("argv", "expected", "positional"),
    [
        ([], Flags(), []),
        (["--count=4", "--rate", "1"], Flags(count=4, rate=1.0), []),
        (["-count", "4", "--loud"], Flags(count=4, loud=True), []),
        (["--loud", "--noloud"], Flags(), []),
        (["--loud=true", "--colour=blue"], Flags(loud=True, colour="blue"), []),
        (["--loud=yes"], Flags(loud=True), []),
        (["--loud", "--loud=no"], Flags(), []),
        (["a", "--count=4", "b", "--", "--c"], Flags(count=4), ["a", "b", "--c"]),
    ],
)
def test_flags_are_read_as_absl_reads_them(argv, expected, positional):
    command = FILES if positional else COUNT
    parsed = command.parse(["count.py", *argv])
    assert parsed.settings(Flags) == expected
    assert parsed.positional == positional


@pytest.mark.parametrize(
    ("command", "argv", "message"),
    [
        (COUNT, ["--cuont=4"], "--cuont: there is no such flag (did you mean '--count'?)"),
        (COUNT, ["--count=four"], "--count: 'four' is not a whole number"),
        (COUNT, ["--count=0"], "--count: 0 is out of range, expected at least 1"),
        (COUNT, ["--rate=2"], "--rate: 2.0 is out of range, expected at most 1"),
        (COUNT, ["--colour=blu"], "'blu' is not one of red, blue (did you mean 'blue'?)"),
        (COUNT, ["--loud=very"], "--loud=very: expected yes or no"),
        (COUNT, ["--loud", "false"], "'false': expected --flag=value"),
        (COUNT, ["count=4"], "'count=4': expected --flag=value"),
        (COUNT, ["--count"], "count"),
        (FILES, ["--count=4"], "FILE: missing; give at least one"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(command, argv, message):
    with pytest.raises(UserError) as error:
        command.parse(["count.py", *argv]).settings(Flags)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_given_flags_are_told_apart_from_defaults():
    assert COUNT.parse(["count.py", "--count=3", "--noloud"]).given == {"count", "loud"}


def test_choices_may_grow_after_a_class_is_made():
    names = ["a"]

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Named:
        name: str = option("a", "Which.", choices=lambda: tuple(names))

        def __post_init__(self):
            check(self)

    with pytest.raises(UserError, match="'b' is not one of a"):
        Named(name="b")
    names.append("b")
    assert Named(name="b").name == "b"
    assert "[a, b]" in Command("", (Section("", Named),)).usage("x.py")


def test_a_run_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="--run: missing"):
        FinishedRun().check_run()
    with pytest.raises(UserError, match="holds no run"):
        FinishedRun(run=str(tmp_path)).check_run()
    (tmp_path / "config.json").touch()
    FinishedRun(run=str(tmp_path)).check_run()


def raising(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("--x: found 1, expected 2"), 2, "error: --x: found 1, expected 2\n"),
        (Interrupted("stopped after step 3"), 130, "stopped after step 3; try again\n"),
        (KeyboardInterrupt(), 130, "interrupted; try again\n"),
    ],
)
def test_problems_are_one_line_on_stderr_and_an_exit_code(capsys, error, code, message):
    assert exit_code(raising(error), lambda: "try again") == code
    assert capsys.readouterr() == ("", message)


def test_an_interruption_of_a_command_that_leaves_nothing_undone(capsys):
    assert exit_code(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_other_errors_are_bugs_and_pass():
    with pytest.raises(ValueError, match="a bug"):
        exit_code(raising(ValueError("a bug")))


@pytest.mark.parametrize(("resume", "code"), [("None", 0), ("lambda: 'resume'", 130)])
def test_output_that_nobody_reads_is_no_traceback(resume, code):
    """A pipe to `head` ends a command that prints, and interrupts one that works on."""
    script = (
        "import sys\n"
        "from ttt4rec_jax.cli.command import exit_code\n"
        f"sys.exit(exit_code(lambda: [print('x' * 1000) for _ in range(1000)], {resume}))"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert done.returncode == code
    assert done.stderr == ("the output was closed; resume\n" if code else "")


EXPECTED_HELP = {
    "main.py": ("--model=", "--dataset=", "--mini_batch_size=", "--data_dir=", "--select_by="),
    "compare.py": ("RUN [RUN ...]", "--protocol=", "--json=", "seed", "reference"),
    "plot.py": ("RUN [RUN ...]", "--output=", "--metric=", "[hit@5, "),
    "export.py": ("--run=", "--output=", "--k=", "--overwrite="),
    "recommend.py": ("--run=", "--histories=", "--interactive=", "one row per click"),
    "reproduce.py": ("--table1=", "--seeds=0", "--presets=fair,authors", "--quick=", "--jobs="),
}


@pytest.mark.parametrize("script", EXPECTED_HELP)
def test_help_imports_no_jax_and_needs_no_docstrings(tmp_path, script):
    command = [sys.executable, "-OO", str(ROOT / "experiments" / script), "--help"]
    environment = os.environ | {
        "PYTHONPROFILEIMPORTTIME": "1",
        "PYTHONPYCACHEPREFIX": str(tmp_path),
    }
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    assert done.returncode == 0
    for text in EXPECTED_HELP[script]:
        assert text in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"jax", "flax", "polars", "matplotlib"}


def test_a_model_may_be_registered_after_the_settings_are_imported(monkeypatch):
    monkeypatch.setitem(MODELS, "mean_pool", Capabilities(("last",)))
    assert Config(model=ModelConfig(model="mean_pool")).train.targets == "last"
