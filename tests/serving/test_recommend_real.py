"""On real data: recommendations for all test users are the evaluation's ranking, exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import OPTIMIZED

from data_prep.prepare import prepare
from data_prep.settings import DataConfig
from ttt4rec_jax import Recommender, metrics
from ttt4rec_jax.data.dataset import load_dataset

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("TTT4REC_TEST_DATA", ROOT.parent / "shared" / "data"))
FLAGS = [
    "--dataset=beauty",
    "--targets=every",
    "--max_len=50",
    "--loss=sampled_softmax",
    "--num_negatives=256",
    "--dim=16",
    "--epochs=1",
]


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")
def test_recommendations_have_the_metrics_of_the_run(environment, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "experiments" / "main.py"),
        *FLAGS,
        f"--data_dir={DATA.resolve()}",
        "--run_dir=run",
    ]
    subprocess.run(
        command,
        cwd=tmp_path,
        env=environment | OPTIMIZED,
        check=True,
        capture_output=True,
        timeout=900,
    )
    dataset = load_dataset(
        prepare(DataConfig(dataset="beauty"), str(DATA), environment["TTT4REC_CACHE_DIR"])
    )
    recommender = Recommender.load(tmp_path / "run")
    ids = np.array(recommender.items.ids, object)
    starts = dataset.offsets[dataset.test.users]
    positions = dataset.test.positions
    histories = [
        ids[dataset.items[start:end] - 1].tolist()
        for start, end in zip(starts, positions, strict=True)
    ]
    targets = ids[dataset.items[positions] - 1]
    not_in_list = len(ids)
    ranks = np.array(
        [
            best.ids.index(target) if target in best.ids else not_in_list
            for best, target in zip(recommender.recommend(histories, k=20), targets, strict=True)
        ]
    )
    got = metrics.summarise(
        metrics.Ranks(ranks, np.zeros_like(ranks), np.full_like(ranks, not_in_list))
    )
    expected = json.loads((tmp_path / "run" / "result.json").read_text())["test"]["full"]
    assert expected["hit@10"] > 0.01
    for name in ("hit@5", "ndcg@5", "hit@10", "ndcg@10", "hit@20", "ndcg@20"):
        assert got[name] == expected[name], name
