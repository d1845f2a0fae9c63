"""The floors of the house hold, and importing the library costs nothing.

Each module imports only from its own floor or below, in functions and for type checkers too; rooms
of one floor never import each other in a circle. `losssearch` never imports the other packages.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]

# The longest name that fits counts.
FLOORS = {
    "losssearch": 9,  # the public face; nothing inside imports it
    "losssearch.__main__": 9,
    "losssearch.cli": 8,
    "losssearch.report": 8,
    "losssearch.terminal": 8,
    "dashboards": 8,
    "losssearch.search": 7,
    "losssearch.session": 7,
    "losssearch.finals": 7,
    "losssearch.sampler": 7,
    "losssearch.dialogue": 7,
    "losssearch.audit": 7,
    "losssearch.ablation": 7,
    "losssearch.api": 7,
    "losssearch.evaluation": 7,
    "losssearch.ledger": 7,
    "losssearch.tuning": 7,
    "workers": 7,
    "losssearch.controllers": 6,
    "losssearch.screening": 6,
    "losssearch.proxies": 6,
    "losssearch.pools": 6,
    "losssearch.records": 6,
    "losssearch.result": 6,
    "losssearch.pareto": 6,
    "losssearch.selection": 6,
    "losssearch.learned": 6,
    "losssearch.learned.audit": 7,
    "losssearch.learned.command": 8,
    "losssearch.adapters": 6,
    "losssearch.exporters": 6,
    "losssearch.insight": 6,
    "losssearch.testing": 6,
    "losssearch.contract": 5,
    "losssearch.execution": 5,
    "losssearch.store": 5,
    "losssearch.catalogue": 5,
    "losssearch.spaces": 5,
    "losssearch.space_file": 5,
    "losssearch.lines": 5,
    "losssearch.language": 4,
    "losssearch.language.program": 3,
    "losssearch.language.primitives": 2,
    "losssearch.language.intervals": 1,
    "losssearch.language.signature": 1,
    "losssearch.language.term": 1,
    "losssearch.duration": 1,
    "losssearch.errors": 1,
    "losssearch.outcomes": 1,
}

# A convenience that reaches up when it is called, and not before.
REACHES_UP = {("losssearch.language.program", "losssearch.language.formula")}  # Program.text

HEAVY = ("torch", "optuna", "ray", "sqlalchemy", "sklearn", "scipy", "numpy")


def module_name(path: Path) -> str:
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in ("losssearch", "workers", "dashboards")
    for path in sorted((HOUSE / package).rglob("*.py"))
}


def room(module: str) -> str:
    """The longest key of FLOORS that holds `module`; the bare package holds itself alone."""
    names = [module.rsplit(".", cut)[0] for cut in range(module.count(".") + 1)]
    found = next((name for name in names if name in FLOORS), None)
    if found is None or (found == "losssearch" and module != "losssearch"):
        raise AssertionError(f"{module} has no floor. Give it one in {Path(__file__).name}.")
    return found


def imports(module: str) -> Iterator[tuple[int, str]]:
    """Line and name of every module of the house that `module` imports, wherever in the file."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: package.count(".") + 2 - node.level]
                base = ".".join([*above, *filter(None, [base])])
            # `from room import module` means the module, `from module import name` the module too.
            inner = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else base for name in inner]
        else:
            continue
        for name in names:
            if name in MODULES and (module, name) not in REACHES_UP:
                yield node.lineno, name


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_from_above(module: str) -> None:
    floor = FLOORS[room(module)]
    upward = [
        f"{MODULES[module].relative_to(HOUSE)}:{line} imports {name}, floor {FLOORS[room(name)]} "
        f"from floor {floor}"
        for line, name in imports(module)
        if FLOORS[room(name)] > floor
    ]
    assert not upward, "\n".join(upward)


def test_rooms_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        here = room(module)
        graph.setdefault(here, set()).update(room(n) for _, n in imports(module))
        graph[here].discard(here)
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_library_never_imports_workers_or_dashboards() -> None:
    outward = [
        f"{module}:{line} imports {name}"
        for module in MODULES
        if module.startswith("losssearch")
        for line, name in imports(module)
        if not name.startswith("losssearch")
    ]
    assert not outward


def loaded(code: str) -> set[str]:
    """The top-level modules in `sys.modules` after `code` ran in a fresh interpreter."""
    report = f"{code}\nimport sys; print('loaded', *{{n.partition('.')[0] for n in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", report], cwd=HOUSE, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


HELP = """
import sys
sys.argv = ["losssearch", "--help"]
from losssearch.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize(
    "code",
    ["import losssearch", "import losssearch.cli", HELP],
    ids=["import losssearch", "import losssearch.cli", "losssearch --help"],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert not loaded(code) & set(HEAVY)


def test_the_probe_sees_what_is_loaded() -> None:
    assert {"numpy", "sqlalchemy"} <= loaded("import numpy, sqlalchemy")
