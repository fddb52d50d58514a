"""The settings of a recommender from elsewhere that was judged by its lists, scores or function."""

import dataclasses
from typing import Any

from data_prep.settings import DataConfig, UserError
from ttt4rec_jax.config.models import MODELS


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgedConfig:
    """What is known of a recommender from elsewhere: the data, its name, and its training's seed.

    Raises UserError for a name that a model of this package has.
    """

    data: DataConfig
    name: str
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.name.strip() or self.name in MODELS:
            problem = "is a model of this package" if self.name.strip() else "is empty"
            raise UserError(
                f"--name: {self.name!r} {problem}; give another name, such as my-{self.name}"
            )

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "JudgedConfig":
        """Return the settings that `to_dict` wrote."""
        return cls(data=DataConfig(**content["data"]), **content["judged"])

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as in result.json."""
        return {
            "data": dataclasses.asdict(self.data),
            "judged": {"name": self.name, "seed": self.seed},
        }
