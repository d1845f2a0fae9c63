"""Does the loss survive compilers, transforms and copies?

Data-dependent `if`, boolean-mask indexing and `.item()` do not. The compile check takes a backend
that needs no C compiler; it costs about five seconds in a fresh process, mostly torch's imports.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from losssearch.contract.case import Broken, Case, NotApplicable, Subject, same, value_and_gradient


def compiled(case: Case) -> str:
    """torch.compile(fullgraph=True) gives the same value and gradient, at two batch sizes."""
    torch.compiler.reset()
    try:
        for loss in (case.loss, case.build(**_masked(case))):
            module = torch.compile(loss, fullgraph=True, backend=case.backend)
            for size in (4, 6):
                x, target = case.batch(size, seed=size)
                wanted, wanted_slope = value_and_gradient(loss, x, target)
                value, slope = value_and_gradient(module, x, target)
                same(value, wanted, "The compiled value")
                same(slope, wanted_slope, "The compiled gradient")
    finally:
        torch.compiler.reset()
    return f"The same value and gradient (backend {case.backend})."


def exported(case: Case) -> str:
    """torch.export with a dynamic batch gives the same value at another batch size."""
    program = _export(case)
    x, target = case.batch(7, seed=7)
    same(program.module()(x, target), case.loss(x, target), "The exported value")
    return "The same value at another batch size."


def per_sample_gradients(case: Case) -> str:
    """torch.func.vmap(grad) gives the gradient of each sample."""
    x, target = case.batch(4)
    for loss in (case.loss, case.build(**_masked(case))):

        def one(sample: Tensor, goal: Tensor, loss: nn.Module = loss) -> Tensor:
            value: Tensor = loss(sample[None], goal[None])
            return value

        got = torch.func.vmap(torch.func.grad(one))(x, target)
        pairs = zip(x.split(1), target.split(1), strict=True)
        wanted = torch.cat([value_and_gradient(loss, *pair)[1] for pair in pairs])
        same(got, wanted, "vmap(grad) against one sample at a time")
    return "Equals one sample at a time."


def _masked(case: Case) -> dict[str, Any]:
    """Keywords that make the loss mask samples, where many losses reach for an index."""
    if case.task != "multiclass":
        return {}
    keywords: dict[str, Any] = {"ignore_index": 1, "weight": case.weights()}
    keywords["reduction"] = "sum"  # a sample alone and ignored has no mean in torch.nn
    return {name: value for name, value in keywords.items() if case.accepts(name)}


def deepcopied(case: Subject) -> str:
    """copy.deepcopy gives an equal loss with its own buffers."""
    twin = copy.deepcopy(case.loss)
    return equal(case, twin, case.loss, "The deep copy")


def pickled(case: Subject) -> str:
    """A round trip through pickle gives an equal loss."""
    twin = pickle.loads(pickle.dumps(case.loss))
    return equal(case, twin, case.loss, "The pickled copy")


def state_dict(case: Case) -> str:
    """A fresh loss that loads the state is the same loss, its weight included."""
    keywords: dict[str, Tensor] = {}
    if case.accepts("weight"):
        keywords["weight"] = case.weights()
    loss = case.build(**keywords)
    state = loss.state_dict()
    fresh = case.build(**{name: torch.ones_like(value) for name, value in keywords.items()})
    fresh.load_state_dict(state, strict=True)
    return equal(case, fresh, loss, "The loaded state")


def onnx(case: Case) -> str:
    """The dynamo exporter writes an ONNX graph that gives the same value at another batch size."""
    missing = [m for m in ("onnx", "onnxscript") if importlib.util.find_spec(m) is None]
    if missing:
        raise NotApplicable(f"{' and '.join(missing)} not installed.")
    from onnx.reference import ReferenceEvaluator

    x, target = case.batch(4)
    with _quiet():
        program = torch.onnx.export(
            copy.deepcopy(case.loss).eval(),
            (x, target),
            dynamo=True,
            dynamic_shapes=_dynamic_batch(),
            verbose=False,
        )
        if program is None:
            raise Broken("The exporter gave no program.")
        graph = ReferenceEvaluator(program.model_proto)
    x, target = case.batch(7, seed=7)
    feed = dict(zip(graph.input_names, (x.numpy(), target.numpy()), strict=True))
    (value,) = graph.run(None, feed)
    same(torch.as_tensor(value), case.loss(x, target), "The value of the ONNX graph", 1e-4)
    return "The same value at another batch size."


def _export(case: Case) -> torch.export.ExportedProgram:
    x, target = case.batch(4)
    module = copy.deepcopy(case.loss).eval()
    return torch.export.export(module, (x, target), dynamic_shapes=_dynamic_batch())


def _dynamic_batch() -> tuple[dict[int, torch.export.Dim], dict[int, torch.export.Dim]]:
    batch = torch.export.Dim("batch", min=2)
    return {0: batch}, {0: batch}


def equal(case: Subject, twin: nn.Module, loss: nn.Module, what: str) -> str:
    """Raises: Broken: The twin has another value, another text, or the very buffers of the loss."""
    same(case.value(twin), case.value(loss), what)
    if twin.extra_repr() != loss.extra_repr():
        raise Broken(f"{what} prints itself otherwise.")
    ours = {p.data_ptr() for p in loss.buffers() if p.numel()}
    if any(p.data_ptr() in ours for p in twin.buffers() if p.numel()):
        raise Broken(f"{what} shares a buffer with the original.")
    return f"{what} is equal."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The ONNX exporter talks on stdout and warns about packages that nobody asked for."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
