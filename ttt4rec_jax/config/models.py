"""The settings of a model. Imports no JAX."""

import dataclasses
from typing import Any, NamedTuple

from data_prep.settings import UserError, check, option
from ttt4rec_jax.config.capabilities import MODELS
from ttt4rec_jax.config.options import OPTIONS


class CustomModel(NamedTuple):
    """A model that is not part of this package; see models/custom.py.

    uses: the options of ModelConfig that it uses in addition to max_len, dim and dropout.
    """

    cls: Any  # (config, number of items, nnx.Rngs) -> nnx.Module
    config_class: "type[ModelConfig]"
    uses: tuple[str, ...]


CUSTOM: dict[str, CustomModel] = {}  # by name; the capabilities of each are in MODELS
INNER = ["linear", "mlp"]  # the names of the inner learners; see ttt/inner.py


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model and its hyper-parameters. Raises UserError if they contradict each other."""

    model: str = option(
        "ttt4rec",
        "The recommender, or a class of your own as module:Class.",
        choices=lambda: tuple(MODELS),
    )
    max_len: int = option(
        10,
        "Maximum length of the history that a model reads, which ends at the last click.",
        low=1,
        high=2**20,
    )
    dim: int = option(64, "Dimension of the embeddings and of the blocks.", low=1, high=2**16)
    num_blocks: int = option(
        1,
        "Number of blocks (norm, TTT layer or attention, residual connection); of gru4rec: number "
        "of GRU layers.",
        low=1,
        high=256,
    )
    num_heads: int = option(
        2,
        "Number of heads of a TTT layer (each with its own fast weights) or of attention.",
        low=1,
        high=2**15,
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
        "Tokens per inner mini-batch, whose gradients are taken at the same weights; 1: online "
        "gradient descent.",
        low=1,
        high=2**20,
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
        -1.0,
        "Standard deviation of W_0, the inner learner's initial weights; -1: initializer_range.",
        low=-1.0,
    )
    ttt_impl: str = option(
        "auto",
        "Implementation of the TTT layer. Results are equal up to rounding, speeds differ. "
        "auto: the fastest for its shape.",
        choices=("auto", "scan", "dual", "chunked"),
    )
    backbone: str = option(
        "transformer",
        "Block around a TTT layer. transformer: projections only. mamba: in addition convolutions "
        "of width 4 on queries and keys, and a gate.",
        choices=("transformer", "mamba"),
    )
    block: str = option(
        "residual",
        "Block around a TTT layer or an attention. residual: norms before it, residuals around it. "
        "filter: BSARec's, made causal: weighted means of the clicks so far beside it, norms after "
        "it.",
        choices=("residual", "filter"),
    )
    filter_share: float = option(
        0.7,
        "block=filter: share of the means in the sum of means and TTT layer or attention.",
        low=0.0,
        high=1.0,
    )
    score: str = option(
        "dot",
        "Score of an item: the dot product of user and item vectors, or their cosine divided by "
        "the temperature.",
        choices=("dot", "cosine"),
    )
    temperature: float = option(
        0.05, "score=cosine: temperature that the cosine is divided by.", above=0.0
    )
    num_interests: int = option(
        4, "comirec: number of interests (user vectors) per user.", low=1, high=2**10
    )
    interest_rule: str = option(
        "auto",
        "comirec: how a user's interests score an item. own: each item is scored by its best "
        "interest, in training and in evaluation. nearest: the same, but in training the interest "
        "nearest to the target also scores the negatives. soft: the sum of the products with all "
        "interests, weighted by their softmax. auto: own for loss=bce and gbce, nearest for the "
        "other losses.",
        choices=("auto", "own", "nearest", "soft"),
    )
    routing: str = option(
        "shared",
        "comirec_dr: bilinear maps of dynamic routing. shared: one map, and random initial "
        "logits, as in MIND. own: a map for each position and interest, and zero logits, as in "
        "ComiRec's code.",
        choices=("shared", "own"),
    )
    routing_iterations: int = option(
        3, "comirec_dr: number of iterations of dynamic routing.", low=1, high=2**10
    )
    din_attention: str = option(
        "softmax",
        "din: weights of the clicks that are summed: normalized to 1 by a softmax, as in its "
        "authors' code, or unnormalized, as in the paper.",
        choices=("softmax", "unnormalized"),
    )
    mask_probability: float = option(
        0.2, "bert4rec: probability of masking an item in training.", above=0.0, high=1.0
    )
    mask_last_probability: float = option(
        0.1,
        "bert4rec: probability of masking only the last item of a sequence, as in evaluation.",
        low=0.0,
        high=1.0,
    )
    num_intents: int = option(
        256, "iclrec: number of intents, the clusters of users' histories.", low=1, high=2**20
    )
    intent_weight: float = option(0.1, "iclrec: weight of the intent contrastive loss.", low=0.0)
    contrast_weight: float = option(
        0.1, "iclrec: weight of the contrastive loss between augmented histories.", low=0.0
    )
    contrast_temperature: float = option(
        1.0,
        "iclrec: temperature that the similarities of the contrastive losses are divided by.",
        above=0.0,
    )
    target_tower: str = option(
        "auto",
        "Network that a candidate's embedding passes through: a tanh MLP or none; "
        "auto: mlp for ttt4rec, as in its paper, none for the others.",
        choices=("auto", "mlp", "none"),
    )
    input_layer: str = option(
        "none",
        "Layer that the embedded clicks pass through first. tanh: affine with tanh. norm: RMSNorm.",
        choices=("none", "tanh", "norm"),
    )
    user_tower: str = option(
        "none",
        "Network that a user vector passes through: a tanh MLP or none.",
        choices=("none", "mlp"),
    )
    time: str = option(
        "none",
        "Time gaps whose embeddings are added to those of the clicks. gaps: the gap before each "
        "click. request: also the gap after it, so that the model knows when the list is asked "
        "for; its metrics are comparable with those of other such models only.",
        choices=("none", "gaps", "request"),
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
                "into even head widths"
            )
        if -1 < self.fast_weight_range < 0:
            raise UserError(
                f"--fast_weight_range: found {self.fast_weight_range}, expected -1 or at least 0"
            )
        for name in ("target_tower", "positions"):
            if getattr(self, name) == "auto":
                object.__setattr__(self, name, getattr(MODELS[self.model], name))
        self._check_owners()

    def _check_owners(self) -> None:
        """Raise UserError if an option that the model does not have was changed."""
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
    """Return the class of a model's settings: ModelConfig, or that of a custom model."""
    return CUSTOM[model].config_class if model in CUSTOM else ModelConfig


def own_options(model: str) -> tuple[str, ...]:
    """Return the options that a custom model adds to ModelConfig; () for other models."""
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    names = (field.name for field in dataclasses.fields(config_class(model)))
    return tuple(name for name in names if name not in known)


def has_option(model: str, name: str) -> bool:
    """Return whether a model has an option; all models have those that OPTIONS does not list."""
    if name not in OPTIONS:
        return True
    if model in CUSTOM:
        return name in CUSTOM[model].uses
    return model in OPTIONS[name]


def owners(name: str) -> list[str]:
    """Return the models that have an option."""
    return [m for m in MODELS if has_option(m, name) and hasattr(config_class(m), name)]


def not_an_option(name: str, model: str) -> UserError:
    """Return the error for an option that a model does not have."""
    models = " or ".join(f"--model={owner}" for owner in owners(name))
    return UserError(f"--{name}: an option of {models}, which --model={model} does not have")


def check_imported(flag: str, name: Any, known: Any) -> None:
    """Raise UserError if a name "module:attribute" has not been imported.

    Only the user may decide which code is imported, not the content of a run's folder.
    """
    if isinstance(name, str) and ":" in name and name not in known:
        raise UserError(
            f"--{flag}: {name!r} is code outside this package, which is imported only if you name "
            f"it; give --{flag}={name}, or in Python register it first"
        )
