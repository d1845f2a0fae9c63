"""Every line of the contract is kept by a plain cross entropy, and each can be broken."""

from __future__ import annotations

import functools
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from losssearch.errors import UsageError
from losssearch.testing import CHECKS, LossReport, Verdict, check_file, check_loss


class Kept(nn.Module):
    """Cross entropy that keeps the whole contract. The mutants below break one line each."""

    formula = "mean(-log(p_t), 'n')"

    def __init__(
        self,
        *,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"reduction {reduction!r}")
        self.reduction, self.ignore_index, self.label_smoothing = (
            reduction,
            ignore_index,
            label_smoothing,
        )
        self.weight: Tensor | None
        self.register_buffer("weight", weight)

    def log_p(self, x: Tensor, axis: int) -> Tensor:
        return x.log_softmax(axis)

    def cast(self, x: Tensor) -> Tensor:
        return x.float() if x.dtype.itemsize == 2 else x

    def terms(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each sample and what it counts."""
        axis = min(1, x.ndim - 1)
        classes, shape = x.shape[axis], [1] * x.ndim
        shape[axis] = classes
        x = self.cast(x)
        if target.is_floating_point():
            if target.shape != x.shape:
                raise ValueError("shapes differ")
            soft = target.to(x.dtype)
            count = torch.ones_like(soft.sum(axis))
            keep = count > 0
        else:
            if target.shape != x.select(axis, 0).shape:
                raise ValueError("shapes differ")
            index = target.long()
            keep = index != self.ignore_index
            soft = (index.unsqueeze(axis) == torch.arange(classes).reshape(shape)).to(x.dtype)
            count = keep.to(x.dtype)
            if self.weight is not None:
                scale = self.weight.to(x.dtype).reshape(shape)
                count = count * (soft * scale).sum(axis)
                soft = soft * scale
        s = self.label_smoothing
        if s:
            soft = (1 - s) * soft + s / classes
        each = -(soft * self.log_p(x, axis)).sum(axis)
        return torch.where(keep, each, 0.0), count

    def sum_and_count(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        each, count = self.terms(x, target)
        return each.sum(), count.sum()

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        if self.reduction == "none":
            return self.terms(x, target)[0]
        total, count = self.sum_and_count(x, target)
        return total / torch.where(count == 0, 1.0, count) if self.reduction == "mean" else total

    def extra_repr(self) -> str:
        return f"formula={self.formula}"


class KeptSquare(nn.Module):
    """The same for regression: mean((input - target)**2, 'n')."""

    formula = "mean(r**2, 'n')"

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"reduction {reduction!r}")
        self.reduction = reduction

    def each(self, x: Tensor, target: Tensor) -> Tensor:
        if x.shape != target.shape:
            raise ValueError("shapes differ")
        x = x.float() if x.dtype.itemsize == 2 else x
        return self.value(x, target.to(x.dtype))

    def value(self, x: Tensor, target: Tensor) -> Tensor:
        return (x - target) ** 2

    def sum_and_count(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        each = self.each(x, target)
        return each.sum(), torch.tensor(float(each.numel()))

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        each = self.each(x, target)
        if self.reduction == "none":
            return each
        return each.sum() / max(each.numel(), 1) if self.reduction == "mean" else each.sum()

    def extra_repr(self) -> str:
        return f"formula={self.formula}"


class KeptLogistic(KeptSquare):
    """And for binary: mean(softplus(-margin), 'n')."""

    formula = "mean(softplus(-margin), 'n')"

    def value(self, x: Tensor, target: Tensor) -> Tensor:
        return nn.functional.softplus(x) - target * x


class Blind(Kept):
    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return super().forward(x, torch.zeros_like(target))


class ByPlace(Kept):
    def __init__(self, reduction: str = "mean", **keywords: Any) -> None:
        super().__init__(reduction=reduction, **keywords)


class Silent(Kept):
    def extra_repr(self) -> str:
        return ""


class OffByOne(Kept):
    """Takes an int16 target for one that counts from 1."""

    def terms(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return super().terms(x, target - int(target.dtype == torch.int16))


class HalvedOneHot(Kept):
    def terms(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return super().terms(x, target / 2 if target.is_floating_point() else target)


class HardOnly(Kept):
    def terms(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return super().terms(x, target.argmax(1) if target.is_floating_point() else target)


class LastAxis(Kept):
    def log_p(self, x: Tensor, axis: int) -> Tensor:
        return x.log_softmax(-1)


class BatchedOnly(Kept):
    def log_p(self, x: Tensor, axis: int) -> Tensor:
        return x.log_softmax(1)


class Broadcasts(Kept):
    """Takes any target that torch can stretch."""

    def terms(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return super().terms(x, target.expand(x.shape[:1]) if target.shape == (1,) else target)


class Sums(Kept):
    def __init__(self, *, reduction: str = "sum", **keywords: Any) -> None:
        super().__init__(reduction=reduction, **keywords)


class LooseWeight(Kept):
    def __init__(self, *, weight: Tensor | None = None, **keywords: Any) -> None:
        super().__init__(**keywords)
        del self._buffers["weight"]
        self.weight = weight


class IgnoresNothing(Kept):
    """Counts the ignored samples in the mean, and gives them a gradient."""

    def terms(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if target.is_floating_point():
            return super().terms(x, target)
        return super().terms(x, target.long().clamp_min(0) % x.shape[1])


class PlainMean(Kept):
    """0 / 0 on an empty or ignored batch."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        total, count = self.sum_and_count(x, target)
        return total / count if self.reduction == "mean" else super().forward(x, target)


class OddSmoothing(Kept):
    def __init__(self, *, label_smoothing: float = 0.0, **keywords: Any) -> None:
        super().__init__(label_smoothing=label_smoothing / 2, **keywords)


class Standardised(Kept):
    """Divides by a standard deviation over the batch, which one sample does not have."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return super().forward(x / x.std(0), target)


class CountsSamples(Kept):
    """A count without the weights: right only for the plain mean."""

    def sum_and_count(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return super().sum_and_count(x, target)[0], torch.tensor(float(len(x)))

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        total, count = Kept.sum_and_count(self, x, target)
        return total / count


class NoCount(nn.CrossEntropyLoss):
    pass


class ClampedLog(Kept):
    """The usual log(p + eps): eps rounds to 0 in fp16."""

    def cast(self, x: Tensor) -> Tensor:
        return x

    def log_p(self, x: Tensor, axis: int) -> Tensor:
        return (x.softmax(axis) + 1e-8).log()


class NanAtSaturation(Kept):
    """(1 - p)**0.5 * log(p): the value is 0 where p rounds to 1, the gradient nan."""

    def log_p(self, x: Tensor, axis: int) -> Tensor:
        log_p = x.log_softmax(axis)
        return (1 - log_p.exp()) ** 0.5 * log_p


class FloatConstant(Kept):
    """Multiplies by a float32 matrix that does not follow the input's dtype."""

    def cast(self, x: Tensor) -> Tensor:
        return x @ torch.eye(x.shape[-1])


class HalfIsland(Kept):
    """Computes in the dtype of the logits, also under autocast."""

    def cast(self, x: Tensor) -> Tensor:
        return x

    def log_p(self, x: Tensor, axis: int) -> Tensor:
        return x - x.exp().sum(axis, keepdim=True).log()


class Detached(Kept):
    def log_p(self, x: Tensor, axis: int) -> Tensor:
        log_p = x.log_softmax(axis)
        return (1 - log_p.exp()).detach() * log_p


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
    def log_p(self, x: Tensor, axis: int) -> Tensor:
        cubed: Tensor = Cube.apply(x.log_softmax(axis))  # type: ignore[no-untyped-call]
        return cubed


class Item(Kept):
    """Looks at a value in Python."""

    def log_p(self, x: Tensor, axis: int) -> Tensor:
        return x.log_softmax(axis) * (2.0 if x.max().item() > 100 else 1.0)


class BooleanMask(Kept):
    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        if target.is_floating_point():
            return super().forward(x, target)
        keep = target != self.ignore_index
        return super().forward(x[keep], target[keep])


class FixedBatch(Kept):
    """Keeps the batch size as a Python number."""

    def log_p(self, x: Tensor, axis: int) -> Tensor:
        return x.log_softmax(axis) * torch.ones(int(x.shape[0]), 1)


class Locked(Kept):
    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.lock = threading.Lock()


class Lambda(Kept):
    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.link = lambda x: x


class ForgottenWeight(Kept):
    """A buffer that is left out of the state."""

    def __init__(self, *, weight: Tensor | None = None, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.register_buffer("weight", weight, persistent=False)


BROKEN: list[tuple[str, type[nn.Module], str]] = [
    ("call", Blind, "Another target gives the same value."),
    ("constructor", ByPlace, "`reduction` is not keyword-only."),
    ("extra_repr", Silent, "does not show the formula"),
    ("integer_targets", OffByOne, "torch.int16"),
    ("one_hot_targets", HalvedOneHot, "float one-hot"),
    ("soft_targets", HardOnly, "Sharper labels of the same class give the same value."),
    ("dense_targets", LastAxis, "(N, C, d1, d2)"),
    ("unbatched", BatchedOnly, "IndexError"),
    ("no_broadcasting", Broadcasts, "Input (6, 5) with (1,) gave a value"),
    ("reduction", Sums, "Default against reduction='mean'"),
    ("weight", LooseWeight, "`weight` is not a buffer"),
    ("ignore_index", IgnoresNothing, "ignore_index=-100 against without them"),
    ("all_ignored", PlainMean, "is nan"),
    ("label_smoothing", OddSmoothing, "label_smoothing=0.2 against the soft label"),
    ("empty_batch", PlainMean, "got nan, expected 0"),
    ("batch_of_one", Standardised, "is nan"),
    ("sum_and_count", CountsSamples, "with weight against the mean"),
    ("sum_and_count", NoCount, "There is no method"),
    ("saturation", ClampedLog, "in float16 is"),
    ("saturation", NanAtSaturation, "The gradient at logits"),
    ("dtypes", FloatConstant, "RuntimeError"),
    ("autocast", HalfIsland, "not float32"),
    ("gradcheck", Detached, "predictions of about 0.6: at input[0, 0] = "),
    ("gradgradcheck", WrongCurvature, "GradcheckError"),
    ("compiled", Item, "data-dependent"),
    ("exported", FixedBatch, "batch"),
    ("exported", Item, "data-dependent"),
    ("per_sample_gradients", Item, "RuntimeError"),
    ("per_sample_gradients", BooleanMask, "RuntimeError"),
    ("deepcopied", Locked, "TypeError"),
    ("pickled", Lambda, "Error"),
    ("state_dict", ForgottenWeight, "The loaded state"),
    ("onnx", Item, "Error"),
]


def failed(report: LossReport) -> set[str]:
    return {row.name for row in report.failed}


def test_a_loss_that_keeps_the_contract_passes_every_line() -> None:
    report = check_loss(Kept)
    assert report.passed, report
    assert [row.name for row in report.rows] == list(CHECKS)
    assert all(row.verdict is Verdict.PASSED for row in report.rows), report


@pytest.mark.parametrize(("loss", "task"), [(KeptLogistic, "binary"), (KeptSquare, "regression")])
def test_so_does_a_loss_of_another_task(loss: type[nn.Module], task: str) -> None:
    report = check_loss(loss, task)
    assert report.passed, report


@pytest.mark.parametrize(("check", "loss", "detail"), BROKEN, ids=[f"{c}-{k.__name__}" for c, k, _ in BROKEN])
def test_a_broken_loss_fails_its_line(check: str, loss: type[nn.Module], detail: str) -> None:
    (row,) = check_loss(loss, only=[check]).rows
    assert row.verdict is Verdict.FAILED, row
    assert detail in row.detail


def test_every_line_can_fail() -> None:
    assert {check for check, _, _ in BROKEN} == set(CHECKS)


def test_what_torch_cross_entropy_lacks() -> None:
    assert failed(check_loss(nn.CrossEntropyLoss())) == {
        "constructor",  # arguments by place
        "extra_repr",
        "integer_targets",  # int8, int16 and int32 raise
        "all_ignored",  # nan
        "empty_batch",  # nan
        "sum_and_count",
    }


def test_what_torch_binary_cross_entropy_lacks() -> None:
    assert failed(check_loss(nn.BCEWithLogitsLoss, "binary")) == {
        "constructor",
        "extra_repr",
        "integer_targets",
        "empty_batch",
        "sum_and_count",
    }


def test_what_torch_mse_lacks() -> None:
    report = check_loss(nn.MSELoss, "regression")
    assert failed(report) == {
        "constructor",
        "extra_repr",
        "no_broadcasting",  # only warns
        "empty_batch",
        "sum_and_count",
    }
    rest = {row.name for row in report.rows if row.verdict is Verdict.NOT_APPLICABLE}
    assert rest == {
        "integer_targets",
        "one_hot_targets",
        "soft_targets",
        "weight",
        "ignore_index",
        "all_ignored",
        "label_smoothing",
    }


class Excused(Detached):
    not_applicable = {"gradcheck": "The modulating factor is detached."}  # noqa: RUF012


def test_a_loss_may_say_why_a_line_does_not_concern_it() -> None:
    (row,) = check_loss(Excused, only=["gradcheck"]).rows
    assert row.verdict is Verdict.NOT_APPLICABLE
    assert row.detail == "The modulating factor is detached."


def test_no_loss_is_excused_from_finite_numbers() -> None:
    class Sly(Kept):
        not_applicable = {"saturation": "It is hard."}  # noqa: RUF012

    with pytest.raises(UsageError, match="'saturation', from which no loss is excused"):
        check_loss(Sly)


class Gathered(Kept):
    """Picks the class by its index, and so takes no soft labels."""

    def terms(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if target.is_floating_point():
            raise TypeError("class indices are needed")
        return super().terms(x, target)


class SaturatedGather(Gathered):
    """-log(softmax): inf where the probability rounds to 0."""

    def log_p(self, x: Tensor, axis: int) -> Tensor:
        return x.softmax(axis).log()


SOFT = {"one_hot_targets", "soft_targets"}


def test_a_loss_without_soft_labels_fails_only_the_lines_about_them() -> None:
    only = [name for name in CHECKS if name not in ("compiled", "onnx")]  # the slow ones
    report = check_loss(Gathered, only=only)
    assert failed(report) == SOFT, report
    (smoothing,) = check_loss(Gathered, only=["label_smoothing"]).rows
    assert smoothing.verdict is Verdict.NOT_APPLICABLE
    assert "takes no soft labels" in smoothing.detail


def test_but_one_that_breaks_when_saturated_is_told_where() -> None:
    (row,) = check_loss(SaturatedGather, only=["saturation"]).rows
    assert row.verdict is Verdict.FAILED
    assert row.detail == "The value at logits of 100 in float32 is nan."


def test_a_loss_with_soft_labels_is_checked_on_them() -> None:
    class BadSoft(Kept):
        def terms(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            each, count = super().terms(x, target)
            return (each.detach() if target.is_floating_point() else each), count

    (row,) = check_loss(BadSoft, only=["saturation"]).rows
    assert row.verdict is Verdict.FAILED
    assert "no gradient" in row.detail


class Plain(nn.Module):
    """Has no constructor of its own."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(x, target)


@pytest.mark.parametrize("loss", [Plain, Plain()])
def test_a_loss_without_a_constructor_takes_no_arguments(loss: Any) -> None:
    only = [name for name in CHECKS if name != "onnx"]
    rows = {row.name: row for row in check_loss(loss, only=only).rows}
    assert not [row for row in rows.values() if "unexpected keyword" in row.detail]
    assert rows["constructor"].detail == "0 typed keywords."
    assert rows["reduction"].detail == "The constructor takes no `reduction`."
    assert rows["empty_batch"].detail == "The value of an empty batch: got nan, expected 0."
    assert rows["label_smoothing"].verdict is Verdict.NOT_APPLICABLE
    for name in ("constructor", "compiled", "per_sample_gradients", "state_dict"):
        assert rows[name].verdict is Verdict.PASSED, rows[name]


class Focal(Kept):
    """Needs an argument, and keeps it."""

    def __init__(self, *, gamma: float, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.gamma = gamma

    def log_p(self, x: Tensor, axis: int) -> Tensor:
        log_p = x.log_softmax(axis)
        return (1 - log_p.exp()) ** self.gamma * log_p


class Forgetful(Focal):
    def __init__(self, *, power: float, **keywords: Any) -> None:
        super().__init__(gamma=power, **keywords)


def test_a_module_is_built_again_from_the_arguments_it_keeps() -> None:
    only = ["reduction", "weight", "ignore_index", "state_dict"]
    assert check_loss(Focal(gamma=2.0), only=only).passed
    with pytest.raises(UsageError, match="does not keep its argument 'power'"):
        check_loss(Forgetful(power=2.0), only=only)
    assert check_loss(functools.partial(Forgetful, power=2.0), only=only).passed


def test_a_module_is_checked_as_it_stands() -> None:
    report = check_loss(nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum"))
    # torch's exporter leaves label_smoothing out of the graph, without a word.
    assert failed(report) - failed(check_loss(nn.CrossEntropyLoss())) == {"onnx"}


def test_the_report_prints_a_table_and_gives_plain_data() -> None:
    report = check_loss(Silent, only=["call", "extra_repr"])
    text = str(report)
    assert text.startswith("Silent (multiclass)\npassed          call")
    assert text.endswith("1 passed, 1 failed, 0 not applicable")
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["passed"] is False
    assert plain["rows"][1]["verdict"] == "failed"


def test_unknown_words_are_named() -> None:
    with pytest.raises(UsageError, match="No task is called 'ranking'"):
        check_loss(Kept, "ranking")
    with pytest.raises(UsageError, match=r"'regresion'\. Did you mean 'regression'"):
        check_loss(Kept, "regresion")
    with pytest.raises(UsageError, match="No check is called 'speed'"):
        check_loss(Kept, only=["speed"])
    with pytest.raises(UsageError, match="classes >= 2"):
        check_loss(Kept, classes=1)
    with pytest.raises(UsageError, match="gave a int"):
        check_loss(lambda: 3)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("loss", [nn.HuberLoss, nn.MSELoss(), nn.BCEWithLogitsLoss])
@pytest.mark.parametrize("classes", [2, 5, 8])
def test_a_loss_without_a_task_is_not_taken_for_multiclass_if_it_is_not(loss: Any, classes: int) -> None:
    with pytest.raises(UsageError, match="does not take logits and class indices") as error:
        check_loss(loss, only=["call"], classes=classes)
    assert str(error.value).endswith("Give --task binary or regression.")
    assert "\n" not in str(error.value)


def test_any_other_is_and_so_is_one_that_is_said_to_be() -> None:
    assert check_loss(nn.CrossEntropyLoss, only=["call"]).task == "multiclass"
    report = check_loss(nn.HuberLoss, "multiclass", only=["call"])
    assert (report.task, failed(report)) == ("multiclass", {"call"})


FILE = """
import torch
class Mean(torch.nn.MSELoss):
    task = "regression"
"""


def test_a_file_is_checked_by_the_only_class_in_it(tmp_path: Path) -> None:
    path = tmp_path / "my_loss.py"
    path.write_text(FILE)
    report = check_file(path, only=["call", "pickled", "no_broadcasting"])
    assert (report.loss, report.task) == ("Mean", "regression")
    assert failed(report) == {"no_broadcasting"}


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (FILE, "Other", "no loss class is called 'Other'. There are: Mean."),
        (FILE + "class Two(Mean): pass\n", None, "several classes: Mean, Two. Name one."),
        ("x = 1", None, "no class that derives from torch.nn.Module"),
        ("1 / 0", None, "running it raised ZeroDivisionError: division by zero"),
        (FILE + "    def __init__(self, gamma): pass\n", None, "Mean() needs arguments"),
    ],
)
def test_a_file_that_does_not_fit_is_told_why(tmp_path: Path, text: str, name: str | None, said: str) -> None:
    path = tmp_path / "my_loss.py"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        check_file(path, name)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        check_file(tmp_path / "absent.py")
