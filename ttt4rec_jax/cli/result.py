"""What a run found, as result.json holds it and as the closing table shows it."""

from ttt4rec_jax.config import Config
from ttt4rec_jax.metrics import METRICS, PROTOCOLS, label, summarise
from ttt4rec_jax.training.trainer import Outcome, selected


def result(config: Config, manifest: dict, outcome: Outcome, seconds: dict, platform: str) -> dict:
    """The content of result.json. seconds: those of "prepare" and "total", beside the outcome's own."""
    return {
        "model": config.model.model,
        "config": config.to_dict(),
        "dataset": {"name": manifest["name"], **manifest["counts"], "sha256": manifest["sha256"]},
        "protocol": protocol(config, manifest),
        "platform": platform,
        "parameters": outcome.num_parameters,
        "best_epoch": outcome.best_epoch,
        "skipped_steps": sum(line.get("skipped_steps", 0) for line in outcome.history),
        "validation": outcome.validation,
        "test": {name: summarise(ranks) for name, ranks in outcome.test_ranks.items()},
        "seconds": seconds | outcome.seconds,
    } | ttt_stats(outcome)


def ttt_stats(outcome: Outcome) -> dict:
    """{"ttt_stats": those of the best epoch}; {} if they were not recorded."""
    best = next((line for line in outcome.history if line["epoch"] == outcome.best_epoch), {})
    return {"ttt_stats": best["ttt_stats"]} if "ttt_stats" in best else {}


def protocol(config: Config, manifest: dict) -> dict[str, str]:
    """In words, what the figures depend on beside the model."""
    train = config.train
    data = config.data
    loss = (
        train.loss if train.loss == "softmax" else f"{train.loss}, {train.num_negatives} negatives"
    )
    windows = (
        "one example a training click"
        if train.targets == "last"
        else "one pass trains every position"
    )
    return {
        "split": data.split,
        "training": f"{loss}; {windows}, the last {config.model.max_len} clicks",
        "selection": f"best epoch by validation {config.eval.select_by}, test scored once",
        "sampled": f"1:{data.eval_negatives}, {data.negatives}, none of the user's full history, seed {data.data_seed}",
        "full": f"all {manifest['counts']['items']} items less those in the user's history before the target",
        "ties": "at their expectation",
    }


def table(result: dict) -> str:
    """The closing table: data, protocol, and the test figures of both evaluations with 95% intervals over users."""
    data = result["dataset"]
    test = result["test"]
    size = (
        f"{data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions"
    )
    lines = [
        f"data       {data['name']}: {size}, sha256 {data['sha256'][:16]}",
        *(f"{name:<10} {text}" for name, text in result["protocol"].items()),
        f"model      {result['model']}, {result['parameters']:,} parameters, {chosen(result)}",
        *(
            [f"skipped    {result['skipped_steps']:,} steps that were not finite"]
            if is_skipping(result)
            else []
        ),
        "",
        f"{'test':<10} {'sampled':>18} {'full catalogue':>20}   (do not compare the two columns)",
    ]
    for name in METRICS:
        cells = [f"{test[p][name]:.4f} ± {test[p].get(f'{name}_ci95', 0):.4f}" for p in PROTOCOLS]
        lines.append(f"{label(name):<10} {cells[0]:>18} {cells[1]:>20}")
    lines.append(
        f"{'tie rate':<10} {test['sampled']['tie_rate']:>18.4f} {test['full']['tie_rate']:>20.4f}"
    )
    seconds = result["seconds"]
    epochs = seconds["epochs"]
    spent = [f"{name} {seconds[name]:.1f}" for name in ("prepare", "compile")]
    spent += [
        f"{len(epochs)} epochs {sum(epochs):.1f}",
        f"evaluate {seconds['evaluate']:.1f}",
        f"total {seconds['total']:.1f}",
    ]
    return "\n".join([*lines, "", f"seconds    {', '.join(spent)}"])


def is_skipping(result: dict) -> bool:
    """Whether steps that are not finite were skipped; a run of an earlier version never did."""
    return result["config"]["train"].get("on_nan") == "skip"


def chosen(result: dict) -> str:
    """Which epoch's parameters were judged, and the validation figure that chose it."""
    if not result["best_epoch"]:
        return "not trained"
    select_by = result["config"]["eval"]["select_by"]
    return f"epoch {result['best_epoch']}, validation {select_by} {selected(result, select_by):.4f}"
