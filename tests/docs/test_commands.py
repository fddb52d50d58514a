"""The commands and flags that README and docs/ name exist."""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pages import NAMES, PAGES, ROOT, blocks

from ttt4rec_jax.__main__ import COMMANDS

SCRIPTS = {"main": "train"} | {name: name for name in COMMANDS if name not in ("train", "sweep")}
# what running text names beside the flags of commands: flags of other programs, and a placeholder
OF_OTHERS = {"help", "name", "noname", "xla_gpu_exclude_nondeterministic_ops"}
BENCHMARKS = sorted(path.relative_to(ROOT) for path in ROOT.glob("experiments/benchmarks/*.py"))


@functools.cache
def flags_of(command: str) -> set[str]:
    """Return the flags that a command's --help lists, with --noX for those that are on or off."""
    words = [sys.executable, "-m", "ttt4rec_jax", command, "--help"]
    process = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    found = re.findall(r"^ +--(\w+)=(\S*)", process.stdout, re.M)
    switches = {f"no{name}" for name, default in found if default in ("True", "False")}
    return {"help"} | {name for name, _ in found} | switches


def flags_of_script(path: str | Path) -> set[str]:
    """Return the flags that a script declares as fields, or that it shares with its neighbours."""
    shared = (ROOT / path).with_name("command_line.py")
    files = [ROOT / path, *([shared] if shared.exists() else [])]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return {"help"} | set(re.findall(r"^ +(\w+): \w+ = option\(", source, re.M))


def command_lines(text: str) -> list[list[str]]:
    """Return the words of each command in a bash block or a piece of code in running text."""
    lines = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\|", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"\w+=\S*", words[0]):  # VARIABLE=value
                words.pop(0)
            lines.append(words)
    return [words for words in lines if words]


def known_flags(words: list[str]) -> set[str] | None:
    """Return the flags of the command that the words call; None if it is none of this project."""
    program = words[0].rsplit("/", 1)[-1]
    if program == "ttt4rec":
        if len(words) < 2 or words[1].startswith("--"):
            return {"help", "version"}
        assert words[1] in COMMANDS, f"ttt4rec has no command {words[1]}"
        return flags_of(words[1])
    if program.startswith("python") and len(words) > 1 and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), f"there is no {words[1]}"
        script = re.fullmatch(r"experiments/(\w+)\.py", words[1])
        return flags_of(SCRIPTS[script[1]]) if script else flags_of_script(words[1])
    return None


def wrong_flags(words: list[str], more: set[str] = frozenset()) -> list[str]:
    """Return the flags of a command line that its command does not have."""
    known = known_flags(words)
    if known is None:
        return []
    given = [match[1] for word in words if (match := re.match(r"--([\w-]+)", word))]
    return [f"{' '.join(words[:2])}: --{name}" for name in given if name not in known | more]


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_flags_of_bash_blocks_exist(path):
    wrong = []
    for block in blocks(path, "bash"):
        kind, names = block.comment
        more = set(names.split(", ")) if kind == "flags of the example" else set()
        for words in command_lines(block.text):
            wrong += wrong_flags(words, more)
    assert wrong == []


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_flags_in_running_text_exist(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    known = OF_OTHERS.union(*map(flags_of, COMMANDS))
    if path.name == "benchmarks.md":
        known = known.union(*map(flags_of_script, BENCHMARKS))
    own = {name for block in blocks(path, "bash") for name in block.comment[1].split(", ")}
    wrong = []
    for code in re.findall(r"`([^`]+)`", text):
        words = shlex.split(code.replace("'", " "), comments=True)
        if words and words[0].startswith("--"):
            names = [match[1] for word in words if (match := re.match(r"--([\w-]+)", word))]
            wrong += [f"--{name}" for name in names if name not in known | own]
        elif words:
            wrong += wrong_flags(words, own)
    assert wrong == []
