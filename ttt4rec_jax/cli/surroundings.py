"""The surroundings of a command: the installed JAX, its environment variables, memory, files.

Imports no JAX at the top: `start_jax` does, after the flags have been checked.
"""

import os
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from data_prep.settings import UserError, first_line
from ttt4rec_jax.config.memory import out_of_memory

# Settings of JAX that would stop training or change its numbers without a word, and their values
# here. Precision, platforms, NaN checks and logging stay as the environment has them.
OURS = {
    "jax_enable_x64": False,
    "jax_disable_jit": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_numpy_rank_promotion": "allow",
    "jax_numpy_dtype_promotion": "standard",
    "jax_transfer_guard": "allow",
}
# What a small run needs of a process's limits: name, least value, unit of `ulimit`, its flag.
# Below these, native code of XLA, polars or orbax aborts or hangs, which Python cannot report.
LIMITS = (("RLIMIT_AS", 2_560_000_000, 1024, "-v"), ("RLIMIT_NOFILE", 32, 1, "-n"))


def check_limits() -> None:
    """Raise UserError if the shell limits memory or open files below what a small run needs."""
    for name, least, unit, flag in LIMITS if resource else ():
        limit = getattr(resource, name, None)
        found = resource.getrlimit(limit)[0] if limit is not None else resource.RLIM_INFINITY
        if found != resource.RLIM_INFINITY and found < least:
            raise UserError(
                f"ulimit {flag}: found {found // unit}, expected at least {least // unit} "
                f"(or unlimited); raise it with `ulimit {flag} {least // unit}`"
            )


def start_jax() -> None:
    """Import JAX with the settings of this program. Raises UserError if that is impossible.

    Settings in the environment that would change a model's numbers are replaced, with a note.
    """
    check_limits()
    from ttt4rec_jax.config.requirements import check_requirements  # not for --help

    check_requirements()
    try:
        import jax
        import numpy  # noqa: F401, a broken installation is reported here

        for name, value in OURS.items():
            found = getattr(jax.config, name, value)  # not every version has all
            if found not in (value, None):
                jax.config.update(name, value)
                note = f"note: {name.upper()}={os.environ.get(name.upper(), found)} is ignored"
                print(f"{note}: this program needs {name}={value}", file=sys.stderr)
    except (ImportError, ValueError, AttributeError, RuntimeError, OSError) as error:
        raise UserError(
            f"JAX cannot be imported ({type(error).__name__}: {first_line(error)}); correct or "
            "unset an environment variable that this names, or install JAX again"
        ) from error


def in_one_line(error: Exception) -> str | None:
    """Return what an error that the machine caused means and what to do; None for any other."""
    if line := out_of_memory(error):
        return line
    if isinstance(error, OSError):
        name = f"{str(error.filename)[:200]}: " if error.filename else ""
        reason = error.strerror or first_line(error)
        return f"{name}{reason}; name another file or folder, or make this one usable"
    return None
