"""A sweep's combinations, grouped into programs; its plan, table, files and picture. Imports no JAX."""

import csv
import hashlib
import io
import json
import statistics
from pathlib import Path

from ttt4rec_jax.config import Config, program
from ttt4rec_jax.metrics import HEADLINE_METRICS, PROTOCOL_TITLES, PROTOCOLS, label
from ttt4rec_jax.runs.folder import RunFolder, write_json, write_text

PROGRAMS = "programs"
MEMBERS = "combinations.json"
BYTES = 12  # of a parameter in training: its value and Adam's two moments, float32


def groups(
    combinations: dict[str, Config], begun: list[dict[str, Config]] = ()
) -> list[dict[str, Config]]:
    """The combinations that are trained together, as one program each.

    begun: groups of earlier processes. One that has a combination in it goes on as the whole that
    it was: in other company, a run would end in other bits.
    """
    going_on = [group for group in begun if not group.keys().isdisjoint(combinations)]
    taken = {name for group in going_on for name in group}
    found: dict[Config, dict[str, Config]] = {}
    for name, config in combinations.items():
        if name not in taken:
            found.setdefault(program(config), {})[name] = config
    return [*going_on, *found.values()]


def group_folder(root: Path, names: list[str]) -> RunFolder:
    """Where a group's state is kept while it is trained: a single run's own folder, or one named by its members."""
    if names == [""]:
        return RunFolder(root)
    return RunFolder(root / PROGRAMS / hashlib.sha256("\n".join(names).encode()).hexdigest()[:12])


def begin(root: Path, names: list[str]) -> RunFolder:
    """group_folder, made and with its members' names in it."""
    folder = group_folder(root, names)
    if names != [""]:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_json(folder.path / MEMBERS, names)
    return folder


def begun(root: Path, combinations: dict[str, Config]) -> list[dict[str, Config]]:
    """The groups that were begun in a sweep's folder, of these combinations."""
    found = []
    for path in sorted((root / PROGRAMS).glob(f"*/{MEMBERS}")):
        names = json.loads(path.read_text(encoding="utf-8"))
        if combinations.keys() >= set(names):
            found.append({name: combinations[name] for name in names})
    return found


def rows(results: dict[str, dict], select_by: str) -> list[dict]:
    """A row for every combination, best validation figure first, those that failed last.

    results: {name: a result.json's content, or {"error": text}}.
    """
    protocol, metric = select_by.split("/")
    found = []
    for name, result in results.items():
        row = {"combination": name, "seed": "", "error": result.get("error", "")}
        if not row["error"]:
            row["seed"] = result["config"]["train"]["seed"]
            row[f"validation {select_by}"] = result["validation"][protocol][metric]
            row["best_epoch"] = result["best_epoch"]
            row |= {
                f"test {p}/{m}": result["test"][p][m] for p in PROTOCOLS for m in HEADLINE_METRICS
            }
        found.append(row)
    return sorted(found, key=lambda row: -row.get(f"validation {select_by}", -1))


def without_seed(name: str) -> str:
    """A combination's name but for its seed."""
    return ",".join(part for part in name.split(",") if not part.startswith("seed=")) or "all"


def over_seeds(found: list[dict], select_by: str) -> list[dict]:
    """Mean and standard deviation over seeds of the validation figure, best mean first."""
    by_name: dict[str, list[float]] = {}
    for row in found:
        if not row["error"]:
            by_name.setdefault(without_seed(row["combination"]), []).append(
                row[f"validation {select_by}"]
            )
    means = [
        {
            "combination": name,
            "seeds": len(v),
            "mean": statistics.fmean(v),
            "std": statistics.stdev(v) if len(v) > 1 else 0.0,
        }
        for name, v in by_name.items()
    ]
    return sorted(means, key=lambda row: -row["mean"])


def table(found: list[dict], select_by: str) -> str:
    """The sweep in lines: each combination's validation figure over its seeds; test figures of the chosen one alone."""
    means = over_seeds(found, select_by)
    width = max(len(row["combination"]) for row in [*means, *found])
    lines = [f"{'combination':<{width}}  seeds  validation {select_by}, mean ± std over seeds"]
    for place, row in enumerate(means):
        best = "  <- best" if place == 0 else ""
        lines.append(
            f"{row['combination']:<{width}}  {row['seeds']:>5}  {row['mean']:.4f} ± {row['std']:.4f}{best}"
        )
    lines += [
        f"{row['combination']:<{width}}  failed: {row['error']}" for row in found if row["error"]
    ]
    if means:
        chosen = [
            r
            for r in found
            if not r["error"] and without_seed(r["combination"]) == means[0]["combination"]
        ]
        lines.append(
            f"\ntest figures of {means[0]['combination']}, chosen by validation, mean over {len(chosen)} seed(s)"
        )
        for protocol in PROTOCOLS:
            figures = {
                m: statistics.fmean(row[f"test {protocol}/{m}"] for row in chosen)
                for m in HEADLINE_METRICS
            }
            lines.append(
                f"{protocol:<8} HR@10 {figures['hit@10']:.4f}  NDCG@10 {figures['ndcg@10']:.4f}"
            )
    return "\n".join(lines)


def plan(programs: list[dict[str, Config]], sizes: list[tuple[int, int, int]], kept: int) -> str:
    """What would be trained, in lines. sizes: (examples, steps of an epoch, parameters of a run) of each program.

    Cost is counted, not timed: no machine's speed is assumed.
    """
    count = sum(map(len, programs))
    lines = [
        f"dry run   {count} to train in {len(programs)} programs, {kept} finished already; nothing is trained"
    ]
    total_examples = total_steps = 0
    for number, (group, (examples, steps, parameters)) in enumerate(
        zip(programs, sizes, strict=True), 1
    ):
        train = next(iter(group.values())).train
        model = next(iter(group.values())).model
        epochs = train.epochs if examples else 0
        total_examples += len(group) * epochs * examples
        total_steps += epochs * steps
        most = (
            f"at most {epochs} epochs, patience {train.patience}"
            if train.patience
            else f"{epochs} epochs"
        )
        megabytes = f"{len(group) * parameters * BYTES / 1e6:,.0f} MB of parameters and moments"
        lines.append(
            f"\nprogram {number} of {len(programs)}: {len(group)} trained together, {model.model}, {most}"
        )
        lines.append(
            f"  {examples:,} examples, {steps:,} steps an epoch, {parameters:,} parameters a run, {megabytes}"
        )
        lines += [f"    {name or 'the one run'}" for name in group]
    return "\n".join(
        [
            *lines,
            f"\ncost      {total_examples:,} examples seen in {total_steps:,} steps "
            "(examples x epochs x combinations; a step serves all of its program)",
        ]
    )


def varied(flags: dict[str, list]) -> list[str]:
    """The flags that a sweep varies, but for the seed."""
    return [name for name, values in flags.items() if len(values) > 1 and name != "seed"]


def values_of(name: str) -> dict[str, str]:
    """A combination's values as texts, by flag."""
    return dict(part.split("=", 1) for part in name.split(",") if "=" in part)


def picture(flags: dict[str, list], found: list[dict], select_by: str):
    """The sweep as a matplotlib figure: a line with a band over seeds, or a heat map; None if it varies nothing but seeds.

    More than two flags: a heat map of the two that have most values, the others as in the best
    combination.
    """
    from ttt4rec_jax import plots  # not at the top: matplotlib takes a second

    means = over_seeds(found, select_by)
    names = sorted(varied(flags), key=lambda name: -len(flags[name]))[:2]
    if not names or not means:
        return None
    best = values_of(means[0]["combination"])
    fixed = {name: value for name, value in best.items() if name not in names}
    shown = {
        tuple(values[name] for name in names): (row["mean"], row["std"], row["seeds"])
        for row in means
        if fixed.items() <= (values := values_of(row["combination"])).items()
    }
    seeds = max(row["seeds"] for row in means)
    what = f"validation {metric_label(select_by)}" + f", mean of {seeds} seeds" * (seeds > 1)
    title = ", ".join(f"{name}={value}" for name, value in fixed.items())
    place = tuple(best[name] for name in names)
    if len(names) == 1:
        points = [
            (value, *shown[str(value),]) for value in flags[names[0]] if (str(value),) in shown
        ]
        return plots.line_over_seeds(points, names[0], what, title, best[names[0]])
    columns, rows_ = (flags[name] for name in names)
    cells = [[shown.get((str(c), str(r)), (None,))[0] for c in columns] for r in rows_]
    mark = ([str(r) for r in rows_].index(place[1]), [str(c) for c in columns].index(place[0]))
    return plots.heat_map(cells, (names[1], rows_), (names[0], columns), what, title, mark)


def metric_label(select_by: str) -> str:
    """ "sampled/ndcg@10" as figures name it."""
    protocol, metric = select_by.split("/")
    return f"{label(metric)}, {PROTOCOL_TITLES[protocol]}"


def draw(root: Path, flags: dict[str, list], found: list[dict], select_by: str) -> None:
    """Writes sweep.png, if there is something to draw."""
    figure = picture(flags, found, select_by)
    if figure is not None:
        from ttt4rec_jax import plots

        plots.save(figure, root / "sweep.png")


def write(root: Path, flags: dict[str, list], found: list[dict], select_by: str) -> None:
    """Writes sweep.json and sweep.csv."""
    write_json(
        root / "sweep.json",
        {"flags": flags, "combinations": found, "over_seeds": over_seeds(found, select_by)},
    )
    if found:
        columns = list(dict.fromkeys(name for row in found for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
        write_text(root / "sweep.csv", text.getvalue())


def saved_flags(root: Path) -> dict[str, list] | None:
    """The flags that the sweep in a folder was started with; None if the folder holds none."""
    try:
        return json.loads((root / "sweep.json").read_text())["flags"]
    except (OSError, ValueError, KeyError):
        return None
