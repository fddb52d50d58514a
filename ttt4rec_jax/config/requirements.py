"""Compare the installed libraries with the versions that were tried. Imports no JAX.

The package's own metadata (setup.cfg) say which these are; .ci/ranges tries them.
"""

import functools
import re
from importlib import metadata

from data_prep.settings import UserError

PACKAGE = "ttt4rec_jax"
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)\s*\(?([^;()]*)\)?$")
BOUND = re.compile(r"(>=|<)\s*([0-9.]+)")


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version without trailing zeros: (0, 12, 1) for 0.12.1rc1."""
    found = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in found[0].split(".")] if found else []
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


def is_within(version: str, bounds: str) -> bool:
    """Return whether a version satisfies bounds such as ">=0.10,<0.12"."""
    limits = [(sign, numbers(limit)) for sign, limit in BOUND.findall(bounds)]
    mine = numbers(version)
    return all(mine >= limit if sign == ">=" else mine < limit for sign, limit in limits)


def problem(name: str, bounds: str) -> str:
    """Return what is wrong with an installed library, "" if nothing is."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed"
    return "" if is_within(version, bounds) else f"{name} {version} is installed"


@functools.cache
def check_requirements() -> None:
    """Raise UserError if a library is missing, too old, or newer than any that was tried.

    Does nothing for a copy of the source that is not installed, which has no metadata.
    """
    try:
        requirements = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return
    for requirement in requirements:
        if not (parts := REQUIREMENT.match(requirement)):  # of an extra: it has a condition
            continue
        name, bounds = parts.groups()
        if found := problem(name, bounds):
            wanted = ",".join(sorted(bounds.replace(" ", "").split(","), reverse=True))
            raise UserError(
                f"{found}, but {PACKAGE} was tried with {name}{wanted}; "
                f"install that: pip install '{name}{wanted}'"
            )
