"""The result of a run: the content of result.json, and the table printed at the end."""

from typing import Any

from data_prep.settings import DataConfig
from ttt4rec_jax.config import Config
from ttt4rec_jax.config.training import EvalConfig
from ttt4rec_jax.metrics import (
    PROTOCOLS,
    TOP_K,
    cutoff,
    cutoffs,
    label,
    shown_metrics,
    summarise_test,
)
from ttt4rec_jax.pipeline.heldout import METRIC_COLUMNS, HeldOut, more_lines, row
from ttt4rec_jax.training.precision import used
from ttt4rec_jax.training.progress import Outcome, selected

# counts of the manifest's summary that are in result.json where they are not 0
IN_RESULT = (
    "users_without_training",
    "test_new_users",
    "test_cold_targets",
    "test_without_negatives",
)


def result(
    config: Config,
    manifest: dict,
    outcome: Outcome,
    seconds: dict[str, float],
    platform: str,
    test: HeldOut | None = None,
) -> dict[str, Any]:
    """Return the content of result.json.

    Args:
        manifest: The data set's manifest.
        test: What is known of the test targets; by default nothing.
        seconds: The times of "prepare" and "total"; the outcome has the others.
        platform: The devices, in words.
    """
    top_k = cutoffs(config.record.top_k)
    return {
        "model": config.model.model,
        "config": config.to_dict(),
        "dataset": dataset(manifest),
        "protocol": protocol(config, manifest),
        "platform": platform,
        "parameters": outcome.num_parameters,
        "best_epoch": outcome.best_epoch,
        "skipped_steps": sum(line.get("skipped_steps", 0) for line in outcome.history),
        "validation": outcome.validation,
        "test": {name: summarise_test(r, top_k) for name, r in outcome.test_ranks.items()},
        **(
            test.entries(outcome.test_ranks, outcome.test_lists, top_k, config.record.segments)
            if test
            else {}
        ),
        "seconds": seconds | outcome.seconds,
        **products(config),
        **ttt_stats(outcome),
    }


def dataset(manifest: dict) -> dict[str, Any]:
    """Return the entry of result.json that describes the data."""
    figures = manifest.get("summary", {})
    return {
        "name": manifest["name"],
        **manifest["counts"],
        **{name: figures[name] for name in IN_RESULT if figures.get(name)},
        "sha256": manifest["sha256"],
    }


def products(config: Config) -> dict[str, str]:
    """Return {"precision": that of the products} if --precision asks for another than float32."""
    return {} if config.train.precision == "float32" else {"precision": used(config.train)}


def ttt_stats(outcome: Outcome) -> dict[str, Any]:
    """Return {"ttt_stats": statistics of the best epoch}, {} if they were not recorded."""
    best = next((line for line in outcome.history if line["epoch"] == outcome.best_epoch), {})
    return {"ttt_stats": best["ttt_stats"]} if "ttt_stats" in best else {}


def protocol(config: Config, manifest: dict) -> dict[str, str]:
    """Return descriptions of what the metrics depend on in addition to the model."""
    train = config.train
    loss = train.loss
    if loss != "softmax":
        loss += f", {train.num_negatives} negatives"
    windows = (
        "one example a training click"
        if train.targets == "last"
        else "one pass trains every position"
    )
    trained = {
        "training": f"{loss}; {windows}, the last {config.model.max_len} clicks",
        "selection": f"best epoch by validation {config.eval.select_by}, test scored once",
    }
    told = {"request": "at a time that the model is told"} if config.model.time == "request" else {}
    return evaluation_protocol(config.data, manifest, trained, config.eval) | told


def evaluation_protocol(
    data: DataConfig, manifest: dict, trained: dict[str, str], evaluation: EvalConfig | None = None
) -> dict[str, str]:
    """Return descriptions of the evaluation; trained: those of training and selection."""
    order = manifest.get("time_unit", "")
    evaluation = evaluation or EvalConfig()
    items = manifest["counts"]["items"]
    kept = {} if evaluation.filter_seen else {"unfiltered": f"all {items} items"}
    without = manifest.get("summary", {}).get("test_without_negatives", 0)
    left_out = f"; without {without:,} users who leave fewer" if without else ""
    shuffled = f", equal times shuffled, seed {data.data_seed}" * (data.ties == "shuffled")
    return {
        "split": split_text(data) + f", time {order}" * order.startswith("none") + shuffled,
        **trained,
        "sampled": f"1:{data.eval_negatives}, {data.negatives}, none of the user's full history, "
        f"seed {data.data_seed}{left_out}",
        "full": f"all {items} items less those in the user's history before the target"
        if evaluation.full_catalogue
        else "not ranked (--nofull_catalogue)",
        **kept,
        "ties": "at their expectation",
    }


def split_text(data: DataConfig) -> str:
    """Return the split, with what the metrics depend on."""
    if data.split == "user_holdout":
        return f"user_holdout, {data.holdout_users:g} of the users, seed {data.data_seed}"
    if data.split == "rolling":
        return f"rolling, window {data.window} of {data.windows} after {data.validation_time:g}"
    return data.split


def table(result: dict[str, Any]) -> str:
    """Return the final table: data, protocol, test metrics with 95% intervals, times."""
    return "\n".join(
        [
            *_header_lines(result),
            "",
            *metric_lines(result, cutoffs(result["config"].get("record", {}).get("top_k", TOP_K))),
            *more_lines(result),
            "",
            _times(result),
        ]
    )


def _header_lines(result: dict[str, Any]) -> list[str]:
    lines = header_lines(result)
    lines.append(
        f"model      {result['model']}, {result['parameters']:,} parameters, {chosen(result)}"
    )
    if is_skipping(result):
        lines.append(f"skipped    {result['skipped_steps']:,} steps with non-finite values")
    return lines


def header_lines(result: dict[str, Any]) -> list[str]:
    """Return lines that describe the data and the protocol of a result."""
    data = result["dataset"]
    size = (
        f"{data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions"
    )
    lines = [f"data       {data['name']}: {size}, sha256 {data['sha256'][:16]}"]
    return lines + [f"{name:<10} {text}" for name, text in result["protocol"].items()]


def metric_lines(result: dict[str, Any], top_k: tuple[int, ...]) -> list[str]:
    """Return the test metrics of the protocols, side by side, at these numbers k.

    A metric that lists of recommendations do not determine is "-", a lower bound has ">=".
    """
    test = result["test"]
    bounds = result.get("bounds", {})
    protocols = [p for p in PROTOCOLS if p in test]

    def cell(protocol: str, name: str) -> str:
        if name not in test[protocol]:
            return "-"
        is_bound = "@" in name and str(cutoff(name)) in bounds.get(protocol, {})
        half = test[protocol].get(f"{name}_ci95", 0)
        return f"{'>= ' if is_bound else ''}{test[protocol][name]:.4f} ± {half:.4f}"

    heads = f"{'test':<10}" + "".join(f" {METRIC_COLUMNS[p]}" for p in protocols)
    columns = "the two columns" if len(protocols) == 2 else "columns"
    lines = [heads + (f"   (do not compare {columns})" if len(protocols) > 1 else "")]
    for name in shown_metrics(top_k):
        lines.append(row(label(name), (cell(p, name) for p in protocols), protocols))
    lines.append(row("tie rate", (f"{test[p]['tie_rate']:.4f}" for p in protocols), protocols))
    return lines


def _times(result: dict[str, Any]) -> str:
    seconds = result["seconds"]
    epochs = seconds["epochs"]
    parts = [
        f"prepare {seconds['prepare']:.1f}",
        f"compile {seconds['compile']:.1f}",
        f"{len(epochs)} epochs {sum(epochs):.1f}",
        f"evaluate {seconds['evaluate']:.1f}",
        f"total {seconds['total']:.1f}",
    ]
    return f"seconds    {', '.join(parts)}"


def is_skipping(result: dict[str, Any]) -> bool:
    """Return whether non-finite steps were skipped; earlier versions never skipped any."""
    return result["config"]["train"].get("on_nan") == "skip"


def chosen(result: dict[str, Any]) -> str:
    """Return a description of the evaluated epoch and its validation metric."""
    if not result["best_epoch"]:
        return "not trained"
    select_by = result["config"]["eval"]["select_by"]
    return f"epoch {result['best_epoch']}, validation {select_by} {selected(result, select_by):.4f}"
