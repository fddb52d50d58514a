"""The paper's experiments as a list of runs and as a report, on run folders made here as the trainer writes them."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import make_finished_job

from data_prep.settings import UserError
from ttt4rec_jax.paper import claims, document, report
from ttt4rec_jax.paper import jobs as reproduce
from ttt4rec_jax.paper.jobs import Plan
from ttt4rec_jax.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A reproduction on two data sets, all finished: ComiRec best, TTT4Rec as good as the others."""
    plan = Plan(tmp_path_factory.mktemp("whole"), datasets=("beauty", "ml1m"), seeds=3)
    reproduce.save_plan(plan)
    for job in reproduce.jobs(plan):
        make_finished_job(
            job,
            plan.output,
            {
                "comirec_sa": 3.2,
                "comirec_dr": 3.1,
                "ttt4rec": 2.5,
                "popularity": 0.5,
                "itemknn": 1.0,
            },
        )
    line = {
        "run": "beauty/din-0",
        "seconds": 3600.0,
        "exit": 0,
        "environment": reproduce.environment(),
    }
    (plan.output / "journal.jsonl").write_text(json.dumps(line) + '\n{"cut o')
    return plan


def test_the_runs_are_those_of_the_paper_once_each(tmp_path):
    plan = Plan(tmp_path, datasets=("beauty", "ml1m"), seeds=3)
    names = [job.name for job in reproduce.jobs(plan)]
    assert len(names) == len(set(names)) == 2 * (9 * 3 + 2) + 1, "Figure 2's runs are Table 1's"
    seeds = [int(name[-1]) for name in names[1:]]
    assert names[0] == "beauty/figure3" and seeds == sorted(seeds), (
        "longest first, then seed by seed"
    )
    configs = {job.name: job.combinations for job in reproduce.jobs(plan)}
    assert (
        configs["beauty/comirec_sa-1"][""].train.epochs == 50
        and configs["beauty/din-1"][""].train.epochs == 10
    )
    assert (
        configs["ml1m/ttt_mlp-2"][""].model.inner == "mlp"
        and configs["ml1m/ttt_mlp-2"][""].train.seed == 2
    )
    assert len(configs["beauty/figure3"]) == 6 * 4 * 3
    quick = {
        job.name: job.combinations
        for job in reproduce.jobs(dataclasses.replace(plan, quick=True, seeds=1))
    }
    assert all(
        c.train.epochs <= 4
        for n, by in quick.items()
        for c in by.values()
        if n.split("/")[1][:3] not in ("pop", "ite")
    )
    alone = reproduce.jobs(Plan(tmp_path, parts=("figure2",), datasets=("ml1m",), seeds=1))
    assert [job.name for job in alone] == [
        "ml1m/comirec_sa-0",
        "ml1m/comirec_dr-0",
        "ml1m/ttt4rec-0",
    ]


def test_the_table_holds_the_runs_means_and_marks(whole):
    found = report.collect(whole)
    assert not found.missing
    table = report.table1(report.by_dataset(whole, found)["ml1m"], whole.seeds, {}, "ml1m")
    rows = {row[0]: row for row in table.rows if row}
    assert list(rows) == [
        reproduce.TITLES[m] for m in (*reproduce.PAPER, *reproduce.EXTRAS, *reproduce.FLOORS)
    ]
    assert [row is None for row in table.rows].count(True) == 2
    for model in ("gru4rec", "comirec_sa", "itemknn"):
        seeds = range(1 if model in reproduce.FLOORS else 3)
        results = [
            json.loads((whole.output / f"runs/ml1m/{model}-{s}/result.json").read_text())
            for s in seeds
        ]
        values = [r["test"]["sampled"]["hit@10"] for r in results]
        std = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        assert rows[reproduce.TITLES[model]][5].text == f"{np.mean(values):.4f}{std}"
    column = table.header.index("NDCG@5 1:99")
    means = {name: float(row[column].text.split()[0]) for name, row in rows.items()}
    paper = sorted((reproduce.TITLES[m] for m in reproduce.PAPER), key=lambda name: -means[name])
    assert rows[paper[0]][column].style == "b" and rows[paper[1]][column].style == "u"
    assert {row[column].style for name, row in rows.items() if name not in paper[:2]} == {""}
    assert rows["TTT4Rec"][column].text.endswith("▼"), "ComiRec is far better here"


def test_the_marks_are_compares_own_test(whole):
    of = report.by_dataset(whole, report.collect(whole))["ml1m"]
    from ttt4rec_jax.evaluation.compare import compare

    runs = [
        whole.output / f"runs/ml1m/{m}-{s}"
        for m in ("ttt4rec", "din", "gru4rec", "sasrec", "comirec_sa", "comirec_dr")
        for s in range(3)
    ]
    expected = compare(runs)["results"]["full"]
    mark, best, value, p = report.against_best(of)["full"]["ndcg@10"]
    assert best == max(
        (m for m in expected["means"] if m != "ttt4rec"),
        key=lambda m: expected["means"][m]["ndcg@10"],
    )
    assert (-value, p) == (
        expected["differences"][best]["ndcg@10"]["difference"],
        expected["differences"][best]["ndcg@10"]["p_holm"],
    )
    assert mark == ("▼" if value < 0 else "▲") * (p < 0.05)


def verdicts(plan):
    found = report.collect(plan)
    return [c.verdict for c in report.claims_of(plan, found, report.by_dataset(plan, found))]


def test_claims_that_are_true_of_the_runs_held(whole):
    par, comirec, slow, batches, ranges = verdicts(whole)
    assert (par, comirec, slow, batches, ranges) == (claims.HELD,) * 5


def test_claims_that_are_false_of_the_runs_did_not_hold(tmp_path):
    plan = Plan(tmp_path, datasets=("beauty",), seeds=2)
    for job in reproduce.jobs(plan):
        make_finished_job(
            job, plan.output, {"sasrec": 3.0, "ttt4rec": 2.0, "comirec_sa": 1.0, "comirec_dr": 1.0}
        )
    par, comirec, *_ = verdicts(plan)
    assert (par, comirec) == (claims.NOT, claims.NOT)


def test_a_claim_without_its_runs_is_undecided_and_chance_is_not_shown(tmp_path):
    plan = Plan(tmp_path, parts=("table1",), datasets=("beauty",), seeds=1)
    assert verdicts(plan) == [claims.UNDECIDED] * 5
    for job in reproduce.jobs(plan):
        make_finished_job(job, plan.output, {"comirec_sa": 2.0, "comirec_dr": 2.0, "ttt4rec": 2.0})
    assert verdicts(plan)[1] in (claims.UNSHOWN,) and verdicts(plan)[3:] == [claims.UNDECIDED] * 2
    assert claims.worst([claims.HELD, claims.UNDECIDED]) == claims.PART
    assert claims.worst([claims.NOT, claims.UNDECIDED]) == claims.NOT
    assert claims.worst([]) == claims.UNDECIDED


def test_the_report_stands_alone_and_says_what_it_rests_on(whole):
    paths = report.write(whole)
    text, page = (path.read_text() for path in paths)
    assert "ab" * 32 in text and "ab" * 32 in page
    for said in (
        "TTT4Rec",
        "95% interval",
        "Holm",
        "jax ",
        "1.00 h",
        "seconds, all seeds",
        "Decided by",
        "split of beauty",
    ):
        assert said in text and said in page, said
    assert not re.findall(r'(?:src|href)="(?!data:)', page), "nothing is loaded from elsewhere"
    assert page.count("data:image/png;base64,") == 2
    sizes = [(whole.output / f"figure{n}.png").stat().st_size for n in (2, 3)]
    assert all(1000 < size < 100_000 for size in sizes)
    assert "Quick" not in text
    assert "claim" in text and "No run is finished" not in text


def test_a_quick_report_says_so_on_every_page_and_names_what_is_missing(tmp_path):
    plan = Plan(tmp_path, datasets=("beauty",), seeds=1, quick=True)
    jobs = {job.name: job for job in reproduce.jobs(plan)}
    for name in ("beauty/din-0", "beauty/ttt4rec-0"):
        make_finished_job(jobs[name], tmp_path, {})
    log = reproduce.log_path(jobs["beauty/sasrec-0"], tmp_path)
    log.parent.mkdir()
    log.write_text("epoch 1\nerror: the loss is not finite\n")
    text, page = (path.read_text() for path in report.write(plan))
    assert text.count("Quick run: 1 seed") >= text.count("\n## ") and 'class="note"' in page
    assert "failed: the loss is not finite" in text and "missing: beauty/popularity-0" in text
    assert "cannot be decided" in text and "over users alone" not in text


def test_a_folder_with_runs_of_other_settings_is_refused(tmp_path):
    plan = Plan(tmp_path, parts=("figure2",), datasets=("beauty",), seeds=1)
    make_finished_job(reproduce.jobs(plan)[0], tmp_path, {})
    with pytest.raises(UserError, match="other settings"):
        reproduce.jobs(dataclasses.replace(plan, quick=True))[0].is_finished(tmp_path)


def test_a_damaged_run_is_missing_with_its_reason(tmp_path):
    plan = Plan(tmp_path, parts=("figure2",), datasets=("beauty",), seeds=1)
    for job in reproduce.jobs(plan):
        make_finished_job(job, tmp_path, {})
    RunFolder(tmp_path / "runs" / "beauty" / "ttt4rec-0").ranks.write_bytes(b"PAR1")
    found = report.collect(plan)
    assert "cannot be read" in found.missing["beauty/ttt4rec-0"] and len(found.runs) == 2
    report.write(plan)


def test_a_document_escapes_and_marks():
    table = document.Table(
        ["a", "b"], [["<x>|", document.Cell("1", "b")], None, ["y", document.Cell("2", "u")]]
    )
    blocks = [document.Text("a < b, **bold**"), table]
    page = document.as_html("T & T", "note", blocks)
    text = document.markdown("T", "", blocks)
    assert (
        "a &lt; b, <b>bold</b>" in page
        and "&lt;x&gt;|" in page
        and "<b>1</b>" in page
        and "<u>2</u>" in page
    )
    assert "<tr class=line><td>y" in page and "T &amp; T" in page
    assert "| &lt;x>\\| | **1** |" in text and "| --- |  |" in text


# The driver, with a stand-in for main.py

STAND_IN = """
import json, os, pathlib, signal, sys, time
flags = dict(f[2:].split("=", 1) for f in sys.argv[1:] if "=" in f)
folder = pathlib.Path(flags["run_dir"])
folder.mkdir(parents=True, exist_ok=True)
(folder / "calls").open("a").write(" ".join(sys.argv[1:]) + "\\n")
(folder / "cores").write_text(json.dumps(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []))
if flags["model"] == "comirec_dr":
    print("error: no luck", file=sys.stderr); sys.exit(2)
if flags["model"] == "ttt4rec" and "--resume" not in sys.argv:
    def stop(*_): sys.exit(130)
    signal.signal(signal.SIGINT, stop)
    (folder / "config.json").write_text(pathlib.Path(sys.argv[0]).with_name("config").read_text())
    time.sleep(60)
"""


@pytest.mark.parametrize("at_once", [1, 2])
def test_runs_go_on_after_a_failure_and_after_an_interruption(tmp_path, at_once):
    plan = Plan(tmp_path / "out", parts=("figure2",), datasets=("beauty",), seeds=1)
    jobs = reproduce.jobs(plan)
    (tmp_path / "main.py").write_text(STAND_IN)
    (tmp_path / "config").write_text(json.dumps(jobs[2].combinations[""].to_dict()))
    script = (
        "import sys; from pathlib import Path; from ttt4rec_jax.paper import jobs as r\n"
        "from ttt4rec_jax.training.interrupt import Interrupted\n"
        "plan = r.Plan(Path(sys.argv[2]), parts=('figure2',), datasets=('beauty',), seeds=1)\nr.save_plan(plan)\n"
        "try: r.run_all(plan, Path(sys.argv[1]), ['--data_dir=there'], int(sys.argv[3]), lambda x: print(x, flush=True))\n"
        "except Interrupted as e: print(e); sys.exit(130)"
    )
    command = [
        sys.executable,
        "-c",
        script,
        str(tmp_path / "main.py"),
        str(plan.output),
        str(at_once),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    config = plan.output / "runs/beauty/ttt4rec-0/config.json"
    started = time.time()
    while not config.exists() and time.time() < started + 120:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert (
        process.returncode == 130
        and "failed: no luck" in said
        and "beauty/ttt4rec-0 stopped" in said
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    calls = (plan.output / "runs/beauty/ttt4rec-0/calls").read_text().splitlines()
    assert (
        len(calls) == 2
        and "--resume" not in calls[0]
        and calls[1].endswith("--resume --data_dir=there")
    )
    cores = [json.loads(path.read_text()) for path in plan.output.glob("runs/beauty/*/cores")]
    assert {tuple(found) for found in cores} <= {*reproduce.shares(at_once)}
    lines = reproduce.journal(plan.output)
    assert [line["exit"] for line in lines][:3] == [0, 2, 130] and lines[0]["environment"][
        "versions"
    ]["python"]


def test_cores_are_shared_out_whole_and_once(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 0, 1, 2, 9})
    assert reproduce.shares(2) == [(0, 2, 9), (1, 4)] and reproduce.shares(1) == [(0, 1, 2, 4, 9)]
    assert reproduce.shares(6) == [()] * 6, "more processes than cores: the system shares them out"


def command(*arguments, cwd):
    program = [sys.executable, str(ROOT / "experiments" / "reproduce.py"), *arguments]
    return subprocess.run(
        program, capture_output=True, text=True, cwd=cwd, env=os.environ, timeout=300
    )


def test_a_dry_run_lists_and_writes_nothing(tmp_path):
    done = command("--quick", "--dry_run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "to train  beauty/ttt4rec-0" in done.stdout and "12 of 12 to train" in done.stdout
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--datasets=beuty", "--datasets: 'beuty'"),
        ("--seeds=0", "--seeds: 0"),
        ("--jobs=0", "--jobs: 0"),
        ("--tabel1", "--tabel1"),
        ("--report_only --output=nowhere", "--report_only: nowhere is not there"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path, arguments, said):
    done = command(*arguments.split(), cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and said in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.strip().count("\n") == 0
    assert not any(tmp_path.iterdir())
