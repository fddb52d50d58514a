"""What is read is data: no file that the project opens can make it run code."""

import ast
import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from data_prep.settings import UserError
from ttt4rec_jax.runs import items

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("ttt4rec_jax", "data_prep", "experiments")
    for path in (ROOT / folder).rglob("*.py")
)
RUNS_CODE = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "runpy",
    "imp",
}
BUILT_IN = {"eval", "exec", "compile", "__import__"}


def dangers(source: str) -> list[str]:
    """What in a module could run what a file says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in RUNS_CODE]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").split(".")[0] in RUNS_CODE else []
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in BUILT_IN
        ):
            found.append(node.func.id)
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found += (
                []
                if isinstance(node.value, ast.Constant) and node.value.value is False
                else ["allow_pickle"]
            )
    return found


def test_nothing_that_runs_code_is_used():
    assert len(SOURCES) > 50
    assert {
        str(path): found for path in SOURCES if (found := dangers(path.read_text(encoding="utf-8")))
    } == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "eval(text)",
        "import joblib.x",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert dangers(source)


class Trap:
    """Written by pickle, it writes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "ran")


def test_training_clicks_from_elsewhere_run_nothing(tmp_path):
    sprung = tmp_path / "sprung"
    objects = io.BytesIO()
    np.save(objects, np.array([Trap(sprung)], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(io.BytesIO(objects.getvalue()))
    np.savez(
        tmp_path / "clicks.npz",
        items=np.array([Trap(sprung)], object),
        offsets=np.zeros(2, np.int64),
    )
    with pytest.raises(UserError, match="cannot be read"):
        items.training_clicks(tmp_path / "clicks.npz")
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))  # the trap does work
    assert sprung.read_text() == "ran"
