"""Controllers are found by name, and load what they need no sooner."""

from __future__ import annotations

import subprocess
import sys

import pytest

from losssearch.controllers.registry import make_controller
from losssearch.errors import UsageError
from losssearch.spaces import load_space


@pytest.mark.parametrize(
    "name",
    ["random", "evolution", "optuna", "optuna:tpe", "optuna:NSGAIII", "optuna:qmc", "optuna:gp"],
)
def test_a_controller_of_each_name_proposes(name: str) -> None:
    space = load_space("regression")
    proposals = make_controller(name, space, [("mse", space.losses["mse"].program)], 0).ask(4)
    assert len({p.program.text for p in proposals}) > 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("evolutoin", "did you mean 'evolution'"),
        ("tpe", "known are random, evolution, optuna"),
        ("random:tpe", "random"),
        ("optuna:grid", "known are bruteforce"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        make_controller(name, load_space("regression"), [], 0)


def test_optuna_is_loaded_only_by_its_own_controller() -> None:
    code = (
        "import sys; from losssearch.controllers.registry import make_controller\n"
        "from losssearch.spaces import load_space\n"
        "assert 'torch' not in sys.modules\n"
        "make_controller('evolution', load_space('regression'), [], 0).ask(1)\n"
        "assert 'optuna' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
