"""Search for the options of a model that are best on validation, by Optuna, with one budget.

Each trial is a run in a folder of its own. The study (SQLite) is in the search's folder, so that an
interrupted search goes on: a trial that was being trained is resumed. The test set is ranked once,
for the winner. Only this module imports optuna.
"""

import contextlib
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

from data_prep.settings import UserError
from ttt4rec_jax.config import Config
from ttt4rec_jax.pipeline import result, sweep
from ttt4rec_jax.pipeline import search_report as report
from ttt4rec_jax.pipeline.experiment import Experiment, train_group, write_result
from ttt4rec_jax.pipeline.search_space import (
    Choice,
    Range,
    Search,
    Space,
    Trial,
    best,
    folder_of,
    title,
)
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs import read
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.training.progress import DivergedError, Outcome, selected

STUDY = "study.db"
SECONDS = "seconds"  # attribute of the study: the training time of all trials


def import_optuna() -> Any:
    """Return optuna, without its log. Raises UserError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "search: needs optuna, which is not installed; pip install 'ttt4rec_jax[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_study(asked: Search, root: Path) -> Any:
    """Return the study in a search's folder, a new one if there is none. Raises UserError."""
    optuna = import_optuna()
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
        if asked.config.prune
        else optuna.pruners.NopPruner()
    )
    try:
        return optuna.create_study(
            storage=f"sqlite:///{root / STUDY}",
            study_name="search",
            direction="maximize",
            load_if_exists=True,
            pruner=pruner,
        )
    except Exception as error:  # whatever SQLAlchemy makes of a damaged file or a full disk
        raise UserError(
            f"{root / STUDY}: cannot be used ({str(error).strip().splitlines()[0]}); free disk "
            "space, or start a new search in another --run_dir"
        ) from error


def trials(study: Any) -> list[Trial]:
    """Return the study's trials in their order."""
    return [
        Trial(
            trial.number,
            trial.state.name.lower(),
            trial.value if trial.values else None,
            trial.params,
            trial.user_attrs.get("reason", ""),
        )
        for trial in study.get_trials(deepcopy=False)
    ]


def run(asked: Search, base: Experiment) -> dict[str, Any]:
    """Search until the budget is spent, then rank the test set for the winner.

    base: an experiment without combinations. Returns the content of search.json. Raises UserError
    if no trial has a value, and Interrupted, after everything has been saved.
    """
    root = base.root.path
    report.check_data(root, base.dataset.manifest["sha256"])
    study = open_study(asked, root)
    while batch := next_trials(study, asked):
        report.write(root, asked, trials(study), facts(study, base))
        train_trials(study, asked, base, batch)
        discard(asked, root, trials(study))
    done = trials(study)
    content = report.write(root, asked, done, facts(study, base))
    base.log(f"\n{report.table(asked, done, content)}")
    winner = best(done)
    if winner is None:
        reasons = sorted({trial.reason for trial in done if trial.reason})
        raise UserError(f"search: none of {len(done)} trials has a value; {'; '.join(reasons)}")
    report.draw(root, asked, done, content)
    scored = score_winner(asked, base, done, winner)
    base.log(f"\n{result.table(scored)}\nresults    {root / winner.folder}")
    return content


def facts(study: Any, base: Experiment) -> dict[str, Any]:
    """Return the training time so far, the data's digest, and how much each option matters.

    The importance is PED-ANOVA's (Watanabe et al. 2023, arXiv:2304.10255), {} for fewer than four
    complete trials or a single option.
    """
    optuna = import_optuna()
    known = {
        SECONDS: round(study.user_attrs.get(SECONDS, 0.0), 1),
        "sha256": base.dataset.manifest["sha256"],
        "importance": {},
    }
    complete = [trial for trial in trials(study) if trial.state == "complete"]
    if len(complete) < 4 or len(complete[0].params) < 2:
        return known
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return known | {"importance": {name: round(share, 3) for name, share in shares.items()}}


def next_trials(study: Any, asked: Search) -> list[Any]:
    """Return the trials to train next: those that were interrupted, else new ones; [] at the end.

    The sampler is made anew from the number of trials, so that an interrupted search chooses what
    an uninterrupted one would.
    """
    optuna = import_optuna()
    running = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    if running:
        return [optuna.trial.Trial(study, trial._trial_id) for trial in running]
    done = len(study.get_trials(deepcopy=False))
    count = min(asked.batch, asked.config.trials - done)
    if count <= 0 or 0 < asked.config.seconds <= study.user_attrs.get(SECONDS, 0.0):
        return []
    study.sampler = optuna.samplers.TPESampler(
        seed=asked.config.search_seed + done, constant_liar=asked.batch > 1
    )
    return [ask(study, asked.space) for _ in range(count)]


def ask(study: Any, space: Space) -> Any:
    """Return a new trial, whose parameters the sampler has chosen."""
    trial = study.ask()
    for name, one in space.items():
        match one:
            case Choice(values):
                trial.suggest_categorical(name, list(values))
            case Range(int(low), int(high), is_log):
                trial.suggest_int(name, low, high, log=is_log)
            case Range(low, high, is_log):
                trial.suggest_float(name, low, high, log=is_log)
    return trial


def train_trials(study: Any, asked: Search, base: Experiment, batch: list[Any]) -> None:
    """Train a batch of trials, those of one program together, and tell the study their values."""
    optuna = import_optuna()
    fail = optuna.trial.TrialState.FAIL
    by_name: dict[str, Any] = {}
    combinations: dict[str, Config] = {}
    earlier = values_by_settings(asked, trials(study))
    for trial in batch:
        try:
            config = asked.combination(trial.params)
        except UserError as error:
            trial.set_user_attr("reason", str(error))
            study.tell(trial, state=fail)
            continue
        if config in earlier:  # these settings have been trained
            study.tell(trial, earlier[config])
            continue
        name = folder_of(trial.number)
        by_name[name] = trial
        combinations[name] = config
        RunFolder(base.root.path / name).create(config, base.dataset.manifest)

    def on_epoch(name: str, line: dict[str, Any], params: Any) -> str | None:
        if (trial := by_name.get(name)) is None:
            return None
        with warnings.catch_warnings():  # an epoch that a kill undid has been reported already
            warnings.simplefilter("ignore")
            trial.report(selected(line, combinations[name].eval.select_by), line["epoch"])
        return "stop" if trial.should_prune() else None

    everyone = settings_by_folder(asked, trials(study))
    experiment = base._replace(combinations=everyone, on_epoch=on_epoch, rank_test=False)
    started = sweep.started(base.root.path, everyone)
    for group in sweep.groups(combinations, started):
        for name in [name for name in group if name in by_name]:
            base.log(f"\n{title(by_name[name].number, by_name[name].params)}")
        begun = time.perf_counter()
        outcomes = train_group(group, experiment)
        seconds = study.user_attrs.get(SECONDS, 0.0) + time.perf_counter() - begun
        study.set_user_attr(SECONDS, seconds)
        for name, outcome in outcomes.items():
            if name not in by_name:
                continue  # of a group in which the study knows this trial's value already
            if isinstance(outcome, DivergedError):
                by_name[name].set_user_attr("reason", str(outcome))
                study.tell(by_name[name], state=fail)
            elif is_stopped(outcome, group[name]):
                study.tell(by_name[name], state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(by_name[name], value_of(outcome, group[name]))


def is_stopped(outcome: Outcome, config: Config) -> bool:
    """Return whether a run ended before its epochs and its patience did: it was pruned."""
    epochs = len(outcome.history)
    is_out_of_patience = 0 < config.train.patience <= epochs - outcome.best_epoch
    return epochs < config.train.epochs and not is_out_of_patience


def value_of(outcome: Outcome, config: Config) -> float:
    """Return the validation metric of a run's best epoch, by which the epoch was selected."""
    protocol, metric = config.eval.select_by.split("/")
    return outcome.validation[protocol][metric]


def settings_by_folder(asked: Search, done: list[Trial]) -> dict[str, Config]:
    """Return {name of a trial's folder: its settings}, without trials of impossible settings."""
    settings = {}
    for trial in done:
        with contextlib.suppress(UserError):
            settings[trial.folder] = asked.combination(trial.params)
    return settings


def values_by_settings(asked: Search, done: list[Trial]) -> dict[Config, float]:
    """Return the values of the complete trials by their settings, which are not trained twice."""
    settings = settings_by_folder(asked, done)
    return {
        settings[trial.folder]: trial.value
        for trial in done
        if trial.state == "complete" and trial.value is not None
    }


def discard(asked: Search, root: Path, done: list[Trial]) -> None:
    """Remove the checkpoints of trials that are neither the best nor being trained.

    Trials that were trained together with one of those keep theirs: they are resumed together.
    """
    kept = {trial.folder for trial in done if trial.state == "running"}
    if winner := best(done):
        kept.add(winner.folder)
    for group in sweep.started(root, settings_by_folder(asked, done)):
        if kept.isdisjoint(group):
            for name in group:
                shutil.rmtree(root / name / "checkpoints", ignore_errors=True)
            shutil.rmtree(sweep.group_folder(root, list(group)).path, ignore_errors=True)


def score_winner(asked: Search, base: Experiment, done: list[Trial], winner: Trial) -> dict:
    """Rank the test set with the winner's best parameters, and write its result."""
    everyone = settings_by_folder(asked, done)
    (group,) = sweep.groups(
        {winner.folder: everyone[winner.folder]}, sweep.started(base.root.path, everyone)
    )
    experiment = base._replace(combinations=group)
    folder = experiment.folders[winner.folder]
    if folder.result.exists():
        return read.result(folder.path)
    catalogue.save(folder, base.items, base.dataset, True)
    outcome = train_group(group, experiment)[winner.folder]
    return write_result(winner.folder, outcome, experiment)
