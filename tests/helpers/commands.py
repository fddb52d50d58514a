"""The commands of experiments/, in processes of their own."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from ttt4rec_jax.config.requirements import is_within

ROOT = Path(__file__).parents[2]
SMALL = ["--dim=16", "--epochs=2", "--batch_size=128", "--learning_rate=0.005"]
# Compile a program in a quarter of the time: LLVM code for fusions is emitted directly, instead of
# through MLIR, and by one thread, since each core runs tests of its own.
QUICK_XLA = {"xla_cpu_parallel_codegen_split_count": 1}
if is_within(metadata.version("jaxlib"), "<0.11"):  # later versions have no such option
    QUICK_XLA["xla_cpu_use_fusion_emitters"] = False
# The environment of processes whose speed and bits are not compared with those of others ...
QUICK_TO_COMPILE = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": " ".join(f"--{name}={value}".lower() for name, value in QUICK_XLA.items()),
}
# ... and of those that are about bits, speed or real data.
OPTIMIZED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}


def run_script(script: str, environment, *flags, cwd, **options):
    """Run a script of experiments/ in a process of its own."""
    command = [sys.executable, str(ROOT / "experiments" / f"{script}.py"), *flags]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=600, **options
    )


def run_main(environment, *flags, cwd, **options):
    """Run main.py in a process of its own."""
    return run_script("main", environment, *flags, cwd=cwd, **options)


TRY_COMMANDS = """
import contextlib, importlib, io, json, sys
sys.path.insert(0, sys.argv[1])
main = importlib.import_module(sys.argv[2]).main
outcomes = []
for flags in json.loads(sys.argv[3]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([f"experiments/{sys.argv[2]}.py", *flags])
    outcomes.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([outcomes, sorted(sys.modules)]))
"""


def try_mistakes(command: str, mistakes, cwd, environment=None) -> dict[str, list]:
    """Return {flags: [exit code, stdout, stderr]} of a command of experiments/, such as "main".

    All mistakes are tried in one process, in which none of them may import JAX.
    """
    listed = json.dumps([flags.split() for flags in mistakes])
    program = [sys.executable, "-c", TRY_COMMANDS, str(ROOT / "experiments"), command, listed]
    done = subprocess.run(
        program, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    outcomes, modules = json.loads(done.stdout)
    assert not {"jax", "flax"} & set(modules)
    return dict(zip(mistakes, outcomes, strict=True))


def assert_one_line(outcome: list, message: str) -> None:
    """The outcome of try_mistakes is exit code 2 and one line on stderr that holds `message`."""
    code, out, err = outcome
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert message in err


def load_script(name: str):
    """Return the module of a script in experiments/."""
    spec = importlib.util.spec_from_file_location(
        f"experiments_{name}", ROOT / "experiments" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUN_COMMANDS = """
import contextlib, importlib.util, io, json, sys

spec = importlib.util.spec_from_file_location("script", sys.argv[1])
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
results = []
for flags in json.loads(sys.argv[2]):
    out = io.StringIO()
    err = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = script.main([sys.argv[1], *flags])
        except SystemExit as exit:
            code = exit.code
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([results, sorted(sys.modules)]))
"""


def run_commands(script: str, commands: list[list[str]], environment, cwd):
    """Run a script of experiments/ several times in one new process.

    Return the [exit code, stdout, stderr] of each command, and the modules that were imported.
    """
    path = str(ROOT / "experiments" / f"{script}.py")
    done = subprocess.run(
        [sys.executable, "-c", RUN_COMMANDS, path, json.dumps(commands)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    results, modules = json.loads(done.stdout)
    return results, set(modules)
