"""The recommendations' command line as a user meets it, in a process of its own, on a run that main.py left."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from helpers import make_recommender, run_main, serving_config

from ttt4rec_jax import Recommender, metrics
from ttt4rec_jax.config import Config
from ttt4rec_jax.data.dataset import load_dataset
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.serving import files

ROOT = Path(__file__).parents[2]
CLICKS = {"ann": [3, 7, 3], "bob": [], "cid": [12]}


def recommend(environment, *flags, cwd, **options):
    command = [sys.executable, str(ROOT / "experiments" / "recommend.py"), *flags]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=600, **options
    )


@pytest.fixture(scope="module")
def trained(environment, tmp_path_factory):
    """The folder of a run of main.py, copied to another place."""
    cwd = tmp_path_factory.mktemp("work")
    done = run_main(
        environment,
        "--dataset=synthetic",
        "--dim=8",
        "--epochs=1",
        "--batch_size=1024",
        "--run_dir=first",
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    shutil.copytree(cwd / "first", cwd / "run")
    return cwd


@pytest.fixture(scope="module")
def floor(random_dataset, tmp_path_factory):
    """A folder that needs neither training nor compiling to speak of: popularity on 30 items, with titles."""
    cwd = tmp_path_factory.mktemp("floor")
    folder = RunFolder(cwd / "run")
    folder.create(Config(model=serving_config("popularity")))
    clicks = make_recommender(serving_config("popularity"), random_dataset).items.clicks
    titles = [f"Film {i}, the {'first' if i < 3 else 'next'}" for i in range(1, 31)]
    catalogue.save(
        folder, catalogue.Catalogue(list(range(1, 31)), titles, clicks), random_dataset, False
    )
    write_all(cwd)
    return cwd


def write_all(cwd: Path) -> None:
    """CLICKS in every form that is read; without bob where a row is a click."""
    lists = pl.DataFrame(
        {"user": list(CLICKS), "items": list(CLICKS.values())},
        schema_overrides={"items": pl.List(pl.Int64)},
    )
    lists.write_parquet(cwd / "lists.parquet")
    lists.write_ndjson(cwd / "lists.jsonl")
    (cwd / "lists.csv").write_text(
        "\ufeffnote,user,items\r\n"
        + "".join(f'"a,\nb",{u},{" ".join(map(str, c))}\n' for u, c in CLICKS.items())
    )
    rows = lists.explode("items").drop_nulls().rename({"items": "item"})
    rows.write_parquet(cwd / "rows.parquet")
    rows.write_csv(cwd / "rows.csv")
    rows.write_ndjson(cwd / "rows.jsonl")


def test_a_copied_folder_alone_reproduces_the_figures_of_its_run(environment, trained):
    result = json.loads((trained / "run" / "result.json").read_text())
    prepared = next(Path(environment["TTT4REC_CACHE_DIR"]).glob("synthetic-*"))
    dataset = load_dataset(prepared)
    recommender = Recommender.load(trained / "run")
    id_of = np.array([None, *recommender.items.ids])
    spans = zip(dataset.offsets[dataset.test.users], dataset.test.positions, strict=True)
    found = recommender.recommend(
        [id_of[dataset.items[start:stop]].tolist() for start, stop in spans], k=20
    )
    targets = id_of[dataset.items[dataset.test.positions]]
    rank = [
        one.ids.index(t) if t in one.ids else 10**6 for one, t in zip(found, targets, strict=True)
    ]
    assert result["test"]["full"]["tie_rate"] == 0
    figures = metrics.summarise(
        metrics.Ranks(np.array(rank), np.zeros(len(rank), int), np.full(len(rank), 10**6))
    )
    for name in ("hit@5", "ndcg@5", "hit@10", "ndcg@10", "hit@20", "ndcg@20"):
        assert figures[name] == result["test"]["full"][name]
    # a run of an earlier version left no catalogue: the data is found by its settings
    shutil.copytree(trained / "run", trained / "earlier")
    (trained / "earlier" / "catalogue.parquet").unlink()
    earlier = Recommender.load(trained / "earlier", cache_dir=environment["TTT4REC_CACHE_DIR"])
    assert earlier.fingerprint == recommender.fingerprint
    assert (
        earlier.items.ids == recommender.items.ids
        and (earlier.items.clicks == recommender.items.clicks).all()
    )


def test_one_user_of_the_runs_own_data(environment, trained):
    done = recommend(environment, "--run=run", "--user=3", "--k=4", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert "user 3: " in done.stdout and "recommended (after " in done.stdout
    assert len(done.stdout.split("recommended")[1].splitlines()) == 5
    done = recommend(environment, "--run=run", "--user=nobody", cwd=trained)
    assert done.returncode == 2 and done.stderr.startswith("error: --user: 'nobody' is not among")


def test_interactive_shows_how_the_list_moves(environment, trained):
    done = recommend(
        environment, "--run=run", "--interactive", "--k=3", cwd=trained, input="5\nnothing\n7\n\n"
    )
    assert done.returncode == 0, done.stderr
    assert "ttt4rec" in done.stdout and "each click costs the same" in done.stdout
    assert "no click yet: what is popular" in done.stdout and "after 2 clicks" in done.stdout
    assert "'nothing' is no id, and 0 titles hold it" in done.stdout and " new " in done.stdout


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("shape", ["lists", "rows"])
def test_every_form_of_input_says_the_same(floor, form, shape):
    expected = {user: clicks for user, clicks in CLICKS.items() if clicks or shape == "lists"}
    reader = files.Reader(str(floor / f"{shape}.{form}"))
    found = {user: [int(item) for item in items] for user, items in reader}
    assert found == expected and reader.done == reader.total


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "-"])
def test_a_file_of_histories_streams_into_a_file_of_recommendations(environment, floor, form):
    output = "-" if form == "-" else f"top.{form}"
    stdin = (floor / "lists.jsonl").read_text() if form == "-" else None
    histories = "-" if form == "-" else "lists.parquet"
    done = recommend(
        environment,
        "--run=run",
        f"--histories={histories}",
        f"--output={output}",
        "--k=2",
        "--exclude=12",
        cwd=floor,
        input=stdin,
    )
    assert done.returncode == 0, done.stderr
    assert "3 users; 1 of them had no click and got what is popular" in done.stderr
    recommender = Recommender.load(floor / "run")
    expected = dict(
        zip(CLICKS, recommender.recommend(CLICKS.values(), k=2, exclude=[12]), strict=True)
    )
    if form in ("-", "jsonl"):
        lines = [
            json.loads(line)
            for line in (done.stdout if form == "-" else (floor / output).read_text()).splitlines()
        ]
        assert [line["user"] for line in lines] == list(CLICKS)
        for line in lines:
            one = expected[line["user"]]
            assert (line["items"], line["titles"], line["source"]) == (
                one.ids,
                one.titles,
                one.source,
            )
            assert line["scores"] == one.scores.tolist()
    else:
        table = (pl.read_csv if form == "csv" else pl.read_parquet)(floor / output)
        assert table.columns == ["user", "rank", "item", "score", "title", "source"]
        rows = [
            (user, rank, id, score, title, one.source)
            for user, one in expected.items()
            for rank, (id, score, title) in enumerate(
                zip(one.ids, one.scores.tolist(), one.titles, strict=True), 1
            )
        ]
        assert table.rows() == rows
    assert not [path for path in floor.iterdir() if path.name.startswith(".")]


def test_parts_are_joined_whatever_the_kinds_of_their_users(floor, tmp_path):
    recommender = Recommender.load(floor / "run")
    some = recommender.recommend([[1], [2]], k=2)
    none = recommender.recommend([[1]], include_only=[1])
    with files.Writer(str(tmp_path / "top.parquet")) as writer:
        for users, found in (([1, 2], some), (["x"], none), (["a", "b"], some)):
            writer.write(users, found)
    table = pl.read_parquet(tmp_path / "top.parquet")
    assert (
        table["user"].to_list() == ["1", "1", "2", "2", "a", "a", "b", "b"]
        and table["item"].dtype == pl.Int64
    )


def test_a_mistake_half_way_leaves_no_file(environment, floor, tmp_path):
    (tmp_path / "top.csv").write_text("as it was")
    lines = [json.dumps({"user": u, "items": [1]}) for u in range(10_000)] + [
        '{"user": "last", "items": [1, 99]}'
    ]
    flags = [f"--run={floor / 'run'}", "--histories=-", "--output=top.csv"]
    done = recommend(environment, *flags, cwd=tmp_path, input="\n".join(lines))
    assert done.returncode == 2
    assert (
        "error: histories: 1 items that the run's data does not have: 99"
        in done.stderr.splitlines()[-1]
    )
    assert (tmp_path / "top.csv").read_text() == "as it was" and len(list(tmp_path.iterdir())) == 1
    done = recommend(
        environment, *flags, "--unknown=skip", "--k=40", cwd=tmp_path, input="\n".join(lines)
    )
    assert done.returncode == 0 and "note: --k=40, but there are 30 items" in done.stderr
    assert len((tmp_path / "top.csv").read_text().splitlines()) == 1 + 10_001 * 29


def test_titles_are_searched_and_shown(environment, floor):
    done = recommend(
        environment,
        "--run=run",
        "--interactive",
        "--k=2",
        cwd=floor,
        input="the first\nfilm 29\n\n",
    )
    assert done.returncode == 0, done.stderr
    assert "'the first' is no id, and 2 titles hold it:" in done.stdout
    assert (
        "29  Film 29, the next" in done.stdout and "the last 6 clicks are read anew" in done.stdout
    )
    done = recommend(
        environment, "--run=run", "--histories=lists.csv", "--user=ann", "--k=2", cwd=floor
    )
    assert (
        done.returncode == 0
        and "user ann: 3 clicks" in done.stdout
        and "Film 7, the next" in done.stdout
    )


MISTAKES = {
    "": "--run",
    "--run=nowhere --user=1": "--run: nowhere holds no run",
    "--run=run": "nothing to do",
    "--run=run --usr=1": "--usr: there is no such flag",
    "--run=run --k=ten": "--k",
    "--run=run --k=0 --user=1": "--k: 0 is out of range",
    "--run=run --histories=lists.csv": "nothing to do",
    "--run=run --output=x.csv": "--output: goes with --histories",
    "--run=run --histories=lists.txt --output=x.csv": "--histories: 'lists.txt' is of an unknown form",
    "--run=run --histories=none.csv --output=x.csv": "--histories: no file none.csv",
    "--run=run --histories=lists.csv --output=x.txt": "--output: 'x.txt' is of an unknown form",
    "--run=run --histories=lists.csv --output=nowhere/x.csv": "--output: nowhere/x.csv cannot be written",
    "--run=run --interactive --histories=lists.csv": "--interactive",
    "--run=run --unknown=skp --user=1": "'skp'",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_is_one_clear_line_without_importing_jax(environment, floor, flags):
    done = recommend(environment | {"PYTHONPROFILEIMPORTTIME": "1"}, *flags.split(), cwd=floor)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and done.stdout == "" and len(lines) == 1
    assert lines[0].startswith("error: ") and MISTAKES[flags] in lines[0]
    assert not {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()} & {
        "jax",
        "flax",
        "polars",
    }


BAD_FILES = {
    "x.jsonl": [
        ('{"user": 1, "items": [1]}\n{"user": 2, "items"', "line 2 is no JSON"),
        ("[1, 2]\n", "line 1 is [1, 2]"),
        ('{"user": 1, "items": 5}\n', 'line 1 is {"user": 1, "items": 5}'),
        ("", "holds no histories"),
        (
            '{"user": 1, "item": 1}\n{"user": 2, "item": 1}\n{"user": 1, "item": 2}\n',
            "user 1 do not stand together",
        ),
        (b'{"user": "\xff"}\n', "line 1 is not UTF-8"),
        ('{"user": 1, "items": [1]}\n{"user": 1, "item": 1}\n', "line 2"),
    ],
    "x.csv": [
        ("who,items\n1,2\n", "has the columns who, items"),
        ("user,items\n1\n", "line 2 has not 2 fields"),
        ('user,items\n1,"2\n', "unexpected end of data"),
        ('user,"items\n', "unexpected end of data"),
        ("", "has the columns none"),
    ],
    "x.parquet": [("not one", "cannot be read")],
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_not_as_expected_is_told_in_one_line(tmp_path, name):
    from data_prep.settings import UserError

    for content, expected in BAD_FILES[name]:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError) as error:
            list(files.Reader(str(tmp_path / name)))
        text = str(error.value)
        assert (
            expected in text
            and "\n" not in text
            and text.startswith(f"--histories: {tmp_path / name}: ")
        )


def test_help(environment, tmp_path):
    done = recommend(environment, "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    for text in ("--run", "--histories", "--interactive", "--whole_history", "a row a click"):
        assert text in done.stdout
