"""Settings that earlier versions saved, as this version reads them. Imports no JAX."""

from typing import Any

from ttt4rec_jax.config.models import has_option

# What a model did before it had the option, where that is not the option's default now.
BEFORE = {"interest_rule": "nearest", "din_attention": "unnormalized"}
FFN = {True: "gelu", False: "none"}  # ffn was true or false


def model_settings(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the section "model" of a config.json with what its version left unsaid."""
    unsaid = {name: value for name, value in BEFORE.items() if has_option(saved["model"], name)}
    settings = unsaid | saved
    if isinstance(settings.get("ffn"), bool):
        settings["ffn"] = FFN[settings["ffn"]]
    return settings


def flags(saved: dict[str, list]) -> dict[str, list]:
    """Return the values of a sweep's flags, by the same rules."""
    unsaid = {
        name: [value]
        for name, value in BEFORE.items()
        if all(has_option(model, name) for model in saved.get("model", [""]))
    }
    values = unsaid | saved
    if "ffn" in values:
        values["ffn"] = [FFN[v] if isinstance(v, bool) else v for v in values["ffn"]]
    return values
