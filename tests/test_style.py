"""Rules that no linter knows: one assignment a statement, annotations, lengths, the map."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("ttt4rec_jax", "data_prep", "experiments", "tests", "docs")
    for path in (ROOT / folder).rglob("*.py")
)


def parallel_assignments(tree: ast.Module) -> list[int]:
    """The lines of assignments of several values to several names that do not swap anything."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            for target in node.targets:
                if isinstance(target, ast.Tuple):
                    names = {ast.unparse(element) for element in target.elts}
                    if names != {ast.unparse(element) for element in node.value.elts}:
                        lines.append(node.lineno)
    return lines


def without_annotations(tree: ast.Module) -> list[str]:
    """The public functions and methods that lack the annotation of a parameter or of the result."""
    found = []
    owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for owner in owners:
        for node in owner.body:
            if not isinstance(node, ast.FunctionDef):
                continue
            is_dunder = node.name.startswith("__")
            if node.name.startswith("_") and not is_dunder:
                continue
            arguments = node.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            named += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
            is_method = owner is not tree
            missing = [a.arg for a in named if a.annotation is None]
            missing = [name for name in missing if not is_method or name not in ("self", "cls")]
            if missing or (node.returns is None and node.name != "__init__"):
                found.append(f"{node.name} (line {node.lineno}): {', '.join(missing) or 'result'}")
    return found


def test_the_rules_catch_what_they_are_for():
    tree = ast.parse("a, b = 1, 2\na, b = b, a\na, b = f()\ndef g(x): pass\ndef _h(x): pass")
    assert parallel_assignments(tree) == [1]
    assert without_annotations(tree) == ["g (line 4): x"]


def violations(paths, rule) -> dict[str, list]:
    """What a rule finds in each file, files without any left out."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    return {str(p.relative_to(ROOT)): found for p, tree in trees.items() if (found := rule(tree))}


def test_one_assignment_a_statement():
    assert violations(FILES, parallel_assignments) == {}


PRODUCT = [
    path for path in FILES if path.relative_to(ROOT).parts[0] in ("ttt4rec_jax", "data_prep")
]


def test_public_functions_are_annotated():
    assert violations(PRODUCT, without_annotations) == {}


def test_a_file_has_at_most_300_lines():
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in PRODUCT}
    assert {name for name, length in lengths.items() if length > 300} == set()


def test_the_map_names_every_module():
    text = (ROOT / "WORKSPACE.md").read_text(encoding="utf-8")
    tree = text.split("## Folders and files")[1].split("## ")[0]
    named = set(re.findall(r"[a-z_0-9]+\.py", tree))
    modules = {path.name for path in PRODUCT if path.name != "__init__.py"}
    assert modules - named == set(), "modules that WORKSPACE.md does not name"
    assert named - {path.name for path in FILES} == set(), "modules that do not exist"
