"""The names at the top: a loss by its name, a loss by its formula, and what `import losssearch` gives."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import losssearch as ls

FOCAL = "mean(-(1 - p_t)**g * log(p_t), 'n')"
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3]], dtype=torch.float64)
TARGET = torch.tensor([0, 2])


def focal(logits, target, gamma, alpha):
    """The formula of Lin et al., sample by sample."""
    losses = []
    for row, right in zip(logits, target, strict=True):
        p = torch.exp(row[right]) / torch.exp(row).sum()
        losses.append(-alpha * (1 - p) ** gamma * torch.log(p))
    return sum(losses) / len(losses)


def test_every_exported_name_is_there():
    assert len(ls.__all__) == len(set(ls.__all__))
    for name in ls.__all__:
        assert getattr(ls, name) is not None
        assert name in dir(ls)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Serach'"):
        _ = ls.Serach


def test_importing_losssearch_loads_nothing_heavy():
    heavy = ["torch", "numpy", "optuna", "ray", "sqlalchemy", "sklearn"]
    code = f"import sys, losssearch; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_focal_by_name_is_the_focal_loss_of_the_paper():
    loss = ls.loss("focal", gamma=2.0)
    torch.testing.assert_close(loss(LOGITS, TARGET), focal(LOGITS, TARGET, 2.0, 0.25))


def test_a_constant_can_be_set_and_reduction_is_a_modules_argument():
    loss = ls.loss("focal", gamma=0.0, alpha=1.0, reduction="none")
    torch.testing.assert_close(loss(LOGITS, TARGET), F.cross_entropy(LOGITS, TARGET, reduction="none"))


def test_a_name_that_two_spaces_have_means_the_first_unless_one_is_named():
    assert ls.loss("focal")(LOGITS, TARGET).isfinite()
    binary = ls.loss("focal", space="binary")
    assert binary(torch.tensor([0.3, -2.0]), torch.tensor([1.0, 0.0])).isfinite()
    assert ls.loss("mae", space="regression")(torch.tensor([3.0]), torch.tensor([1.0])) == 2


def test_a_formula_becomes_a_program_with_named_constants():
    program = ls.parse(FOCAL, space="multiclass", constants={"g": 2.0})
    assert program.text == FOCAL
    assert program.constant_values == {"g": 2.0}


def test_the_formula_of_focal_is_the_loss_called_focal():
    from losssearch.execution.module import module_for

    module = module_for(ls.parse(FOCAL, constants={"g": 2.0}), "multiclass")
    torch.testing.assert_close(module(LOGITS, TARGET), ls.loss("focal", gamma=2.0, alpha=1.0)(LOGITS, TARGET))


def test_loss_takes_a_name_with_its_space_as_the_commands_do():
    assert ls.loss("binary/focal").formula == ls.loss("focal", space="binary").formula
    assert ls.loss("boxes/smooth_l1").formula == ls.loss("smooth_l1", space="boxes").formula
    assert ls.loss("smooth_l1").formula == ls.loss("regression/smooth_l1").formula
    assert ls.loss("focal(gamma=5)", alpha=1.0).constants == {"alpha": 1.0, "gamma": 5.0}


def test_loss_makes_a_module_of_a_formula_and_of_a_program():
    expected = focal(LOGITS, TARGET, 2.0, 1.0)
    program = ls.parse(FOCAL, constants={"g": 2.0})
    for module in (ls.loss(FOCAL, constants={"g": 2.0}), ls.loss(FOCAL, g=2.0), ls.loss(program)):
        torch.testing.assert_close(module(LOGITS, TARGET), expected)
    none = ls.loss(program, g=0.0, reduction="none")(LOGITS, TARGET)
    torch.testing.assert_close(none, F.cross_entropy(LOGITS, TARGET, reduction="none"))
    mae = ls.loss("mean(abs(r), 'n')", space="regression")
    assert mae(torch.tensor([3.0]), torch.tensor([1.0])) == 2


def test_a_classical_loss_needs_no_database():
    code = "import sys, losssearch as ls; ls.loss('focal'); print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def test_search_is_described_without_being_begun(tmp_path):
    search = ls.Search(space="multiclass", proxy="digits-noisy", storage=f"sqlite:///{tmp_path}/a.db")
    assert search.controller == "portfolio"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ls.loss("focl"), "Did you mean 'focal'"),
        (lambda: ls.loss("nope"), r"'nope'. `losssearch losses` lists all \d+.$"),
        (lambda: ls.loss("binary/focl"), "Did you mean 'focal'"),
        (lambda: ls.loss("demo/1"), "'demo/1'"),
        (lambda: ls.loss(FOCAL), "g"),
        (lambda: ls.loss(FOCAL, constants={"g": 2.0}, space="regression"), "p_t"),
        (lambda: ls.loss(ls.parse("mean(abs(r), 'n')", space="regression")), "space="),
        (lambda: ls.loss(ls.parse("mean(-log_pt, 'n')"), gamma=2.0), "no constant 'gamma'"),
        (lambda: ls.loss("focal", gama=2.0), "Did you mean 'gamma'"),
        (lambda: ls.loss("focal", gamma=-1.0), r"outside its range \[0, 5\]"),
        (lambda: ls.loss("focal", gamma="two"), "must be a number"),
        (lambda: ls.loss("focal", gamma=float("nan")), "gamma"),
        (lambda: ls.loss("cross_entropy", gamma=1.0), "has no constant 'gamma'"),
        (lambda: ls.loss("focal", space="binry"), "binary"),
        (lambda: ls.loss("huber", space="multiclass"), "huber"),
        (lambda: ls.parse("mean(-log(p_t)"), "character"),
        (lambda: ls.parse("mean(-lg(p_t), 'n')"), "log"),
        (lambda: ls.parse("mean(-log(p_x), 'n')"), "p_x"),
        (lambda: ls.parse("-log(p_t)"), "n"),
        (lambda: ls.parse("__import__('os').system('true')"), "character"),
        (lambda: ls.parse(""), "empty|formula"),
        (lambda: ls.parse(FOCAL), "g"),
        (lambda: ls.parse("mean(-log(p_t), 'n')", space="multiclas"), "multiclass"),
        (lambda: ls.load_space("no/such.toml"), "no/such.toml"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(call, says):
    with pytest.raises(ls.LossSearchError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
