"""Does a loss that is called with named tensors keep the contract, as one of input and target does?

The lines have the names of those that they stand for; the docstring of each is the line. They cost
milliseconds, but for compilers, and for gradcheck: some twenty calls for each entry of the predictions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from losssearch.contract.call import first_line
from losssearch.contract.case import Broken, finite, same
from losssearch.contract.compilers import equal
from losssearch.contract.named_case import NamedCase, cast
from losssearch.contract.slopes import Tally, compare, learned

LEVELS = (0.0, 1.0, 20.0, 100.0, 6e4)
SCALES = (0.3, 1.0, 4.0, 10.0)  # of the predictions, where slopes are held against differences
SLOPES = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 1e-4, torch.float64: 1e-9}


def call(case: NamedCase) -> str:
    """loss(name=tensor, ...) gives one finite number, and a gradient reaches an input."""
    value = case.loss(**case.batch())
    if not isinstance(value, Tensor) or value.ndim != 0:
        raise Broken("The loss must give a tensor of shape ().")
    finite(value, "The value")
    found = case.sloped(case.loss, case.batch())
    if not found.alive:
        raise Broken("The gradient is 0 in every input.")
    reached = [name for name, slope in found.slopes.items() if slope.any()]
    return f"The value is {value.item():.4g}; a gradient reaches {', '.join(reached)}."


def no_broadcasting(case: NamedCase) -> str:
    """An input with an axis too few, or of another size than another input says, raises ValueError."""
    inputs, count = case.batch(), 0
    for name, shape, wrong in _misshapen(case, inputs):
        said = f"`{name}` of shape {shape} instead of {tuple(inputs[name].shape)}"
        try:
            case.loss(**{**inputs, name: wrong})
        except ValueError:
            count += 1
            continue
        except Exception as error:
            raise Broken(
                f"{said} raised {type(error).__name__}, not ValueError: {first_line(error)}"
            ) from error
        raise Broken(f"{said} gave a value instead of an error.")
    return f"{count} wrong shapes raise."


def _misshapen(case: NamedCase, inputs: dict[str, Tensor]) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
    everywhere = [case.origin(axis) for given in case.reads.inputs.values() for axis in given.axes]
    for name, given in case.reads.inputs.items():
        x = inputs[name]
        for dim, axis in enumerate(given.axes):
            attempts = [x.select(dim, 0)]
            if everywhere.count(case.origin(axis)) > 1:
                attempts += [x.narrow(dim, 0, length) for length in (x.shape[dim] - 1, 1)]
            for wrong in attempts:
                yield name, tuple(wrong.shape), wrong


def empty_batch(case: NamedCase) -> str:
    """Nothing along an axis, each in turn, gives a finite value and finite slopes."""
    return _shortened(case, 0, "nothing")


def batch_of_one(case: NamedCase) -> str:
    """One along an axis, each in turn, gives a finite value and finite slopes."""
    return _shortened(case, 1, "one")


def _shortened(case: NamedCase, length: int, what: str) -> str:
    axes = dict.fromkeys(map(case.origin, case.reads.axes))
    for axis in axes:
        where = f"with {what} along {axis}"
        _finite(case, case.along(case.batch(), axis, length), where)
    return f"Finite with {what} along {', '.join(axes)}."


def _finite(case: NamedCase, inputs: dict[str, Tensor], where: str) -> None:
    found = case.sloped(case.loss, inputs)
    finite(found.value.detach(), f"The value {where}")
    for name, slope in found.slopes.items():
        finite(slope, f"The gradient in `{name}` {where}")


def saturation(case: NamedCase) -> str:
    """Value and slopes are finite at predictions of 0, 1, 20, 100 and 6e4, of any sign, mixed or alike."""
    for dtype in (torch.float32, torch.float64):
        inputs = case.batch(dtype)
        for level in LEVELS:
            for sign in (1, -1):
                spread = {n: _filled(inputs[n], sign * level) for n in case.moved}
                alike = {n: torch.full_like(inputs[n], sign * level) for n in case.moved}
                for predictions in (spread, alike):
                    where = f"at predictions of {sign * level:g} in {str(dtype)[6:]}"
                    _finite(case, {**inputs, **predictions}, where)
    return f"Finite up to +-{LEVELS[-1]:g}."


def _filled(x: Tensor, level: float) -> Tensor:
    """As it is, but so large that the largest entry has that size."""
    return x * (level / x.abs().max().clamp(min=1e-6))


def dtypes(case: NamedCase) -> str:
    """The same numbers in four dtypes give the same value and slopes; of halves the value is float32."""
    # Inputs and constants that each of the four holds.
    inputs = cast(case.batch(torch.bfloat16), torch.float64)
    loss = copy.deepcopy(case.loss).to(torch.bfloat16).double()
    wanted = case.sloped(loss, inputs)
    for dtype, tolerance in SLOPES.items():
        found = case.sloped(copy.deepcopy(loss).to(dtype), cast(inputs, dtype))
        name, computed = str(dtype)[6:], torch.promote_types(dtype, torch.float32)
        if found.value.dtype != computed:
            raise Broken(
                f"The value of {name} inputs is {str(found.value.dtype)[6:]}, not {str(computed)[6:]}."
            )
        same(found.value, wanted.value, f"The value in {name}", min(tolerance, 1e-4))
        for key, slope in found.slopes.items():
            right = wanted.slopes[key]
            fits = right.abs() < torch.finfo(dtype).max / 2  # no half holds a slope of 1e5
            same(slope[fits], right[fits], f"The gradient in `{key}` in {name}", tolerance)
    return "Four dtypes agree."


def autocast(case: NamedCase) -> str:
    """Under autocast the loss is computed in fp32, as if the inputs had been cast before it."""
    for dtype in (torch.bfloat16, torch.float16):
        for given in (dtype, torch.float32):
            inputs = cast(case.batch(dtype), given)
            wanted = case.loss(**cast(inputs, torch.float32))
            with torch.autocast("cpu", dtype=dtype):
                value = case.loss(**inputs)
            where = f"The value of {str(given)[6:]} inputs under {str(dtype)[6:]} autocast"
            if value.dtype != torch.float32:
                raise Broken(f"{where} is {str(value.dtype)[6:]}, not float32.")
            same(value, wanted, where, 1e-5)
    return "An fp32 island under bf16 and fp16."


def gradcheck(case: NamedCase) -> str:
    """The gradient is that of the value, by finite differences in fp64, learned constants included."""
    loss, tally = case.precise(_learning(case)), Tally()
    for name, inputs in _batches(case):
        leaves = {n: inputs[n].clone().requires_grad_() for n in case.moved}
        compare(
            {f"{name}: at {n}": leaf for n, leaf in leaves.items()}, partial(loss, **inputs | leaves), tally
        )
        compare(learned(loss), partial(loss, **inputs), tally)
    return str(tally)


def _batches(case: NamedCase) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for scale in SCALES:
        yield f"predictions of about {scale:g}", case.batch(torch.float64, scale=scale)
    for level in (0.0, 1.0):  # where losses like to have their kinks
        inputs = case.batch(torch.float64)
        alike = {n: torch.full_like(inputs[n], level) for n in case.moved}
        yield f"predictions of {level:g}", inputs | alike


def _learning(case: NamedCase) -> nn.Module:
    """The loss with constants that are learned, if it can."""
    return case.build(learnable=True) if "learnable" in case.signature.parameters else case.loss


def gradgradcheck(case: NamedCase) -> str:
    """So is the gradient of the gradient."""
    loss, inputs = case.precise(case.loss), case.batch(torch.float64)

    def value(*leaves: Tensor) -> Tensor:
        found: Tensor = loss(**{**inputs, **dict(zip(case.moved, leaves, strict=True))})
        return found

    leaves = tuple(inputs[name].clone().requires_grad_() for name in case.moved)
    torch.autograd.gradgradcheck(value, leaves, raise_exception=True)
    return "Agrees with finite differences."


def compiled(case: NamedCase) -> str:
    """torch.compile(fullgraph=True) gives the same value and slopes, at two batch sizes."""
    torch.compiler.reset()
    try:
        module = torch.compile(case.loss, fullgraph=True, backend=case.backend)
        for samples in (4, 6):
            inputs = case.batch(samples=samples)
            found, wanted = case.sloped(module, inputs), case.sloped(case.loss, inputs)
            same(found.value, wanted.value, "The compiled value")
            for name, slope in found.slopes.items():
                same(slope, wanted.slopes[name], f"The compiled gradient in `{name}`")
    finally:
        torch.compiler.reset()
    return f"The same value and gradient (backend {case.backend})."


class _Whole(nn.Module):
    """The inputs as one dictionary: torch.export gives a forward(**inputs) no dynamic sizes."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        found: Tensor = self.loss(**inputs)
        return found


def exported(case: NamedCase) -> str:
    """torch.export with a dynamic batch gives the same value at another batch size."""
    size, samples = torch.export.Dim("batch", min=2), case.origin(case.first)
    dynamic = {
        name: {dim: size for dim, axis in enumerate(given.axes) if case.origin(axis) == samples}
        for name, given in case.reads.inputs.items()
    }
    module = _Whole(copy.deepcopy(case.loss)).eval()
    program = torch.export.export(module, (case.batch(),), dynamic_shapes={"inputs": dynamic})
    other = case.batch(samples=7)
    same(program.module()(other), case.loss(**other), "The exported value")
    return "The same value at another batch size."


def state_dict(case: NamedCase) -> str:
    """A fresh loss that loads the state is the same loss, learned constants and buffers included."""
    learning = "learnable" in case.signature.parameters
    keywords = {"learnable": True} if learning else {}
    loss, fresh = case.build(**keywords), case.build(**keywords)
    for kept in (*loss.parameters(), *loss.buffers()):
        if kept.is_floating_point():
            kept.data.add_(0.125)
    fresh.load_state_dict(loss.state_dict(), strict=True)
    return equal(case, fresh, loss, "The loaded state")
