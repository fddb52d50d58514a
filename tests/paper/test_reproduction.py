"""The paper's experiments as jobs and as a report, on simulated results."""

import dataclasses
import json
import re

import numpy as np
import pytest
from helpers import ROOT, make_finished_run, simulated_line

from data_prep.settings import UserError
from ttt4rec_jax.paper import claims, document, driver, ledger, pages, report, seeds, table1
from ttt4rec_jax.paper.jobs import (
    BASELINES,
    EXTRAS,
    PAPER,
    TITLES,
    Plan,
    jobs,
    remaining,
    saved_plan,
)
from ttt4rec_jax.paper.results import collect, scores, table1_runs

TRUE = {"comirec_sa": 0.38, "comirec_dr": 0.36, "popularity": 0.1, "itemknn": 0.2}


def fill(plan, good, **simulation):
    """Write results.jsonl of a finished plan."""
    plan.output.mkdir(exist_ok=True)
    for job in jobs(plan):
        ledger.append(plan.output, simulated_line(job, good, **simulation))
    return plan


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished reproduction on two data sets: ComiRec best, TTT4Rec as good as the others."""
    plan = Plan(tmp_path_factory.mktemp("whole"), datasets=("beauty", "ml1m"), seeds=3)
    return fill(plan, TRUE)


@pytest.fixture(scope="module")
def results(whole):
    return collect(whole)


def decided(plan, preset="fair"):
    """Return the verdicts on the five claims."""
    return [x.verdict for x in report.decide_claims(plan, collect(plan), preset)]


def test_the_jobs_are_those_of_the_paper_once_each(tmp_path):
    plan = Plan(tmp_path, datasets=("beauty", "ml1m"))
    planned = {job.name: job for job in jobs(plan)}
    each = len(BASELINES) + 2 * len(PAPER) + len(EXTRAS)
    assert len(jobs(plan)) == len(planned) == 2 * each + 2 * 4, "Figure 2's runs are Table 1's"
    assert planned["fair/beauty/sasrec"].seeds == (0, 1, 2, 3, 4)
    assert planned["authors/ml1m/sasrec"].seeds == (0, 1, 2)
    config = planned["authors/ml1m/comirec_sa"].combinations["seed=2"]
    assert (config.train.epochs, config.model.dim, config.train.seed) == (50, 32, 2)
    config = planned["fair/ml1m/ttt_mlp"].combinations["seed=1"]
    assert (config.model.inner, config.train.patience) == ("mlp", 5)
    assert not planned["fair/ml1m/din"].combinations["seed=0"].eval.full_catalogue
    towers = {
        name: next(iter(job.combinations.values())).model.target_tower
        for name, job in planned.items()
        if not name.endswith((*BASELINES, "din"))
    }
    without = [name for name, tower in towers.items() if tower != "mlp"]
    assert without == ["fair/beauty/comirec_dr_plain", "fair/ml1m/comirec_dr_plain"]
    assert len(planned["fair/beauty/figure3-1"].combinations) == 6 * 5
    assert len(planned["authors/beauty/figure3-5"].combinations) == 7 * 5
    for job in jobs(dataclasses.replace(plan, quick=True, seeds=1)):
        if not job.name.endswith(BASELINES):
            assert all(config.train.epochs <= 4 for config in job.combinations.values())
    alone = jobs(Plan(tmp_path, parts=("figure2",), presets=("fair",), datasets=("ml1m",)))
    assert [job.name for job in alone] == [
        "fair/ml1m/comirec_sa",
        "fair/ml1m/comirec_dr",
        "fair/ml1m/ttt4rec",
    ]


def test_only_seeds_without_a_result_are_trained(tmp_path):
    plan = Plan(tmp_path, parts=("figure2",), presets=("fair",), datasets=("beauty",), seeds=2)
    lines = [simulated_line(job, {}) for job in jobs(plan)[:2]]
    more = jobs(dataclasses.replace(plan, seeds=4))
    left = remaining(more, lines)
    assert [job.seeds for job in left] == [(2, 3), (2, 3), (0, 1, 2, 3)]
    assert left[0].flags[-1] == "--seed=2,3"
    with pytest.raises(UserError, match=r"results\.jsonl has fair/beauty/comirec_sa with"):
        remaining(jobs(dataclasses.replace(plan, quick=True)), lines)


def test_the_table_holds_the_runs_means_and_marks(whole, results):
    assert not results.missing
    by_model = table1_runs(whole, results, "fair")["ml1m"]
    table = table1.table(by_model, 3, {}, "fair/ml1m")
    rows = {row[0]: row for row in table.rows if row}
    assert list(rows) == [TITLES[m] for m in (*PAPER, *EXTRAS, *BASELINES)]
    assert [row is None for row in table.rows].count(True) == 2
    for model in ("gru4rec", "comirec_sa", "itemknn"):
        values = [run.test["sampled"]["hit@10"] for run in by_model[model]]
        std = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        assert rows[TITLES[model]][5].text == f"{np.mean(values):.4f}{std}"
    assert rows["DIN"][-1].text == "-", "it is not ranked over the full catalogue"
    column = table.header.index("NDCG@5 1:99")
    assert rows["ComiRec-SA"][column].style == "b"
    assert rows["ComiRec-DR"][column].style == "u"
    assert rows["TTT4Rec"][column].text.endswith("▼"), "ComiRec is far better here"
    authors = table1_runs(whole, results, "authors")["ml1m"]
    assert set(authors) == {*PAPER, *BASELINES}


def test_contrasts_are_welchs_test_over_seeds_with_holms_p():
    a = [0.1, 0.2, 0.3]
    b = [0.5, 0.6, 0.8, 0.7]
    c = [0.2, 0.25, 0.3]
    tested = seeds.contrasts({"b": (a, b), "c": (a, c)})
    # by hand: variances .01 / 3 and .016667 / 4, so an error of .08660 with 4.96 degrees of freedom
    assert tested["b"].difference == pytest.approx(0.45)
    assert (tested["b"].low, tested["b"].high) == pytest.approx((0.2268, 0.6732), abs=2e-4)
    alone = seeds.contrasts({"b": (a, b)})["b"]
    assert tested["b"].p == pytest.approx(2 * alone.p)
    assert (tested["b"].sign, tested["c"].sign) == (1, 0)
    assert alone.detectable == pytest.approx(0.0866 * (2.577 + 0.920), abs=2e-4)
    assert seeds.single_runs([a, a]) == pytest.approx(1.96 * 2**0.5 * 0.1)
    assert np.isnan(seeds.single_runs([[0.1]]))
    same = seeds.contrasts({"same": ([0.1, 0.1], [0.2, 0.2])})["same"]
    assert (same.difference, same.sign) == (pytest.approx(0.1), 1)


def test_claims_that_are_true_of_the_runs_held(whole):
    for preset in whole.presets:
        assert decided(whole, preset) == [claims.HELD] * 5


def test_claims_that_are_false_of_the_runs_did_not_hold(tmp_path):
    plan = Plan(tmp_path / "a", parts=("table1",), datasets=("beauty",), seeds=3)
    fill(plan, {"sasrec": 0.4, "comirec_sa": 0.2, "comirec_dr": 0.2}, slow=2)
    assert decided(plan)[:3] == [claims.DID_NOT_HOLD] * 3
    # reached early by both, or never: neither is "slow to get there"
    quick = [claims.reached_at([0.1, 0.3], 0.2), claims.reached_at([0.1, 0.15], 0.2)]
    assert quick == [2, None]
    plan = Plan(tmp_path / "b", parts=("table1",), datasets=("beauty",), seeds=3)
    fill(plan, {"comirec_sa": 0.35, "comirec_dr": 0.35}, slow=3)
    verdict = report.decide_claims(plan, collect(plan), "fair")[2]
    assert verdict.verdict == claims.DID_NOT_HOLD
    assert "reaches 0.2" in verdict.evidence[1]


def test_a_claim_without_its_runs_is_undecided_and_chance_is_not_shown(tmp_path):
    plan = Plan(tmp_path, parts=("table1",), datasets=("beauty",), seeds=1)
    assert decided(plan) == [claims.UNDECIDED] * 5
    fill(plan, {})
    assert decided(plan)[:2] == [claims.UNDECIDED] * 2, "a test needs two seeds"
    plan = Plan(tmp_path / "two", parts=("table1",), datasets=("beauty",), seeds=2)
    fill(plan, {"comirec_sa": 0.3, "comirec_dr": 0.3})
    assert decided(plan)[1] == claims.NOT_SHOWN


def test_several_verdicts_are_combined():
    assert claims.combine([claims.HELD, claims.HELD]) == claims.HELD
    assert claims.combine([claims.HELD, claims.UNDECIDED]) == claims.UNDECIDED
    assert claims.combine([claims.HELD, claims.NOT_SHOWN]) == claims.HELD_IN_PART
    assert claims.combine([claims.DID_NOT_HOLD, claims.UNDECIDED]) == claims.DID_NOT_HOLD
    assert claims.combine([claims.NOT_SHOWN, claims.UNDECIDED]) == claims.NOT_SHOWN
    assert claims.combine([]) == claims.UNDECIDED


def test_the_report_is_self_contained_and_names_its_conditions(whole):
    text, page = (path.read_text() for path in report.write(whole, []))
    for expected in (
        "ab" * 32,
        "TTT4Rec",
        "95% interval",
        "Holm",
        "jax 0.1",
        "would be found with a power of 80%",
        "Two single runs of NDCG@5 1:99 differ by chance",
        "first epoch: ComiRec-SA at epoch",
        "Decided by",
        "split of beauty",
        "initializer_range 0.0001",
    ):
        assert expected in text, expected
        assert expected in page, expected
    assert not re.findall(r'(?:src|href)="(?!data:)', page), "nothing is loaded from elsewhere"
    pictures = sorted(path.name for path in whole.output.glob("*.png"))
    assert pictures == [f"figure{n}-{p}.png" for n in (2, 3) for p in ("authors", "fair")]
    assert page.count("data:image/png;base64,") == len(pictures)
    assert sum((whole.output / name).stat().st_size for name in pictures) < 300_000
    assert "Quick" not in text
    assert "without all results" not in text


def test_committed_pages_have_the_tables_of_the_committed_results():
    """Mended by: ttt4rec reproduce --output=experiments/results --report_only --pages=PAGES."""
    output = ROOT / "experiments" / "results"
    plan = Plan(output, **saved_plan(output))
    tables = report.tables(plan, collect(plan))
    for page in ("README.md", "docs/paper.md"):
        text = (ROOT / page).read_text()
        assert pages.PLACE.search(text) and pages.fill(text, tables, page) == text, page
        emptied = pages.PLACE.sub(r"\1\3", text)
        assert pages.fill(emptied, tables, page) == text != emptied
    with pytest.raises(UserError, match="no table 'ndgc'; expected one of ndcg, "):
        pages.fill(text.replace(": ndcg ", ": ndgc "), tables, page)
    with pytest.raises(UserError, match=r"CHANGELOG\.md has no place for a table"):
        pages.update([ROOT / "CHANGELOG.md"], tables)


def test_a_quick_report_says_so_on_every_page_and_names_what_is_missing(tmp_path):
    plan = Plan(tmp_path, datasets=("beauty",), seeds=1, quick=True)
    by_name = {job.name: job for job in jobs(plan)}
    for name in ("fair/beauty/din", "fair/beauty/ttt4rec"):
        ledger.append(tmp_path, simulated_line(by_name[name], {}))
    log = driver.log_path(by_name["fair/beauty/sasrec"], tmp_path)
    log.parent.mkdir()
    log.write_text("epoch 1\nerror: the loss is not finite\n")
    text, page = (path.read_text() for path in report.write(plan, []))
    assert text.count("Quick run: 1 seed and") >= text.count("\n## ")
    assert 'class="note"' in page
    assert "failed: the loss is not finite" in text
    assert "missing (seeds 0): fair/beauty/popularity" in text
    assert "cannot be decided" in text


def test_a_finished_folder_is_collected_once_and_another_settings_is_refused(tmp_path):
    plan = Plan(tmp_path, parts=("figure2",), presets=("fair",), datasets=("synthetic",), seeds=1)
    job = jobs(plan)[2]
    folder = job.folders(tmp_path)[""]

    def with_history(result, columns):
        lines = [{"epoch": 1, "loss": 1.0, "validation": result["validation"], "seconds": 2.0}]
        (folder.path / "metrics.jsonl").write_text(json.dumps(lines[0]) + "\n")

    make_finished_run(folder.path, target_tower="mlp", epochs=200, patience=5, change=with_history)
    for _ in range(2):
        results = collect(plan)
    assert len(ledger.lines(tmp_path)) == 1
    (run,) = results.runs[job.name]
    kept = json.loads(folder.result.read_text())
    assert run.score == pytest.approx(kept["test"]["sampled"]["ndcg@5"], abs=1e-6)
    assert scores([run]) == [run.score]
    assert run.epochs == [pytest.approx(kept["validation"]["sampled"]["ndcg@5"], abs=1e-6)]
    (tmp_path / ledger.FILE).unlink()
    with pytest.raises(UserError, match="other settings"):
        driver.unfinished(dataclasses.replace(plan, quick=True))


def test_damaged_lines_and_different_data_are_one_clear_line(tmp_path):
    plan = fill(Plan(tmp_path, parts=("figure2",), presets=("fair",), datasets=("ml1m",)), {})
    path = tmp_path / ledger.FILE
    whole_text = path.read_text()
    path.write_text(whole_text + '{"job": "cut o')
    with pytest.raises(UserError, match=r"results.jsonl, line 4: not the result"):
        ledger.lines(tmp_path)
    path.write_text('{"job": 1}\n' + whole_text)
    with pytest.raises(UserError, match=r"results.jsonl, line 1: .* delete the line"):
        collect(plan)
    path.write_text(whole_text.replace("ab" * 32, "cd" * 32, 1))
    with pytest.raises(UserError, match="trained on different data, sha256 cdcd"):
        collect(plan)


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
