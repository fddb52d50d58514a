"""The settings of training, of evaluation, and of what a run records. Imports no JAX."""

import dataclasses

from data_prep.settings import UserError, check, option
from ttt4rec_jax.metrics import SELECTORS, TOP_K, cutoffs


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained. Raises UserError if the settings contradict each other."""

    targets: str = option(
        "auto",
        "Training examples. last: every click is the target of its own example, with the window of "
        "clicks before it. every: a sequence is one example, and one causal pass predicts every "
        "next click. masked: a sequence is one example, in which items masked at random are "
        "predicted. auto: masked for bert4rec, last for the others.",
        choices=("auto", "last", "every", "masked"),
    )
    loss: str = option(
        "bce",
        "Training loss. bce: binary cross entropy. gbce: generalised binary cross entropy. "
        "softmax: cross entropy over all items. sampled_softmax: cross entropy over sampled items.",
        choices=("bce", "gbce", "softmax", "sampled_softmax"),
    )
    num_negatives: int = option(
        4,
        "Negatives per target (bce, gbce), or shared by a batch (sampled_softmax).",
        low=1,
        high=2**20,
    )
    training_negatives: str = option(
        "uniform",
        "loss=sampled_softmax: distribution of the negatives, corrected for in the loss. "
        "log_uniform: by popularity, item of rank r with probability proportional to "
        "log(1 + 1 / r).",
        choices=("uniform", "log_uniform"),
    )
    fixed_negatives: bool = option(
        False,
        "loss=bce, gbce: draw the negatives of each training example once for all epochs; they "
        "depend on data_seed, not on seed.",
    )
    gbce_t: float = option(
        0.75, "loss=gbce: calibration t, from 0 (equal to bce) to 1 (full).", low=0.0, high=1.0
    )
    learning_rate: float = option(0.001, "Learning rate of Adam.", above=0.0)
    schedule: str = option(
        "constant",
        "Learning-rate schedule over all epochs: constant, or cosine decay to zero.",
        choices=("constant", "cosine"),
    )
    adam_b2: float = option(
        0.999, "Decay rate of Adam's second-moment estimate.", above=0.0, high=1.0
    )
    weight_decay: float = option(0.0, "Decoupled weight decay (AdamW).", low=0.0)
    clip_norm: float = option(
        0.0, "Clip the global norm of the gradient to this value; 0: no clipping.", low=0.0
    )
    on_nan: str = option(
        "stop",
        "What to do at a step with a non-finite loss, gradient or update: stop the run, or skip "
        "the step and count it.",
        choices=("stop", "skip"),
    )
    sparse_embeddings: bool = option(
        False,
        "Lazy Adam: a step updates only the item embeddings in its batch, so that its time does "
        "not grow with the catalogue. The other embeddings and their moments do not change, "
        "whereas dense Adam decays the moments and still moves the embeddings. Worthwhile from "
        "about 100,000 items.",
    )
    precision: str = option(
        "float32",
        "Matrix products of training steps. float32: as the device multiplies float32 by default. "
        "bfloat16: of operands rounded to bfloat16, for GPUs and TPUs; sums, parameters and the "
        "optimizer stay in float32, and so does a run on a CPU. Evaluation does not depend on it.",
        choices=("float32", "bfloat16"),
    )
    batch_size: int = option(
        256, "Examples (targets=last) or sequences (every, masked) per step.", low=1, high=2**24
    )
    batch_tokens: int = option(
        0,
        "targets=every, masked: tokens per step, from which the number of sequences follows; "
        "0: batch_size sequences.",
        low=0,
        high=2**30,
    )
    length_buckets: int = option(
        4,
        "targets=every, masked: number of length buckets; the sequences of a step have similar "
        "lengths and are padded to the length of their bucket; 1: all are padded to max_len.",
        low=1,
        high=8,
    )
    epochs: int = option(10, "Number of passes over the training examples.", low=1, high=10**6)
    patience: int = option(
        0, "Stop after this many epochs without improvement on validation; 0: never.", low=0
    )
    seed: int = option(
        0,
        "Seed of the initial parameters, shuffling, training negatives and dropout.",
        low=0,
        high=2**31 - 1,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.training_negatives != "uniform" and self.loss != "sampled_softmax":
            raise UserError(
                f"--training_negatives={self.training_negatives}: for --loss=sampled_softmax, "
                f"found --loss={self.loss}; choose that loss, or leave it out"
            )
        if self.fixed_negatives and self.loss not in ("bce", "gbce"):
            raise UserError(
                f"--fixed_negatives: for --loss=bce or gbce, found --loss={self.loss}; "
                "choose one of them, or leave it out"
            )
        if self.sparse_embeddings and self.loss == "softmax":
            raise UserError(
                "--sparse_embeddings: --loss=softmax updates every item at each step; "
                "choose another loss, or leave it out"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How a model is evaluated."""

    select_by: str = option(
        "sampled/ndcg@10", "Validation metric that selects the best epoch.", choices=SELECTORS
    )
    full_catalogue: bool = option(
        True,
        "Rank the full catalogue, too. It takes din, which scores pairs, longer than training "
        "does; with --nofull_catalogue there are metrics among sampled negatives only.",
    )

    filter_seen: bool = option(
        True,
        "Leave the items that the user clicked before out of the full catalogue; with "
        "--filter_seen=no there are also metrics with these items among the candidates, as in the "
        "tables of S3-Rec and its successors.",
    )

    def __post_init__(self) -> None:
        check(self)
        protocol = self.select_by.partition("/")[0]
        if not self.full_catalogue and protocol != "sampled":
            raise UserError(
                f"--nofull_catalogue: --select_by={self.select_by} needs the full catalogue; "
                "choose one of its values that begin with sampled/"
            )
        if not self.full_catalogue and not self.filter_seen:
            raise UserError(
                "--filter_seen=no: needs the full catalogue; leave out --nofull_catalogue"
            )
        if protocol == "unfiltered" and self.filter_seen:
            raise UserError(
                f"--select_by={self.select_by}: seen items are left out; give --filter_seen=no, or "
                "choose one of its values that begin with full/ or sampled/"
            )


TOP_K_HELP = (
    "Numbers k of the test metrics of the first k items, as in 1,5,10,20,50; result.json always "
    "has those at 5, 10 and 20."
)

SEGMENTS_HELP = (
    "Also give test metrics by segment: the length of the user's history, the popularity of the "
    "target (head, middle, tail, cold)."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """What a run records; the model, its training and its ranks do not depend on it."""

    top_k: str = option(TOP_K, TOP_K_HELP)
    segments: bool = option(False, SEGMENTS_HELP)
    ttt_stats: bool = option(
        False,
        "Record in metrics.jsonl, after each epoch, statistics of the TTT layers' inner learners: "
        "the inner loss before and after the update, the change of the weights relative to W_0, "
        "and the learned inner learning rates.",
    )
    tensorboard: bool = option(
        False,
        "Also write each epoch's metrics as TensorBoard event files; needs "
        'pip install "ttt4rec_jax[tensorboard]".',
    )

    def __post_init__(self) -> None:
        check(self)
        cutoffs(self.top_k)
