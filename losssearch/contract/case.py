"""What is a loss checked on?

A `Case` is one task with small random batches, and the way to build the loss again with other
keywords (`Subject`). A check takes a case and returns a sentence, or raises one: `Broken`, `NotApplicable`.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from losssearch.errors import UsageError

Task = Literal["multiclass", "binary", "regression"]
TASKS: tuple[str, ...] = get_args(Task)
KEYWORDS = ("reduction", "weight", "ignore_index", "label_smoothing")


class Broken(Exception):
    """The loss does not keep this line of the contract; the text says how."""


class NotApplicable(Exception):
    """This line of the contract does not concern this loss; the text says why."""


@dataclass(frozen=True)
class Subject:
    """A loss under test, however it is called.

    Args:
        loss: The loss as it was given; no check changes it.
        build: Makes it again with some keywords; the others stand at their defaults.
        signature: What `build` accepts.
        excused: Check name to the sentence why it does not concern this loss.
    """

    loss: nn.Module
    build: Callable[..., nn.Module]
    signature: inspect.Signature
    excused: Mapping[str, str]

    def accepts(self, keyword: str) -> bool:
        parameters = self.signature.parameters
        return keyword in parameters or any(
            p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
        )

    def value(self, loss: nn.Module) -> Tensor:
        """What a loss called in the same way gives on a small batch."""
        raise NotImplementedError


@dataclass(frozen=True)
class Case(Subject):
    """A loss that is called as `loss(input, target)`.

    Args:
        task: One of `TASKS`; fixes the shapes and targets of the batches.
        classes: Number of classes of a multiclass task.
        backend: Backend of torch.compile.
    """

    task: Task
    classes: int
    backend: str

    def value(self, loss: nn.Module) -> Tensor:
        found: Tensor = loss(*self.batch(6))
        return found

    def refusal(self, x: Tensor, target: Tensor) -> Exception | None:
        """What the loss raises on that batch; None if it takes it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.loss(x, target)
            except Exception as error:
                return error
        return None

    @cached_property
    def takes_soft(self) -> bool:
        """Whether soft labels give a value; whether a right one, `soft_targets` says."""
        return self.task != "regression" and self.refusal(self.batch(8)[0], self.soft(8)) is None

    def needs(self, keyword: str) -> None:
        """Raises: Broken: The constructor does not take `keyword`."""
        if not self.accepts(keyword):
            raise Broken(f"The constructor takes no `{keyword}`.")

    def batch(
        self, size: int, *inner: int, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Input and target of the plain kind.

        Returns:
            multiclass: (size, classes, *inner) and class indices (size, *inner);
            binary: (size, *inner) twice, targets 0 or 1; regression: the same, real targets.
        """
        rng = torch.Generator().manual_seed(seed)
        shape = (size, *inner)
        wide = (size, self.classes, *inner) if self.task == "multiclass" else shape
        x = (2 * torch.randn(wide, generator=rng, dtype=torch.float64)).to(dtype)
        if self.task == "regression":
            return x, torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)
        count = torch.arange(torch.Size(shape).numel()).reshape(shape)
        if self.task == "multiclass":
            return x, count * 2 % self.classes
        return x, (count % 3 > 0).to(dtype)

    def soft(self, size: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
        """Soft labels: (size, classes) on the simplex, or (size,) within (0, 1) for binary."""
        rng = torch.Generator().manual_seed(seed)
        wide = (size, self.classes) if self.task == "multiclass" else (size,)
        raw = torch.randn(wide, generator=rng, dtype=torch.float64)
        return (raw.softmax(1) if self.task == "multiclass" else raw.sigmoid()).to(dtype)

    def weights(self) -> Tensor:
        """A weight a class, all different; for a binary loss that takes one only, that one."""
        if self.task == "multiclass":
            return torch.linspace(0.5, 2.0, self.classes)
        x, target = self.batch(6)
        for weights in (torch.tensor([0.5, 2.0]), torch.tensor([2.0])):
            try:
                self.build(weight=weights)(x, target)
            except Exception:
                continue
            return weights
        raise Broken("`weight` takes neither two class weights nor one for the only output.")


def make_case(subject: Subject, task: str, classes: int, backend: str) -> Case:
    """Raises: UsageError: The task is unknown."""
    if task not in TASKS:
        raise UsageError(
            f"No task is called {task!r} for a loss of input and target. Take one of {', '.join(TASKS)}."
        )
    return Case(**vars(subject), task=task, classes=classes, backend=backend)  # type: ignore[arg-type]


def make_subject(loss: nn.Module | Callable[..., nn.Module]) -> Subject:
    """Reads how a loss can be built again with other keywords.

    A module is rebuilt from its class and those of its attributes that are named like a parameter
    of the constructor (torch's own losses keep them so); a class or a factory is called.

    Raises:
        UsageError: The loss is no module, or does not keep an argument of its constructor.
    """
    build: Callable[..., nn.Module]
    if isinstance(loss, nn.Module):
        module = loss
        signature = _signature(type(module))
        kept = _kept_arguments(module, signature)

        def build(**keywords: Any) -> nn.Module:
            arguments = {**copy.deepcopy(kept), **keywords}
            by_place = [
                arguments.pop(p.name)
                for p in signature.parameters.values()
                if p.kind is inspect.Parameter.POSITIONAL_ONLY and p.name in arguments
            ]
            return type(module)(*by_place, **arguments)
    else:
        build = loss
        signature = _signature(loss)
        module = build()
        if not isinstance(module, nn.Module):
            raise UsageError(f"{loss!r} gave a {type(module).__name__}, not a torch.nn.Module.")
    excused = getattr(module, "not_applicable", {})
    if not isinstance(excused, Mapping):
        raise UsageError("`not_applicable` of a loss must map a check's name to a sentence.")
    return Subject(module, build, signature, dict(excused))


def _signature(build: Callable[..., nn.Module]) -> inspect.Signature:
    """What it takes; that of nn.Module itself is written as if it took anything, and takes nothing."""
    if getattr(build, "__init__", None) is nn.Module.__init__:
        return inspect.Signature()
    return inspect.signature(build)


def _kept_arguments(module: nn.Module, signature: inspect.Signature) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if name in KEYWORDS:
            continue
        if hasattr(module, name):
            value = getattr(module, name)
            # A constant kept as a buffer came in as a number.
            scalar = isinstance(value, Tensor) and value.ndim == 0
            kept[name] = value.item() if scalar else value
        elif parameter.default is parameter.empty:
            raise UsageError(
                f"{type(module).__name__} does not keep its argument {name!r}, so it cannot be "
                "built with other keywords. Pass a factory, such as functools.partial(Loss, ...)."
            )
    return kept


def value_and_gradient(loss: Callable[..., Any], x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss and its gradient at `x`, both detached."""
    leaf = x.detach().clone().requires_grad_()
    value: Tensor = loss(leaf, target)
    if not value.requires_grad:
        raise Broken("The value has no gradient with respect to the input.")
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope


def same(got: Tensor, wanted: Tensor, what: str, tolerance: float = 1e-5) -> None:
    """Raises: Broken: The shapes differ, or the values by over `tolerance` * (1 + |wanted|)."""
    if got.shape != wanted.shape:
        raise Broken(f"{what}: shape {tuple(got.shape)}, expected {tuple(wanted.shape)}.")
    a, b = got.detach().double(), wanted.detach().double()
    if not torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=False):
        if a.numel() == 1:
            raise Broken(f"{what}: got {a.item():.6g}, expected {b.item():.6g}.")
        gap = (a - b).abs().max().item()
        raise Broken(f"{what}: differs by up to {gap:.3g}.")


def finite(value: Tensor, what: str) -> None:
    """Raises: Broken: `value` has a nan or an inf."""
    if not torch.isfinite(value).all():
        bad = value[~torch.isfinite(value)].flatten()[0].item()
        raise Broken(f"{what} is {bad}.")
