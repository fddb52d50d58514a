"""Everything that a run is set by: frozen settings, checked when made. Imports no JAX, so that a wrong flag fails at once."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.settings import DataConfig, UserError, check, option
from ttt4rec_jax.metrics import SELECTORS


class Abilities(NamedTuple):
    """What a model can do; known here so that an impossible combination is refused before JAX is imported."""

    targets: tuple[str, ...]  # the ways it can be trained; the first is what targets=auto means
    trained: bool = True
    separable: bool = True  # a score is a product of a user vector and an item vector
    target_tower: str = "none"  # what target_tower=auto means
    positions: str = "none"  # what positions=auto means
    sparse: bool = True  # uses item ids only to look up rows of its table "embedding": optim.sparse_rows may rename them


CAUSAL = (
    "last",
    "every",
)  # the output at a position depends on no later click, so that one pass can train every position
WINDOW = ("last",)
MODELS = {
    "ttt4rec": Abilities(CAUSAL, target_tower="mlp"),
    "sasrec": Abilities(CAUSAL, positions="learned"),
    "gru4rec": Abilities(CAUSAL),
    "din": Abilities(WINDOW, separable=False),
    "comirec_sa": Abilities(WINDOW),
    "comirec_dr": Abilities(WINDOW),
    "bert4rec": Abilities(("masked", "last"), positions="learned", sparse=False),
    "iclrec": Abilities(CAUSAL, positions="learned", sparse=False),
    "popularity": Abilities(WINDOW, trained=False, sparse=False),
    "itemknn": Abilities(WINDOW, trained=False, separable=False, sparse=False),
}
TTT = ("ttt4rec",)
COMIREC = ("comirec_sa", "comirec_dr")
BLOCKS = ("ttt4rec", "sasrec", "bert4rec", "iclrec")
SEPARABLE = tuple(
    name for name, abilities in MODELS.items() if abilities.separable and abilities.trained
)
OPTIONS = {  # which models have an option; those not listed belong to all
    **dict.fromkeys(
        (
            "inner",
            "mini_batch_size",
            "inner_learning_rate",
            "initializer_range",
            "fast_weight_range",
        ),
        TTT,
    ),
    **dict.fromkeys(("ttt_impl", "backbone"), TTT),
    **dict.fromkeys(("num_interests", "routing_iterations"), COMIREC),
    **dict.fromkeys(("mask_probability", "mask_last_probability"), ("bert4rec",)),
    **dict.fromkeys(
        ("num_intents", "intent_weight", "contrast_weight", "contrast_temperature"), ("iclrec",)
    ),
    **dict.fromkeys(("num_heads", "ffn", "positions"), BLOCKS),
    **dict.fromkeys(("score", "temperature", "target_tower"), SEPARABLE),
    "num_blocks": (*BLOCKS, "gru4rec"),
    "routing_iterations": ("comirec_dr",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model and its shape."""

    model: str = option("ttt4rec", "The recommender.", choices=tuple(MODELS))
    max_len: int = option(
        10, "Length of the history that a model reads: the last clicks before the candidate.", low=1
    )
    dim: int = option(64, "Width of embeddings and blocks.", low=1)
    num_blocks: int = option(1, "Blocks of [norm, TTT layer or attention, residual].", low=1)
    num_heads: int = option(
        2, "Heads of a TTT layer (each with fast weights of its own) or of attention.", low=1
    )
    dropout: float = option(
        0.0, "Dropout on embeddings and on what a block adds.", low=0.0, high=0.95
    )
    ffn: bool = option(True, "A feed-forward network after each TTT layer or attention.")
    positions: str = option(
        "auto",
        "Embeddings of a click's place in the window, added to the item's; auto: learned for attention, none for ttt4rec.",
        choices=("auto", "learned", "none"),
    )
    inner: str = option("linear", "The inner learner of a TTT layer.", choices=("linear", "mlp"))
    mini_batch_size: int = option(
        10, "Tokens that share the weights their inner gradients are taken at; 1: online.", low=1
    )
    inner_learning_rate: float = option(1.0, "Base learning rate of the inner learner.", above=0.0)
    initializer_range: float = option(
        0.02, "Standard deviation of a TTT layer's initial parameters.", low=0.0
    )
    fast_weight_range: float = option(
        -1.0, "Standard deviation of the inner learner's W_0; -1: initializer_range.", low=-1.0
    )
    ttt_impl: str = option(
        "auto",
        "How a TTT layer is evaluated, same results at other speeds; auto: the fastest for its shape.",
        choices=("auto", "scan", "dual", "chunked"),
    )
    backbone: str = option(
        "transformer",
        "What is around a TTT layer: projections alone, or (mamba) convolutions of width 4 on queries and keys, and a gate.",
        choices=("transformer", "mamba"),
    )
    score: str = option(
        "dot",
        "Product of user and item vectors as they are, or of unit length and divided by the temperature.",
        choices=("dot", "cosine"),
    )
    temperature: float = option(0.05, "What score=cosine is divided by.", above=0.0)
    num_interests: int = option(4, "User vectors of a multi-interest model.", low=1)
    routing_iterations: int = option(3, "Iterations of dynamic routing.", low=1)
    mask_probability: float = option(
        0.2, "Share of clicks that masked training hides.", above=0.0, high=1.0
    )
    mask_last_probability: float = option(
        0.1,
        "Share of sequences of which masked training hides the last click alone, as evaluation does.",
        low=0.0,
        high=1.0,
    )
    num_intents: int = option(
        256, "Intents that users' histories are clustered into, once an epoch.", low=1
    )
    intent_weight: float = option(0.1, "Weight of the loss that contrasts intents.", low=0.0)
    contrast_weight: float = option(
        0.1, "Weight of the loss that contrasts augmented histories.", low=0.0
    )
    contrast_temperature: float = option(
        1.0, "What similarities of contrasted vectors are divided by.", above=0.0
    )
    target_tower: str = option(
        "auto",
        "What a candidate's embedding goes through: tanh MLP or nothing; auto: mlp for ttt4rec, as in its paper.",
        choices=("auto", "mlp", "none"),
    )

    def __post_init__(self):
        check(self)
        if self.model in OPTIONS["num_heads"] and self.dim % (2 * self.num_heads):
            raise UserError(
                f"--num_heads: {self.num_heads} heads do not divide --dim={self.dim} into even widths"
            )
        if -1 < self.fast_weight_range < 0:
            raise UserError(
                f"--fast_weight_range: {self.fast_weight_range} is neither -1 nor at least 0"
            )
        for name in ("target_tower", "positions"):
            if getattr(self, name) == "auto":
                object.__setattr__(self, name, getattr(MODELS[self.model], name))
        for field in dataclasses.fields(self):
            owners = OPTIONS.get(field.name, (self.model,))
            if self.model not in owners and getattr(self, field.name) not in (
                field.default,
                "none",
            ):
                able = " or ".join(f"--model={name}" for name in owners)
                raise UserError(
                    f"--{field.name}: an option of {able}, which --model={self.model} does not have"
                )

    @property
    def w0_range(self) -> float:
        """Standard deviation of the inner learner's W_0."""
        return self.initializer_range if self.fast_weight_range < 0 else self.fast_weight_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained."""

    targets: str = option(
        "auto",
        "last: every training position is an example with its own window. every: one causal pass trains all positions. "
        "masked: clicks hidden at random are to be found again. auto: masked for bert4rec, last for the others.",
        choices=("auto", "last", "every", "masked"),
    )
    loss: str = option(
        "bce", "Training loss.", choices=("bce", "gbce", "softmax", "sampled_softmax")
    )
    num_negatives: int = option(
        4, "Negatives per target (bce, gbce), or shared by a batch (sampled_softmax).", low=1
    )
    gbce_t: float = option(
        0.75, "Calibration of loss=gbce between bce (0) and full (1).", low=0.0, high=1.0
    )
    learning_rate: float = option(0.001, "Adam's learning rate.", above=0.0)
    schedule: str = option(
        "constant",
        "The learning rate over the run's epochs: constant, or falling to zero along a half cosine.",
        choices=("constant", "cosine"),
    )
    adam_b2: float = option(0.999, "Decay of Adam's mean of squares.", above=0.0, high=1.0)
    weight_decay: float = option(0.0, "Decoupled weight decay (AdamW).", low=0.0)
    clip_norm: float = option(
        0.0, "Norm that the gradient of all parameters together is cut down to; 0: never.", low=0.0
    )
    on_nan: str = option(
        "stop",
        "A step whose loss, gradient or outcome is not finite ends the run, or is skipped: nothing changes, and it is counted.",
        choices=("stop", "skip"),
    )
    sparse_embeddings: bool = option(
        False,
        "Lazy Adam: a step updates only the item embeddings of its batch, so that its time does not grow with the catalogue. "
        "The others keep value and moments to the bit, where dense Adam lets moments decay, coasts on them and decays weights. "
        "Worth it from about 100,000 items.",
    )
    batch_size: int = option(
        256, "Examples (targets=last) or sequences (every, masked) of a step.", low=1
    )
    batch_tokens: int = option(
        0,
        "targets=every, masked: sequences of a step are as many as fit so many positions; 0: batch_size.",
        low=0,
    )
    length_buckets: int = option(
        4,
        "targets=every, masked: sequences of like length share a step, padded to one of so many lengths; 1: all to max_len.",
        low=1,
        high=8,
    )
    epochs: int = option(10, "Passes over the training examples.", low=1)
    patience: int = option(
        0, "Stop after so many epochs without a better validation figure; 0: never.", low=0
    )
    seed: int = option(
        0, "Seed of initial parameters, shuffling, negatives and dropout.", low=0, high=2**31 - 1
    )

    def __post_init__(self):
        check(self)
        if self.sparse_embeddings and self.loss == "softmax":
            raise UserError(
                "--sparse_embeddings: --loss=softmax reaches every item in each step; take another loss, or leave it out"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How a model is judged."""

    select_by: str = option(
        "sampled/ndcg@10",
        "Validation figure that picks the epoch.",
        choices=SELECTORS,
    )

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """What a run records beside its figures, which do not depend on it."""

    ttt_stats: bool = option(
        False,
        "Record after each epoch what the inner learners of TTT layers do: the inner loss before and after the update, the "
        "weights' change against W_0 and the learned inner learning rates, into metrics.jsonl.",
    )
    tensorboard: bool = option(
        False,
        'Also write each epoch\'s figures as TensorBoard event files; needs pip install "ttt4rec_jax[tensorboard]".',
    )

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run. Raises UserError if its parts do not go together. Runs that only differ in what they record are equal."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    record: RecordConfig = dataclasses.field(default_factory=RecordConfig, compare=False)

    def __post_init__(self):
        abilities = MODELS[self.model.model]
        name = self.model.model
        if self.train.targets == "auto":
            object.__setattr__(
                self, "train", dataclasses.replace(self.train, targets=abilities.targets[0])
            )
        targets = self.train.targets
        if targets not in abilities.targets:
            able = ", ".join(other for other, found in MODELS.items() if targets in found.targets)
            kind = {
                "every": "a causal model",
                "masked": "a model with masked training",
                "last": "a model trained by windows",
            }
            raise UserError(
                f"--targets={targets} needs {kind[targets]} ({able}), --model={name} is none"
            )
        if targets == "last" and self.train.batch_tokens:
            raise UserError(
                "--batch_tokens: for --targets=every or masked; --targets=last takes --batch_size"
            )
        if self.train.loss == "softmax" and abilities.trained and not abilities.separable:
            raise UserError(
                f"--loss=softmax: --model={name} cannot score all items in each step; take sampled_softmax"
            )
        if self.record.ttt_stats and name not in TTT:
            able = " or ".join(f"--model={model}" for model in TTT)
            raise UserError(
                f"--ttt_stats: --model={name} has no TTT layers; leave it out, or take {able}"
            )
        if self.train.sparse_embeddings and not MODELS[self.model.model].sparse:
            able = ", ".join(name for name, abilities in MODELS.items() if abilities.sparse)
            raise UserError(
                f"--sparse_embeddings: for a model that learns a table of its items ({able}), not --model={self.model.model}"
            )

    @classmethod
    def from_flags(cls, values: dict[str, Any]) -> "Config":
        """The run that flat flag values describe; flags of no section are left alone."""
        return cls(
            **{
                name: part(**{f.name: values[f.name] for f in dataclasses.fields(part)})
                for name, part in SECTIONS.items()
            }
        )

    @classmethod
    def load(cls, path: Path) -> "Config":
        """The run that a config.json holds."""
        return cls.from_dict(json.loads(path.read_text()))

    @classmethod
    def from_dict(cls, content: dict[str, dict]) -> "Config":
        """The run that `to_dict` describes; one of an earlier version recorded nothing."""
        content = {"record": {}} | content
        return cls(**{name: part(**content[name]) for name, part in SECTIONS.items()})

    def to_dict(self) -> dict[str, dict]:
        """What config.json holds: {section: {flag: value}}."""
        return dataclasses.asdict(self)


SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "record": RecordConfig,
}
MAY_CHANGE_ON_RESUME = ("epochs", "patience")


def check_resumable(saved: Config, asked: Config) -> None:
    """Raises UserError naming the first flag whose change would make a resumed run another run."""
    for section in (field.name for field in dataclasses.fields(Config) if field.compare):
        before = getattr(saved, section)
        now = getattr(asked, section)
        for field in dataclasses.fields(before):
            old = getattr(before, field.name)
            new = getattr(now, field.name)
            may_change = field.name in MAY_CHANGE_ON_RESUME and not (
                field.name == "epochs" and saved.train.schedule == "cosine"
            )
            if old != new and not may_change:
                raise UserError(
                    f"--resume: the run was started with --{field.name}={old}, found --{field.name}={new}; "
                    "give the same value, or start a new run in another --run_dir"
                )


SWEPT = ("model", "train")  # sections whose flags take several values
ONE_PROGRAM = {
    "model": ("initializer_range", "fast_weight_range"),
    "train": ("learning_rate", "seed"),
}


def program(config: Config) -> Config:
    """What is left of a configuration without what only changes values: runs equal in it are trained as one program."""
    parts = {}
    for section, names in ONE_PROGRAM.items():
        defaults = {
            f.name: f.default for f in dataclasses.fields(SECTIONS[section]) if f.name in names
        }
        parts[section] = dataclasses.replace(getattr(config, section), **defaults)
    return dataclasses.replace(config, **parts)
