"""The folder a run leaves: config.json, catalogue.parquet, metrics.jsonl, checkpoints/, test_ranks.parquet, result.json."""

import json
import os
from pathlib import Path

from data_prep.settings import UserError
from ttt4rec_jax.config import Config, check_resumable


class RunFolder:
    """Paths of a run's files, and writing them so that none is ever half there."""

    def __init__(self, path: Path):
        self.path = path
        self.config, self.metrics = path / "config.json", path / "metrics.jsonl"
        self.last, self.best = path / "checkpoints" / "last", path / "checkpoints" / "best"
        self.result, self.error = path / "result.json", path / "error.json"
        self.ranks = path / "test_ranks.parquet"
        # what serving needs of the data, so that the folder alone suffices: catalogue.py
        self.catalogue, self.training_clicks = path / "catalogue.parquet", path / "training_clicks.npz"

    def check(self, combinations: dict[str, Config], resume: bool) -> None:
        """Raises UserError if the folder cannot take these runs, {name of a folder in it: settings}.

        It holds another run; or, on resume, one of theirs that was set otherwise.
        """
        if resume:
            for name, config in combinations.items():
                if (path := RunFolder(self.path / name).config).exists():
                    check_resumable(load_config(path), config)
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"--run_dir: {self.path} exists and is not empty; name another folder, or --resume the run in it")

    def create(self, config: Config) -> None:
        """Makes the folder and writes config.json. Raises UserError if it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.config, config.to_dict())
        except OSError as error:
            raise UserError(f"--run_dir: {self.path} cannot be written ({error.strerror}); name another folder") from error

    def write_metrics(self, history: list[dict]) -> None:
        """Writes metrics.jsonl anew, a line an epoch."""
        write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in history))

    def write_result(self, result: dict, test_ranks: dict, users) -> None:
        """Writes test_ranks.parquet, a row a test target (for paired comparisons), then result.json.

        test_ranks: {protocol: metrics.Ranks}; users: the targets' users [T].
        """
        import polars as pl  # not at the top: --help need not wait for it

        columns = {f"{protocol}_{name}": x for protocol, ranks in test_ranks.items() for name, x in ranks._asdict().items()}
        beside = self.ranks.with_name(self.ranks.name + ".part")
        pl.DataFrame({"user": users} | columns).write_parquet(beside)
        os.replace(beside, self.ranks)
        write_json(self.result, result)


def load_config(path: Path) -> Config:
    """The settings in a config.json. Raises UserError if it holds none."""
    try:
        return Config.load(path)
    except FileNotFoundError as error:
        raise UserError(f"--resume: {path} is not there, so its folder holds no run; name the folder of a run") from error
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not the settings of a run of this version ({error!r}); start a new run") from error


def write_text(path: Path, text: str) -> None:
    """Writes a file in one piece: beside its place first, then renamed."""
    beside = path.with_name(path.name + ".part")
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def write_json(path: Path, content) -> None:
    """Writes content as indented JSON, in one piece."""
    write_text(path, json.dumps(content, indent=2) + "\n")
