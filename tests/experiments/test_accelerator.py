"""accelerator.py runs dry, and what fails or takes too long loses nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.settings import UserError

BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"
# with what the public file needs of its surroundings: a helper, and an older jax.numpy
PUBLIC = """
from typing import Any
import jax.numpy as jnp
from flax import linen as nn
from ttt.infra.jax_utils import with_sharding_constraint

class TTTLinearBase(nn.Module):
    config: Any
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x, position_ids):
        return (jnp.clip(nn.Dense(x.shape[-1])(x), a_min=0.0),)
"""
CHILD = """
import json, os, sys, time

name, file = sys.argv[1:3]
with open(file, "a") as rows:
    rows.write(json.dumps({"figure": name}) + "\\n")
    if name == "layer":
        rows.write(json.dumps({"failed": "ValueError: broken"}) + "\\n")
if name == "layer":
    sys.exit(1)
if name == "epoch":
    print("out of luck", flush=True)
    os.abort()
if name == "sweep":
    time.sleep(600)
"""


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import accelerator

    return accelerator


@pytest.fixture
def settings(accelerator, tmp_path):
    return accelerator.Settings(
        dry=True,
        data={"beauty": "generated", "ml1m": "generated"},
        data_dir="",
        cache_dir="",
        public="",
        work=str(tmp_path),
        commit="",
    )


def test_a_dry_run_writes_json_and_table(environment, tmp_path):
    (tmp_path / "public.py").write_text(PUBLIC)
    command = [sys.executable, str(BENCHMARKS / "accelerator.py"), "--dry", "--public=public.py"]
    files = ["--json=figures.json", "--table=table.md", "--sections=machine,layer"]
    done = subprocess.run(
        [*command, *files],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["dry"] and "mean nothing" in figures["note"]
    assert list(figures["sections"]) == ["machine", "layer"]
    assert {section["status"] for section in figures["sections"].values()} == {"done"}
    assert figures["sections"]["machine"]["rows"][0] == {"what": "platform", "value": "cpu"}
    (row,) = figures["sections"]["layer"]["rows"]
    assert "error" not in row
    assert min(row["ours_ms"], row["attention_ms"], row["public_ms"]) > 0
    table = (tmp_path / "table.md").read_text()
    assert figures["note"] in table and "| N | b | ours_ms |" in table
    assert table.strip() in done.stdout


def test_a_section_that_fails_does_not_lose_the_others(
    accelerator, settings, tmp_path, monkeypatch
):
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setattr(accelerator, "SECTIONS", tmp_path / "child.py")
    monkeypatch.setattr(accelerator, "LEAST_S", 2.0)
    short = accelerator.Section(0.0, "Too long")
    monkeypatch.setitem(accelerator.MEASURED, "sweep", short)
    recorded = []
    names = ["machine", "layer", "epoch", "sweep", "serving"]
    sections = accelerator.measure(names, settings, 400.0, lambda x: recorded.append(list(x)))
    assert recorded == [names[: n + 1] for n in range(len(names))]
    assert {name: section["status"] for name, section in sections.items()} == {
        "machine": "done",
        "layer": "failed",
        "epoch": "failed",
        "sweep": "cut off after its 2 s",
        "serving": "done",
    }
    assert sections["layer"]["error"] == "ValueError: broken"
    assert "out of luck" in sections["epoch"]["error"]
    assert all(section["rows"] == [{"figure": name}] for name, section in sections.items())
    page = accelerator.page({"note": "", "about": {}, "sections": sections})
    assert "failed, 0 s: ValueError: broken" in page


def test_every_section_has_a_task(accelerator):
    import accelerator_sections

    assert set(accelerator.MEASURED) <= set(accelerator_sections.TASKS)


def test_what_has_no_time_left_is_listed(accelerator, settings):
    sections = accelerator.measure(["machine", "layer"], settings, 0.1, lambda _: None)
    assert {section["status"] for section in sections.values()} == {"left out: no time"}


def test_rows_with_errors_are_counted(accelerator):
    rows = [{"case": "a", "s": 1.5, "error": "no | memory"}, {"case": "b", "s": None, "ms": 2.0}]
    section = {"about": "x", "status": "done", "seconds": 1.0, "error": "", "rows": rows}
    text = accelerator.page({"note": "", "about": {}, "sections": {"epoch": section}})
    assert "1 of 2 rows with errors" in text
    assert "| case | s | ms | error |" in text
    assert "| a | 1.5 | - | no / memory |" in text


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"sections": "layr"}, "--sections: 'layr' is not one of .*did you mean 'layer'"),
        ({"public": "nowhere.py"}, "--public: nowhere.py is not a file; expected"),
        ({"budget_s": 0.0}, "--budget_s"),
    ],
)
def test_a_wrong_flag_is_named(accelerator, flags, message):
    with pytest.raises(UserError, match=message):
        accelerator.AcceleratorFlags(**flags)
