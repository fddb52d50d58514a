"""The paper's experiments as jobs and as a report, on run folders as the trainer writes them."""

import dataclasses
import json
import re

import numpy as np
import pytest
from helpers import make_finished_job

from data_prep.settings import UserError
from ttt4rec_jax.evaluation.compare import compare
from ttt4rec_jax.paper import claims, document, driver, report, table1
from ttt4rec_jax.paper.jobs import BASELINES, EXTRAS, PAPER, TITLES, Plan, jobs, save_plan
from ttt4rec_jax.paper.results import table1_runs
from ttt4rec_jax.runs.folder import RunFolder

SEEDS = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished reproduction on two data sets: ComiRec best, TTT4Rec as good as the others."""
    plan = Plan(tmp_path_factory.mktemp("whole"), datasets=("beauty", "ml1m"), seeds=SEEDS)
    save_plan(plan)
    skills = {
        "comirec_sa": 3.2,
        "comirec_dr": 3.1,
        "ttt4rec": 2.5,
        "popularity": 0.5,
        "itemknn": 1.0,
    }
    for job in jobs(plan):
        make_finished_job(job, plan.output, skills)
    entry = {
        "run": "beauty/din-0",
        "seconds": 3600.0,
        "exit": 0,
        "environment": driver.environment(),
    }
    (plan.output / "journal.jsonl").write_text(json.dumps(entry) + '\n{"cut o')
    return plan


@pytest.fixture(scope="module")
def results(whole):
    return report.collect(whole)


def decided(plan, results):
    """Return the verdicts on the five claims."""
    return [
        claim.verdict for claim in report.decide_claims(plan, results, table1_runs(plan, results))
    ]


def test_the_jobs_are_those_of_the_paper_once_each(tmp_path):
    plan = Plan(tmp_path, datasets=("beauty", "ml1m"), seeds=3)
    names = [job.name for job in jobs(plan)]
    assert len(names) == len(set(names)) == 2 * (9 * 3 + 2) + 1, "Figure 2's runs are Table 1's"
    assert names[0] == "beauty/figure3", "the longest first"
    seeds = [int(name[-1]) for name in names[1:]]
    assert seeds == sorted(seeds)
    configs = {job.name: job.combinations for job in jobs(plan)}
    assert configs["beauty/comirec_sa-1"][""].train.epochs == 50
    assert configs["beauty/din-1"][""].train.epochs == 10
    assert configs["ml1m/ttt_mlp-2"][""].model.inner == "mlp"
    assert configs["ml1m/ttt_mlp-2"][""].train.seed == 2
    assert len(configs["beauty/figure3"]) == 6 * 4 * 3
    for job in jobs(dataclasses.replace(plan, quick=True, seeds=1)):
        if not job.name.split("/")[1].startswith(BASELINES):
            assert all(config.train.epochs <= 4 for config in job.combinations.values())
    alone = jobs(Plan(tmp_path, parts=("figure2",), datasets=("ml1m",), seeds=1))
    assert [job.name for job in alone] == [
        "ml1m/comirec_sa-0",
        "ml1m/comirec_dr-0",
        "ml1m/ttt4rec-0",
    ]


def test_the_table_holds_the_runs_means_and_marks(whole, results):
    assert not results.missing
    table = table1.table(table1_runs(whole, results)["ml1m"], whole.seeds, {}, "ml1m")
    rows = {row[0]: row for row in table.rows if row}
    assert list(rows) == [TITLES[m] for m in (*PAPER, *EXTRAS, *BASELINES)]
    assert [row is None for row in table.rows].count(True) == 2
    for model in ("gru4rec", "comirec_sa", "itemknn"):
        seeds = range(1 if model in BASELINES else SEEDS)
        values = [
            json.loads((whole.output / f"runs/ml1m/{model}-{seed}/result.json").read_text())[
                "test"
            ]["sampled"]["hit@10"]
            for seed in seeds
        ]
        std = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        assert rows[TITLES[model]][5].text == f"{np.mean(values):.4f}{std}"
    column = table.header.index("NDCG@5 1:99")
    means = {name: float(row[column].text.split()[0]) for name, row in rows.items()}
    paper = sorted((TITLES[m] for m in PAPER), key=lambda name: -means[name])
    assert rows[paper[0]][column].style == "b"
    assert rows[paper[1]][column].style == "u"
    assert {row[column].style for name, row in rows.items() if name not in paper[:2]} == {""}
    assert rows["TTT4Rec"][column].text.endswith("▼"), "ComiRec is far better here"


def test_the_marks_come_from_compares_own_test(whole, results):
    models = ("ttt4rec", "din", "gru4rec", "sasrec", "comirec_sa", "comirec_dr")
    runs = [whole.output / f"runs/ml1m/{m}-{seed}" for m in models for seed in range(SEEDS)]
    expected = compare(runs)["results"]["full"]
    by_model = table1_runs(whole, results)["ml1m"]
    mark, best, value, p = table1.against_best(by_model)["full"]["ndcg@10"]
    assert best == max(
        (m for m in expected["means"] if m != "ttt4rec"),
        key=lambda m: expected["means"][m]["ndcg@10"],
    )
    difference = expected["differences"][best]["ndcg@10"]
    assert (-value, p) == (difference["difference"], difference["p_holm"])
    significant = "▼" if value < 0 else "▲"
    assert mark == (significant if p < 0.05 else "")


def test_claims_that_are_true_of_the_runs_held(whole, results):
    assert decided(whole, results) == [claims.HELD] * 5


def test_claims_that_are_false_of_the_runs_did_not_hold(tmp_path):
    plan = Plan(tmp_path, parts=("table1",), datasets=("beauty",), seeds=2)
    skills = {"sasrec": 3.0, "ttt4rec": 2.0, "comirec_sa": 1.0, "comirec_dr": 1.0}
    for job in jobs(plan):
        make_finished_job(job, plan.output, skills)
    par, comirec, *_ = decided(plan, report.collect(plan))
    assert (par, comirec) == (claims.DID_NOT_HOLD, claims.DID_NOT_HOLD)


def test_a_claim_without_its_runs_is_undecided_and_chance_is_not_shown(tmp_path):
    plan = Plan(tmp_path, parts=("table1",), datasets=("beauty",), seeds=1)
    assert decided(plan, report.collect(plan)) == [claims.UNDECIDED] * 5
    for job in jobs(plan):
        make_finished_job(job, plan.output, {"comirec_sa": 2.0, "comirec_dr": 2.0, "ttt4rec": 2.0})
    verdicts = decided(plan, report.collect(plan))
    assert verdicts[1] == claims.NOT_SHOWN
    assert verdicts[3:] == [claims.UNDECIDED] * 2


def test_several_verdicts_are_combined():
    assert claims.combine([claims.HELD, claims.HELD]) == claims.HELD
    assert claims.combine([claims.HELD, claims.UNDECIDED]) == claims.HELD_IN_PART
    assert claims.combine([claims.DID_NOT_HOLD, claims.UNDECIDED]) == claims.DID_NOT_HOLD
    assert claims.combine([claims.NOT_SHOWN, claims.UNDECIDED]) == claims.NOT_SHOWN
    assert claims.combine([]) == claims.UNDECIDED


def test_the_report_is_self_contained_and_names_its_conditions(whole):
    text, page = (path.read_text() for path in report.write(whole))
    for expected in (
        "ab" * 32,
        "TTT4Rec",
        "95% interval",
        "Holm",
        "jax ",
        "1.00 h",
        "seconds, all seeds",
        "Decided by",
        "split of beauty",
        "claim",
    ):
        assert expected in text, expected
        assert expected in page, expected
    assert not re.findall(r'(?:src|href)="(?!data:)', page), "nothing is loaded from elsewhere"
    assert page.count("data:image/png;base64,") == 2
    sizes = [(whole.output / f"figure{n}.png").stat().st_size for n in (2, 3)]
    assert all(1000 < size < 100_000 for size in sizes)
    assert "Quick" not in text
    assert "No run is finished" not in text


def test_a_quick_report_says_so_on_every_page_and_names_what_is_missing(tmp_path):
    plan = Plan(tmp_path, datasets=("beauty",), seeds=1, quick=True)
    by_name = {job.name: job for job in jobs(plan)}
    for name in ("beauty/din-0", "beauty/ttt4rec-0"):
        make_finished_job(by_name[name], tmp_path, {})
    log = driver.log_path(by_name["beauty/sasrec-0"], tmp_path)
    log.parent.mkdir()
    log.write_text("epoch 1\nerror: the loss is not finite\n")
    text, page = (path.read_text() for path in report.write(plan))
    assert text.count("Quick run: 1 seed and") >= text.count("\n## ")
    assert 'class="note"' in page
    assert "failed: the loss is not finite" in text
    assert "missing: beauty/popularity-0" in text
    assert "cannot be decided" in text
    assert "over users alone" not in text


def test_a_folder_with_runs_of_other_settings_is_refused(tmp_path):
    plan = Plan(tmp_path, parts=("figure2",), datasets=("beauty",), seeds=1)
    make_finished_job(jobs(plan)[0], tmp_path, {})
    with pytest.raises(UserError, match="other settings"):
        jobs(dataclasses.replace(plan, quick=True))[0].is_finished(tmp_path)


def test_a_damaged_run_is_missing_with_its_reason(tmp_path):
    plan = Plan(tmp_path, parts=("figure2",), datasets=("beauty",), seeds=1)
    for job in jobs(plan):
        make_finished_job(job, tmp_path, {})
    RunFolder(tmp_path / "runs" / "beauty" / "ttt4rec-0").ranks.write_bytes(b"PAR1")
    results = report.collect(plan)
    assert "cannot be read" in results.missing["beauty/ttt4rec-0"]
    assert len(results.runs) == 2
    report.write(plan)


def test_a_document_escapes_and_marks():
    table = document.Table(
        ["a", "b"], [["<x>|", document.Cell("1", "b")], None, ["y", document.Cell("2", "u")]]
    )
    blocks = [document.Text("a < b, **bold**"), table]
    page = document.as_html("T & T", "note", blocks)
    text = document.markdown("T", "", blocks)
    for expected in ("a &lt; b, <b>bold</b>", "&lt;x&gt;|", "<b>1</b>", "<u>2</u>", "T &amp; T"):
        assert expected in page, expected
    assert "<tr class=line><td>y" in page
    assert "| &lt;x>\\| | **1** |" in text
    assert "| --- |  |" in text
    assert (document.plural(1, "seed"), document.plural(3, "seed")) == ("1 seed", "3 seeds")
