"""A comparison as a text table."""

from typing import Any

from ttt4rec_jax.metrics import label, p_text


def table(comparison: dict[str, Any]) -> str:
    """Return a comparison as text: what was compared and how, then means and differences."""
    data = comparison["dataset"]
    systems = comparison["systems"]
    protocol = comparison["protocol"]
    size = (
        f"{data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions"
    )
    lines = [
        f"data       {data['name']}: {size}, sha256 {data['sha256'][:16]}",
        f"test       {comparison['test_users']:,} users, {protocol['split']}, "
        f"ties {protocol['ties']}",
    ]
    width = max(map(len, systems))
    for name, system in systems.items():
        seeds = f"seed{'s' * (len(system['seeds']) > 1)} {', '.join(map(str, system['seeds']))}"
        about = [seeds if system["trained"] else "not trained", *_unnamed_flags(systems, name)]
        about += ["the reference"] * (name == comparison["reference"])
        lines.append(f"system     {name:<{width}}  {'; '.join(about)}")
    for number, line in enumerate(comparison["method"]):
        lines.append(f"{'' if number else 'method':<10} {line}")
    lines += [f"warning    {line}" for line in comparison["warnings"]]
    p_label = "p, Holm" if len(systems) > 2 else "p"
    for name, result in comparison["results"].items():
        lines += ["", f"{name}: {protocol[name]}", *_means_table(result["means"], width)]
        for other, by_metric in result["differences"].items():
            over = systems[other]["interval_over"]
            lines += ["", f"{other} - {comparison['reference']}, over {over}"]
            lines += _difference_table(by_metric, p_label)
    return "\n".join(lines)


def _unnamed_flags(systems: dict[str, Any], name: str) -> list[str]:
    """Return the flags of a system whose values differ in another system.

    Flags that are part of the system's name are left out.
    """
    own = systems[name]["settings"]
    others = [system["settings"] for system in systems.values()]
    flags = [
        k for k in own if k != "model" and any(other.get(k, own[k]) != own[k] for other in others)
    ]
    texts = [text for text in (f"{k}={own[k]}" for k in flags) if text not in name.split(",")]
    return [" ".join(texts)] if texts else []


def _means_table(means: dict[str, dict[str, float]], width: int) -> list[str]:
    """Return a row per system; * marks the best of a column."""
    title = "mean (* best)"
    metrics = list(next(iter(means.values())))
    best = {m: max(row[m] for row in means.values()) for m in metrics}
    width = max(width, len(title))
    lines = [f"{title:<{width}}" + "".join(f"{label(m):>10} " for m in metrics)]
    for name, row in means.items():
        cells = [f"{row[m]:>10.4f}{'*' if row[m] == best[m] else ' '}" for m in metrics]
        lines.append(f"{name:<{width}}" + "".join(cells))
    return [line.rstrip() for line in lines]


def _difference_table(by_metric: dict[str, dict[str, Any]], p_label: str) -> list[str]:
    """Return a row per metric."""
    lines = [f"{'':<9}{'difference':>11}  {'95% interval':>18}  {'relative':>9}  {p_label:>8}"]
    for metric, test in by_metric.items():
        interval = f"[{test['low']:+.4f}, {test['high']:+.4f}]"
        percent = test["relative_percent"]
        relative = "-" if percent is None else f"{percent:+.1f}%"
        p = p_text(test["p_holm"]).removeprefix("p ").removeprefix("= ")
        lines.append(
            f"{label(metric):<9}{test['difference']:>+11.4f}  {interval:>18}  {relative:>9}  {p:>8}"
        )
    return lines
