"""A loss that is called with named tensors is held to its lines of the contract, and each can be broken."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from losssearch.contract.case import make_subject
from losssearch.contract.named_case import make_named
from losssearch.errors import UsageError
from losssearch.execution.named import NamedLoss
from losssearch.exporters.registry import export
from losssearch.exporters.sheet import Sheet
from losssearch.language.formula import parse
from losssearch.spaces import load_space
from losssearch.testing import CHECKS, NAMED_CHECKS, Verdict, check_file, check_loss, check_named


class Kept(nn.Module):
    """Distances to the relevance, over the items that are valid. The mutants below break one line each."""

    task = "ranking"
    formula = "mean(gain * (sqrt(square(score - rel) + 1) - 1), 'n s', valid)"
    inputs = {"score": "n s", "rel": "n s", "valid": "n s"}  # noqa: RUF012
    masks = ("valid",)

    def __init__(self, *, gain: float = 1.5, learnable: bool = False) -> None:
        super().__init__()
        self.gain = gain
        if learnable:
            self.raw_gain = nn.Parameter(torch.tensor(gain))

    def check(self, *tensors: Tensor) -> None:
        for x in tensors[1:]:
            if x.shape != tensors[0].shape or x.ndim != 2:
                raise ValueError(f"shapes {x.shape} and {tensors[0].shape}")

    def cast(self, x: Tensor) -> Tensor:
        return x.float() if x.dtype.itemsize == 2 else x

    def each(self, r: Tensor) -> Tensor:
        return (r * r + 1).sqrt() - 1

    def weigh(self, each: Tensor) -> Tensor:
        gain = self.raw_gain.to(each.dtype) if hasattr(self, "raw_gain") else self.gain
        return gain * each

    def mean(self, each: Tensor, valid: Tensor) -> Tensor:
        return (each * valid).sum() / valid.sum().clamp(min=1)

    def forward(self, *, score: Tensor, rel: Tensor, valid: Tensor) -> Tensor:
        self.check(score, rel, valid)
        score, rel = self.cast(score), self.cast(rel)
        return self.mean(self.weigh(self.each(score - rel)), valid)

    def extra_repr(self) -> str:
        learned = ", ".join(f"{name}={p.item():g}" for name, p in self.named_parameters())
        return f"{self.formula}, gain={self.gain:g} {learned}"


class Unreduced(Kept):
    def mean(self, each: Tensor, valid: Tensor) -> Tensor:
        return each * valid


class Cut(Kept):
    """No gradient comes back."""

    def each(self, r: Tensor) -> Tensor:
        return super().each(r.detach())


class Flat(Kept):
    """A gradient comes back, and is 0."""

    def each(self, r: Tensor) -> Tensor:
        return r.sign() + 0 * r


class Never(Kept):
    def each(self, r: Tensor) -> Tensor:
        return r / 0


class Silent(Kept):
    def extra_repr(self) -> str:
        return f"gain={self.gain}"


class ByTorch(Kept):
    """Leaves it to torch to complain."""

    def check(self, *tensors: Tensor) -> None:
        torch.stack([x.float() for x in tensors])


class Stretches(Kept):
    """Takes what torch can stretch."""

    def check(self, *tensors: Tensor) -> None:
        try:
            torch.broadcast_shapes(*(x.shape for x in tensors))
        except RuntimeError as error:
            raise ValueError("shapes") from error


class PlainMean(Kept):
    def mean(self, each: Tensor, valid: Tensor) -> Tensor:
        return each.sum() / valid.sum()


class Spread(Kept):
    """The standard deviation of a list, which one item does not have."""

    def mean(self, each: Tensor, valid: Tensor) -> Tensor:
        return (each * valid).std(1).sum() if each.numel() else each.sum()


class Root(Kept):
    """The slope of sqrt(r**2) is nan at 0, where prediction and target are the same."""

    def each(self, r: Tensor) -> Tensor:
        return (r * r).sqrt()


class Exponential(Kept):
    def each(self, r: Tensor) -> Tensor:
        return r.exp()


class HalfOut(Kept):
    """Computed in the dtype that it is given."""

    def cast(self, x: Tensor) -> Tensor:
        return x


class HalfInside(HalfOut):
    """And only the result cast, when the digits are gone."""

    def mean(self, each: Tensor, valid: Tensor) -> Tensor:
        return super().mean(self.cast(each.float() if each.dtype.itemsize == 2 else each), valid)


class HalfSlope(Kept):
    """Half of the gradient of a half."""

    def cast(self, x: Tensor) -> Tensor:
        return (x.float() + x.detach().float()) / 2 if x.dtype.itemsize == 2 else x


class Multiplies(Kept):
    """By a matrix: autocast takes that for work in half precision."""

    def each(self, r: Tensor) -> Tensor:
        return super().each(r @ torch.eye(r.shape[-1], dtype=r.dtype).to(r.dtype))


class MultipliesAndCasts(Multiplies):
    def mean(self, each: Tensor, valid: Tensor) -> Tensor:
        return super().mean(each.float() if each.dtype.itemsize == 2 else each, valid)


class Weighted(Kept):
    """A detached factor that the formula does not tell."""

    def each(self, r: Tensor) -> Tensor:
        return super().each(r) * (r * r).detach()


class WrongAtOne(Kept):
    """r**2, but the slope of r at predictions of 1 and a target of 0."""

    def each(self, r: Tensor) -> Tensor:
        return torch.where(r == 1, r, r * r)


class HalfLearned(Kept):
    def weigh(self, each: Tensor) -> Tensor:
        raw = getattr(self, "raw_gain", None)
        return super().weigh(each) if raw is None else (raw + raw.detach()) / 2 * each


class Cube(torch.autograd.Function):
    """x**3 whose second derivative is taken for a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * x.detach() ** 2 * slope


class WrongCurvature(Kept):
    def each(self, r: Tensor) -> Tensor:
        found: Tensor = Cube.apply(r)  # type: ignore[no-untyped-call]
        return found


class Item(Kept):
    """Looks at a value in Python."""

    def each(self, r: Tensor) -> Tensor:
        return super().each(r) * (2.0 if r.max().item() > 100 else 1.0)


class FixedBatch(Kept):
    """Keeps the batch size as a Python number."""

    def each(self, r: Tensor) -> Tensor:
        return super().each(r) * torch.ones(int(r.shape[0]), 1)


class Locked(Kept):
    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.lock = threading.Lock()


class Lambda(Kept):
    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.link = lambda x: x


class Forgetful(Kept):
    """A constant that is left out of the state."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.register_buffer("raw_more", torch.tensor(1.0), persistent=False)
        self.formula = "raw_more"

    def weigh(self, each: Tensor) -> Tensor:
        return super().weigh(each) * self.raw_more


BROKEN: list[tuple[str, type[nn.Module], str]] = [
    ("call", Unreduced, "must give a tensor of shape ()"),
    ("call", Cut, "has no gradient with respect to any input"),
    ("call", Flat, "The gradient is 0 in every input."),
    ("call", Never, "finite on none of 24 ordinary batches"),
    ("extra_repr", Silent, "does not show the formula"),
    ("no_broadcasting", ByTorch, "raised RuntimeError, not ValueError"),
    ("no_broadcasting", Stretches, "`score` of shape (3,) instead of (4, 3) gave a value"),
    ("empty_batch", PlainMean, "The value with nothing along n is nan."),
    ("batch_of_one", Spread, "with one along s is nan."),
    ("saturation", Root, "The gradient in `score` at predictions of 0 in float32 is nan."),
    ("saturation", Exponential, "The value at predictions of 100 in float32 is inf."),
    ("dtypes", HalfOut, "The value of float16 inputs is float16, not float32."),
    ("dtypes", HalfInside, "The value in bfloat16: got"),
    ("dtypes", HalfSlope, "The gradient in `score` in float16: differs"),
    ("autocast", HalfOut, "not float32"),
    ("autocast", Multiplies, "not float32"),
    ("autocast", MultipliesAndCasts, "The value of bfloat16 inputs under bfloat16 autocast: got"),
    ("gradcheck", Weighted, "predictions of about 0.3: at score[0, 0] = "),
    ("gradcheck", WrongAtOne, "predictions of 1: at score["),
    ("gradcheck", HalfLearned, "the learned constant raw_gain = 1.5 the gradient is"),
    ("gradgradcheck", WrongCurvature, "GradcheckError"),
    ("compiled", Item, "data-dependent"),
    ("exported", FixedBatch, "batch"),
    ("exported", Item, "data-dependent"),
    ("deepcopied", Locked, "TypeError"),
    ("pickled", Lambda, "Error"),
    ("state_dict", Forgetful, "The loaded state"),
]


def test_a_loss_that_keeps_the_contract_passes_every_line() -> None:
    report = check_loss(Kept)
    assert (report.loss, report.task) == ("Kept", "ranking")
    assert [row.name for row in report.rows] == list(NAMED_CHECKS)
    assert all(row.verdict is Verdict.PASSED for row in report.rows), report


@pytest.mark.parametrize(("check", "loss", "detail"), BROKEN, ids=[f"{c}-{k.__name__}" for c, k, _ in BROKEN])
def test_a_broken_loss_fails_its_line(check: str, loss: type[nn.Module], detail: str) -> None:
    (row,) = check_loss(loss, only=[check]).rows
    assert row.verdict is Verdict.FAILED, row
    assert detail in row.detail


def test_every_line_can_fail_and_is_one_of_the_contract() -> None:
    assert {check for check, _, _ in BROKEN} == set(NAMED_CHECKS)
    assert [name for name in CHECKS if name in NAMED_CHECKS] == list(NAMED_CHECKS)


def test_any_other_line_does_not_concern_it() -> None:
    (row,) = check_loss(Kept, only=["reduction"]).rows
    assert (row.verdict, row.detail) == (Verdict.NOT_APPLICABLE, "The loss is called with named tensors.")
    with pytest.raises(UsageError, match="No check is called 'speed'"):
        check_loss(Kept, only=["speed"])


def test_a_module_is_checked_as_it_stands_and_built_again_with_its_constants() -> None:
    report = check_loss(Kept(gain=2.5), only=["call", "gradcheck", "state_dict"])
    assert report.passed, report
    assert (
        check_loss(HalfLearned(gain=2.5), only=["gradcheck"])
        .rows[0]
        .detail.startswith("the learned constant raw_gain = 2.5")
    )


# Detached factors.


class Told(Weighted):
    formula = "mean(detach(square(r)) * (sqrt(square(r) + 1) - 1), 'n s', valid)"


class Excused(Weighted):
    not_applicable = {"gradcheck": "The weight is held fixed."}  # noqa: RUF012


class Sly(Kept):
    not_applicable = {"saturation": "It is hard."}  # noqa: RUF012


def test_a_detached_factor_that_is_told_makes_the_differences_not_applicable() -> None:
    rows = check_loss(Told, only=["gradcheck", "gradgradcheck", "call"]).rows
    verdicts = {row.name: row.verdict for row in rows}
    assert verdicts.pop("call") is Verdict.PASSED
    assert set(verdicts.values()) == {Verdict.NOT_APPLICABLE}
    assert "A factor is detached" in rows[1].detail
    assert check_loss(Excused, only=["gradcheck"]).rows[0].detail == "The weight is held fixed."
    with pytest.raises(UsageError, match="'saturation', from which no loss is excused"):
        check_loss(Sly)


HIDDEN = """
[define]
held = "detach(sigmoid(score))"
"""


def test_a_detached_factor_that_only_a_definition_tells_is_known_of_module_and_file(tmp_path: Path) -> None:
    text = load_space("ranking").path.read_text().replace("[define]", HIDDEN.strip(), 1)
    text = text.replace('task      = "ranking"', 'task = "mine"')
    (tmp_path / "mine.toml").write_text(text)
    space = load_space(tmp_path / "mine.toml")
    program = parse("mean(held * square(score - rel), 'n s', valid)", space.signature)
    path = export(Sheet(program, "mine"), tmp_path / "mine.py")
    for report in (
        check_loss(functools.partial(NamedLoss, program=program), only=["gradcheck", "call"]),
        check_file(path, only=["gradcheck", "call"]),
    ):
        assert [row.verdict for row in report.rows] == [Verdict.PASSED, Verdict.NOT_APPLICABLE]


# By name, and as files.


def test_classical_losses_of_every_family_are_checked_by_name() -> None:
    only = ["call", "gradcheck"]
    assert check_named("giou", only=only).task == "boxes"
    for name in ("giou", "segmentation/iou", "gaussian_nll", "l1_regulariser", "gan/wgan"):
        report = check_named(name, only=only)
        assert report.passed, report
        assert report.loss == name


@pytest.mark.parametrize(
    ("name", "task", "says"),
    [
        ("giou", "multiclass", "giou is a loss of boxes, so it cannot be checked as multiclass."),
        ("focal", "binary", "focal is a loss of multiclass, so it cannot be checked as binary."),
        ("giou", "boxs", "No task is called 'boxs'. Did you mean 'boxes'?"),
    ],
)
def test_a_task_that_is_not_that_of_the_loss_is_told(name: str, task: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        check_named(name, task=task, only=["call"])
    assert str(error.value) == says


def test_nor_is_a_module_of_named_tensors_taken_for_another_task() -> None:
    assert check_loss(Kept, "ranking", only=["call"]).passed
    with pytest.raises(UsageError, match="Kept is a loss of ranking, so it cannot be checked as boxes"):
        check_loss(Kept, "boxes", only=["call"])


def test_a_loss_of_a_space_of_ones_own_is_checked_by_name(tmp_path: Path) -> None:
    text = load_space("ranking").path.read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('task      = "ranking"', 'task = "mine"'))
    name = f"{path}/{next(iter(load_space(path).losses))}"
    for task in (None, "mine"):
        assert check_named(name, task=task, only=["call"]).task == "mine"


def test_an_exported_file_of_named_tensors_is_checked(tmp_path: Path) -> None:
    space = load_space("boxes")
    path = export(Sheet(space.loss("giou").program, "boxes", "boxes", "giou"), tmp_path / "giou.py")
    report = check_file(path, only=[name for name in NAMED_CHECKS if name != "compiled"])
    assert report.passed, report
    assert report.task == "boxes"


# Batches.


def drawn(loss: Any, task: str) -> dict[str, Tensor]:
    return make_named(make_subject(loss), task, "aot_eager").batch()


def test_inputs_that_the_space_knows_are_drawn_as_it_declares_them() -> None:
    loss = NamedLoss(load_space("segmentation").loss("dice").program)
    batch = drawn(loss, "segmentation")
    assert {name: tuple(x.shape) for name, x in batch.items()} == {
        "logits": (4, 3, 3),
        "target": (4, 3, 3),
        "valid": (4, 3),
    }
    assert batch["valid"].dtype == torch.bool
    torch.testing.assert_close(batch["target"].sum(1), torch.ones(4, 3))  # one-hot
    assert batch["target"].unique().tolist() == [0, 1]


class Pairs(nn.Module):
    """Reads `weight`, which multitask knows otherwise, and names of its own."""

    task = "multitask"
    formula = "mean(square(gap) * weight, 'a b')"
    inputs = {"gap": "a b", "weight": "b"}  # noqa: RUF012
    copies = {"b": "a"}  # noqa: RUF012

    def forward(self, gap: Tensor, weight: Tensor) -> Tensor:
        if gap.ndim != 2 or gap.shape[0] != gap.shape[1] or weight.shape != gap.shape[1:]:
            raise ValueError("shapes")
        if gap.dtype.itemsize == 2:
            gap, weight = gap.float(), weight.float()
        return (gap * gap * weight).sum() / max(gap.numel(), 1)

    def extra_repr(self) -> str:
        return self.formula


def test_inputs_that_no_space_knows_are_normal_and_copies_have_one_size() -> None:
    batch = drawn(Pairs, "multitask")
    assert {name: tuple(x.shape) for name, x in batch.items()} == {"gap": (4, 4), "weight": (4,)}
    assert (batch["weight"] < 0).any()
    report = check_loss(Pairs)
    assert report.passed, report


class Rows(nn.Module):
    """Nothing but its own axis says how many there are."""

    formula = "mean(square(x), 'k')"
    inputs = {"x": "k"}  # noqa: RUF012

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 1:
            raise ValueError("x needs one axis")
        x = x.float() if x.dtype.itemsize == 2 else x
        return (x * x).sum() / max(x.numel(), 1)

    def extra_repr(self) -> str:
        return self.formula


def test_a_size_that_no_other_input_says_may_be_any() -> None:
    report = check_loss(Rows)
    assert report.passed, report
    assert report.task == "named tensors"
    assert {row.name: row.detail for row in report.rows}["no_broadcasting"] == "1 wrong shapes raise."


class Seldom(Kept):
    """Alive where some score is above 2.5, which few batches have."""

    def each(self, r: Tensor) -> Tensor:
        return (r - 2.5).relu() ** 2


def test_a_batch_is_taken_on_which_the_gradient_is_alive() -> None:
    assert check_loss(Seldom, only=["call"]).passed
