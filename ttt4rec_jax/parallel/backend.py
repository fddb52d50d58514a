"""Whether JAX can compute on this machine as its settings say."""

import jax

from data_prep.settings import UserError

INSTALL = {"cuda": "pip install 'ttt4rec_jax[cuda]'", "gpu": "pip install 'ttt4rec_jax[cuda]'"}
INSTALL["tpu"] = "pip install 'ttt4rec_jax[tpu]'"


def check_backend() -> None:
    """Raise UserError if the platform that JAX was told to use is not there, or float64 is on."""
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise UserError(
            "jax_enable_x64 is on, but models are float32; unset JAX_ENABLE_X64, or call "
            "jax.config.update('jax_enable_x64', False)"
        )
    try:
        jax.devices()
    except (RuntimeError, AssertionError, ValueError) as error:
        asked = jax.config.jax_platforms or ""  # type: ignore[attr-defined]
        reason = str(error).strip().split("\n")[0].split(" (set JAX_PLATFORMS")[0]
        raise UserError(
            f"JAX_PLATFORMS={asked}: JAX cannot start this platform "
            f"({reason or 'it is not installed, or has no device here'}); {_advice(asked)}"
        ) from error


def _advice(asked: str) -> str:
    """Return which platform JAX chooses by itself, and what to do."""
    try:
        jax.config.update("jax_platforms", None)
        found = jax.default_backend()
    except (RuntimeError, AssertionError, ValueError):
        return "it found no other; correct or unset JAX_PLATFORMS, JAX_NUM_CPU_DEVICES, XLA_FLAGS"
    finally:
        jax.config.update("jax_platforms", asked or None)
    install = "".join(f"{how}, or " for name, how in INSTALL.items() if name in asked.split(","))
    return f"it found the platform {found}; {install}unset JAX_PLATFORMS"
