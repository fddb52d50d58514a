"""The command experiments/evaluate.py: judge the lists or scores of any recommender."""

import dataclasses
from pathlib import Path

from data_prep.settings import DataConfig, UserError, check, option
from data_prep.text import shown, shown_lines
from ttt4rec_jax.cli.command import Command, Section, exit_code
from ttt4rec_jax.cli.flags import HEADINGS
from ttt4rec_jax.cli.surroundings import start_jax
from ttt4rec_jax.config.execution import DataFolders
from ttt4rec_jax.config.judged import JudgedConfig
from ttt4rec_jax.config.training import SEGMENTS_HELP, TOP_K_HELP
from ttt4rec_jax.metrics import TOP_K, cutoffs
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.runs.read import read

PURPOSE = """Judge a recommender of any library by its lists, its scores, or both:

{program} --dataset=beauty --recommendations=top.parquet --run_dir=runs/als
{program} --dataset=beauty --scores=scores.csv
{program} --run=runs/ttt4rec-0 --top_k=1,10,50 --segments

The lists have the columns user, item, and rank or score (the higher, the better); or user and
items, a list with the best item first. They are ranked over the full catalogue. The scores have the
columns user, item and score, for the candidates that the command candidates writes; they are ranked
among the sampled negatives. Files are .parquet, .csv, .tsv, .jsonl, .ndjson, .arrow, .ipc or
.feather.

With --run, print the result of a finished run at other numbers k and by segment; its ranks are on
disk, so that nothing is trained or scored again.

The data, the targets, the negatives, ties and intervals are those of training, so that the command
compare pairs the folder that --run_dir names with runs on the same data. docs/evaluation.md says
what becomes of short lists, unknown ids and items that the user has seen."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateFlags(DataFolders):
    """The flags of evaluate.py."""

    run: str = option("", "Folder of a finished run, instead of lists or scores.", path=True)
    recommendations: str = option("", "File of lists of recommended items.", path=True)
    scores: str = option("", "File of scores of the candidates.", path=True)
    categories: str = option(
        "",
        "File of item and category, for the diversity of the lists; several categories are "
        "separated by |, or have a row each.",
        path=True,
    )
    run_dir: str = option(
        "", "Folder to write result.json and test_ranks.parquet into; default: none.", path=True
    )
    name: str = option("", "Name of the recommender; default: the name of its file.")
    seed: int = option(
        0,
        "Seed of the recommender's training. Folders of the same name that differ in it are one "
        "system for the command compare.",
        low=0,
    )
    top_k: str = option(TOP_K, TOP_K_HELP)
    segments: bool = option(False, SEGMENTS_HELP)

    def __post_init__(self) -> None:
        check(self)
        cutoffs(self.top_k)
        if self.run:
            self._check_run()
        elif not (self.recommendations or self.scores):
            raise UserError(
                "--recommendations, --scores: both are missing; give the lists of a recommender, "
                "its scores of the candidates, or both; see --help"
            )
        for flag in ("recommendations", "scores", "categories"):
            if (path := getattr(self, flag)) and not Path(path).is_file():
                raise UserError(f"--{flag}: {path} is not there; name a file")

    def _check_run(self) -> None:
        """Raise UserError if a flag is given that has no meaning for a finished run."""
        for flag in ("recommendations", "scores", "categories", "run_dir", "name"):
            if getattr(self, flag):
                raise UserError(f"--run: give no --{flag} with it, which is for lists and scores")

    @property
    def recommender(self) -> str:
        """The name of the recommender."""
        return self.name or Path(self.recommendations or self.scores).name.partition(".")[0]


COMMAND = Command(
    PURPOSE, (Section("Flags:", EvaluateFlags), Section(HEADINGS["data"], DataConfig))
)


def main(argv: list[str]) -> int:
    """Judge a recommender. Returns the exit code; see command.exit_code."""
    return exit_code(lambda: _evaluate(argv))


def _evaluate(argv: list[str]) -> None:
    parsed = COMMAND.parse(argv)
    flags = parsed.settings(EvaluateFlags)
    if flags.run:
        _evaluate_run(flags, parsed.given)
        return
    config = JudgedConfig(data=parsed.settings(DataConfig), name=flags.recommender, seed=flags.seed)
    if flags.run_dir:
        RunFolder(Path(flags.run_dir)).check_free()  # before anything takes time
    start_jax()  # which the modules below import
    from data_prep.prepare import prepare
    from ttt4rec_jax.data.dataset import load_dataset
    from ttt4rec_jax.pipeline import judged

    prepared = prepare(config.data, flags.data_dir, flags.cache_dir)
    dataset = load_dataset(prepared, on_host=True)
    top_k = cutoffs(flags.top_k)
    judgement = judged.judge(
        prepared,
        dataset,
        flags.recommendations or None,
        flags.scores or None,
        top_k=top_k,
        flag="--",
    )
    categories = flags.categories or None
    content = judged.result(config, prepared, dataset, judgement, top_k, flags.segments, categories)
    if flags.run_dir:
        judged.write(Path(flags.run_dir), content, judgement, dataset)
    print(shown_lines(judged.table(content)))
    if flags.run_dir:
        print(f"\nresults    {shown(flags.run_dir)}")


def _evaluate_run(flags: EvaluateFlags, given: set[str]) -> None:
    of_data = {field.name for field in dataclasses.fields(DataConfig)} & given
    if of_data:
        raise UserError(f"--{min(of_data)}: give no data with --run, which has its own")
    run = read(Path(flags.run))
    start_jax()  # which the modules below import
    from data_prep.prepare import prepare
    from ttt4rec_jax.data.dataset import load_dataset
    from ttt4rec_jax.pipeline import judged

    prepared = prepare(run.config.data, flags.data_dir, flags.cache_dir)
    dataset = load_dataset(prepared, on_host=True)
    content = judged.again(run, prepared, dataset, cutoffs(flags.top_k), flags.segments)
    print(shown_lines(judged.table(content)))
