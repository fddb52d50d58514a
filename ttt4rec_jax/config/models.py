"""What each model can do, and the settings of a model. Imports no JAX."""

import dataclasses
from typing import Any, NamedTuple

from data_prep.settings import UserError, check, option
from ttt4rec_jax.config.options import OPTIONS


class Capabilities(NamedTuple):
    """What a model can do, so that impossible settings are refused before JAX is imported."""

    # Ways to train it, as values of --targets; targets=auto means the first.
    targets: tuple[str, ...]
    # Whether it has parameters to train; a baseline has none.
    trained: bool = True
    # Whether a score is a product of a user vector and an item vector (a two-tower model).
    is_two_tower: bool = True
    # What target_tower=auto and positions=auto mean.
    target_tower: str = "none"
    positions: str = "none"
    # Whether --sparse_embeddings supports it: item ids only index rows of the table "embedding",
    # so that optim.sparse_rows may renumber them.
    sparse: bool = True


class CustomModel(NamedTuple):
    """A model that is not part of this package; see models/custom.py.

    uses: the options of ModelConfig that it honours beside max_len, dim and dropout.
    """

    cls: Any  # (config, number of items, nnx.Rngs) -> nnx.Module
    config_class: "type[ModelConfig]"
    uses: tuple[str, ...]


# Causal models: no output depends on a later click, so one pass can train every position.
CAUSAL = ("last", "every")
WINDOW = ("last",)
MODELS = {
    "ttt4rec": Capabilities(CAUSAL, target_tower="mlp"),
    "sasrec": Capabilities(CAUSAL, positions="learned"),
    "gru4rec": Capabilities(CAUSAL),
    "din": Capabilities(WINDOW, is_two_tower=False),
    "comirec_sa": Capabilities(WINDOW),
    "comirec_dr": Capabilities(WINDOW),
    "bert4rec": Capabilities(("masked", "last"), positions="learned", sparse=False),
    "iclrec": Capabilities(CAUSAL, positions="learned", sparse=False),
    "popularity": Capabilities(WINDOW, trained=False, sparse=False),
    "itemknn": Capabilities(WINDOW, trained=False, is_two_tower=False, sparse=False),
}
CUSTOM: dict[str, CustomModel] = {}  # by name; each has its capabilities in MODELS, too
INNER = ["linear", "mlp"]  # the names of the inner learners; see ttt/inner.py


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model and its shape. Raises UserError if the settings do not fit together."""

    model: str = option(
        "ttt4rec",
        "The recommender, or a class of your own as module:Class.",
        choices=lambda: tuple(MODELS),
    )
    max_len: int = option(
        10, "Length of the history that a model reads: the last clicks before the candidate.", low=1
    )
    dim: int = option(64, "Width of embeddings and blocks.", low=1)
    num_blocks: int = option(
        1, "Number of blocks of [norm, TTT layer or attention, residual].", low=1
    )
    num_heads: int = option(
        2, "Heads of a TTT layer (each with its own fast weights) or of attention.", low=1
    )
    dropout: float = option(
        0.0, "Dropout rate on embeddings and on each block's residual branch.", low=0.0, high=0.95
    )
    ffn: str = option(
        "gelu",
        "Feed-forward network after each TTT layer or attention. gelu: width 4 dim, with biases. "
        "swiglu: gated, width 8/3 dim, without biases, as in the TTT paper's backbone.",
        choices=("gelu", "swiglu", "none"),
    )
    positions: str = option(
        "auto",
        "Positional embeddings, added to the item embeddings; "
        "auto: learned for attention, none for ttt4rec.",
        choices=("auto", "learned", "none"),
    )
    inner: str = option(
        "linear",
        "The inner learner of a TTT layer: linear, mlp, or one of your own as module:name.",
        choices=lambda: tuple(INNER),
    )
    mini_batch_size: int = option(
        10,
        "Tokens per inner mini-batch, whose gradients are taken at the same weights; 1: online.",
        low=1,
    )
    inner_learning_rate: float = option(1.0, "Base learning rate of the inner learner.", above=0.0)
    initializer_range: float = option(
        0.02, "Standard deviation of a TTT layer's initial parameters.", low=0.0
    )
    initializer_reach: str = option(
        "layer",
        "Which parameters initializer_range sets. layer: the TTT layers' projections, gate and "
        "W_0. jax: also feed-forward networks and embeddings, as in the TTT paper's JAX code. "
        "pytorch: as jax, but gate and W_0 keep 0.02, as in its PyTorch code.",
        choices=("layer", "jax", "pytorch"),
    )
    fast_weight_range: float = option(
        -1.0, "Standard deviation of the inner learner's W_0; -1: initializer_range.", low=-1.0
    )
    ttt_impl: str = option(
        "auto",
        "Implementation of the TTT layer: equal results at different speeds; "
        "auto: the fastest for its shape.",
        choices=("auto", "scan", "dual", "chunked"),
    )
    backbone: str = option(
        "transformer",
        "What surrounds a TTT layer: transformer, projections only; "
        "mamba, also convolutions of width 4 on queries and keys, and a gate.",
        choices=("transformer", "mamba"),
    )
    score: str = option(
        "dot",
        "Dot product of user and item vectors, or their cosine divided by the temperature.",
        choices=("dot", "cosine"),
    )
    temperature: float = option(0.05, "score=cosine: divisor of the cosine.", above=0.0)
    num_interests: int = option(4, "User vectors of a multi-interest model.", low=1)
    interest_rule: str = option(
        "auto",
        "How a user's interests score an item. own: by the best one, in training and evaluation. "
        "nearest: the same, but in training the interest nearest the target also scores the "
        "negatives. soft: by their products' sum, weighted by the products' softmax. "
        "auto: own for loss=bce and gbce, nearest for the others.",
        choices=("auto", "own", "nearest", "soft"),
    )
    routing: str = option(
        "shared",
        "Bilinear maps of dynamic routing. shared: one map, and random first logits, as in MIND. "
        "own: a map for each position and interest, and zero logits, as in ComiRec's code.",
        choices=("shared", "own"),
    )
    routing_iterations: int = option(3, "Iterations of dynamic routing.", low=1)
    din_attention: str = option(
        "softmax",
        "Weights of the clicks that DIN sums: normalized to 1 by a softmax, as in its authors' "
        "code, or unnormalized, as in the paper.",
        choices=("softmax", "unnormalized"),
    )
    mask_probability: float = option(
        0.2, "Probability of masking an item in masked training.", above=0.0, high=1.0
    )
    mask_last_probability: float = option(
        0.1,
        "Probability of masking only the last item of a sequence, as evaluation does.",
        low=0.0,
        high=1.0,
    )
    num_intents: int = option(
        256, "Intents: clusters of users' histories, learned once per epoch.", low=1
    )
    intent_weight: float = option(0.1, "Weight of the intent contrastive loss.", low=0.0)
    contrast_weight: float = option(
        0.1, "Weight of the contrastive loss between augmented histories.", low=0.0
    )
    contrast_temperature: float = option(
        1.0, "Temperature of the contrastive losses: divisor of the similarities.", above=0.0
    )
    target_tower: str = option(
        "auto",
        "Network that a candidate's embedding passes through: a tanh MLP or none; "
        "auto: mlp for ttt4rec, as in its paper, none for the others.",
        choices=("auto", "mlp", "none"),
    )
    input_layer: str = option(
        "none",
        "Layer that the embedded clicks pass through first: affine with tanh, or none.",
        choices=("none", "tanh"),
    )
    user_tower: str = option(
        "none",
        "Network that a user vector passes through: a tanh MLP or none.",
        choices=("none", "mlp"),
    )
    initializer: str = option(
        "default",
        "Initial values of weights and embeddings: the model's own, or Xavier's uniform ones.",
        choices=("default", "xavier"),
    )

    def __post_init__(self) -> None:
        if str(self.ffn).lower() in ("true", "false"):
            raise UserError(
                f"--ffn: found {self.ffn!r}, expected gelu (which true meant), swiglu or none "
                "(which false meant)"
            )
        for name, known in (("model", MODELS), ("inner", INNER)):
            check_imported(name, getattr(self, name), known)
        check(self)
        if has_option(self.model, "num_heads") and self.dim % (2 * self.num_heads):
            raise UserError(
                f"--num_heads: {self.num_heads} heads do not divide --dim={self.dim} "
                "into even widths"
            )
        if -1 < self.fast_weight_range < 0:
            raise UserError(
                f"--fast_weight_range: {self.fast_weight_range} is neither -1 nor at least 0"
            )
        for name in ("target_tower", "positions"):
            if getattr(self, name) == "auto":
                object.__setattr__(self, name, getattr(MODELS[self.model], name))
        self._check_owners()

    def _check_owners(self) -> None:
        """Raise UserError if an option that the model does not have has been changed."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value not in (field.default, "none") and not has_option(self.model, field.name):
                raise not_an_option(field.name, self.model)

    @property
    def w0_range(self) -> float:
        """Standard deviation of the inner learner's W_0."""
        if self.fast_weight_range >= 0:
            return self.fast_weight_range
        return 0.02 if self.initializer_reach == "pytorch" else self.initializer_range


def config_class(model: str) -> type[ModelConfig]:
    """Return the class of a model's settings: ModelConfig, or a custom model's own."""
    return CUSTOM[model].config_class if model in CUSTOM else ModelConfig


def own_options(model: str) -> tuple[str, ...]:
    """Return the options that a custom model's settings add to ModelConfig; () for others."""
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    names = (field.name for field in dataclasses.fields(config_class(model)))
    return tuple(name for name in names if name not in known)


def has_option(model: str, name: str) -> bool:
    """Return whether a model has an option; one that OPTIONS does not list belongs to all."""
    if name not in OPTIONS:
        return True
    if model in CUSTOM:
        return name in CUSTOM[model].uses
    return model in OPTIONS[name]


def owners(name: str) -> list[str]:
    """Return the models that have an option."""
    return [m for m in MODELS if has_option(m, name) and hasattr(config_class(m), name)]


def not_an_option(name: str, model: str) -> UserError:
    """Return the error for an option of other models."""
    models = " or ".join(f"--model={owner}" for owner in owners(name))
    return UserError(f"--{name}: an option of {models}, which --model={model} does not have")


def check_imported(flag: str, name: Any, known: Any) -> None:
    """Raise UserError if a name "module:attribute" has not been imported.

    A run's folder alone must not decide which code is imported: the user names it.
    """
    if isinstance(name, str) and ":" in name and name not in known:
        raise UserError(
            f"--{flag}: {name!r} is code outside this package, which is only imported if you name "
            f"it; give --{flag}={name}, or in Python register it first"
        )
