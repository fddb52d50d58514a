"""A handful of kills on the way; `python tests/faults/kill.py --kills=30` is the whole campaign."""

import shutil

from kill import Bench, campaign, difference, table


def test_killed_runs_go_on_by_themselves_to_the_same_bits(environment, tmp_path):
    aims = [("run", "preparation", 0.0), ("run", "checkpoint", 0.0), ("run", "step", 0.5)]
    said = []
    counts = campaign(Bench(tmp_path, environment), aims, 0, said.append)
    assert counts["ended in the same bits", "run"] >= 1 and counts["in preparation", "run"] == 1, (
        said
    )
    assert counts["in a checkpoint", "run"] >= 1, said
    assert "| in a checkpoint |" in table(counts)
    # the comparison sees a bit
    whole = tmp_path / "run-whole"
    text = (whole / "metrics.jsonl").read_text()
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    (other / "metrics.jsonl").write_text(text.replace('"epoch": 3', '"epoch": 7'))
    assert difference(whole, other) == "metrics.jsonl"
