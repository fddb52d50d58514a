"""Whether JAX can compute on this machine as its settings say."""

import jax

from data_prep.settings import UserError, first_line

INSTALL = {"cuda": "pip install 'ttt4rec_jax[cuda]'", "gpu": "pip install 'ttt4rec_jax[cuda]'"}
INSTALL["tpu"] = "pip install 'ttt4rec_jax[tpu]'"


def check_backend() -> None:
    """Raise UserError if the platform that JAX was told to use is not there, or float64 is on."""
    if jax.config.jax_enable_x64:
        raise UserError(
            "jax_enable_x64 is on, but models are float32; unset JAX_ENABLE_X64, or call "
            "jax.config.update('jax_enable_x64', False)"
        )
    try:
        jax.devices()
    except (RuntimeError, AssertionError, ValueError) as error:
        asked = jax.config.jax_platforms or ""
        install = "".join(
            f"{how}, or " for name, how in INSTALL.items() if name in asked.split(",")
        )
        raise UserError(
            f"JAX_PLATFORMS={asked}: JAX cannot start this platform ({first_line(error)[:200]}); "
            f"it found {_found(asked)}; {install}unset JAX_PLATFORMS"
        ) from error


def _found(asked: str) -> str:
    """Return the platform that JAX chooses by itself, in words."""
    try:
        jax.config.update("jax_platforms", None)
        return f"the platform {jax.default_backend()}"
    except (RuntimeError, AssertionError, ValueError):
        return "no platform"
    finally:
        jax.config.update("jax_platforms", asked or None)
