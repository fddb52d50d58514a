"""The optimiser that the training settings name."""

import optax

from ttt4rec_jax.config import TrainConfig


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980); AdamW if there is weight decay."""
    if config.weight_decay:
        return optax.adamw(config.learning_rate, weight_decay=config.weight_decay)
    return optax.adam(config.learning_rate)
