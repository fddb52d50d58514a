"""The Python code of README and docs/ runs as it is printed."""

import os

import pytest
from helpers import few_users
from pages import NAMES, PAGES, blocks

RUNS = {"first": "ttt4rec", "sasrec": "sasrec"}  # that pages take for granted, in runs/


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with finished runs on few users of the synthetic data, for all pages."""
    import ttt4rec_jax as t4r

    folder = tmp_path_factory.mktemp("pages")
    with few_users(folder, 300) as patch:
        patch.chdir(folder)
        data = t4r.prepare("synthetic")
        for name, model in RUNS.items():
            t4r.train(data, model=model, epochs=1, run_dir=f"runs/{name}", progress=False)
        yield folder


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_python_blocks_of_a_page_run(path, folder):
    assert os.getcwd() == str(folder)
    namespace = {"__name__": "__main__"}
    for block in blocks(path, "python"):
        # line numbers of a traceback are those of the page
        code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
        if block.comment[0] != "not executed":
            exec(code, namespace)
