"""The exported file of a loss of named tensors: any formula, any name, learnable, and clear about shapes."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from losssearch.controllers.base import sampler_of
from losssearch.controllers.random import Fresh
from losssearch.errors import ExportError
from losssearch.execution.named import NamedLoss
from losssearch.exporters.registry import export
from losssearch.exporters.sheet import Sheet
from losssearch.language.draws import Draws
from losssearch.language.formula import parse
from losssearch.language.program import Program
from losssearch.screening.probes import stratified
from losssearch.spaces import load_space

HOSTILE = """
title = "Names that Python, torch or the file itself has taken"
task  = "hostile"
sets  = ["", "n", "n c", "n c s"]
head  = "mean(body, 'n')"
better = "nearer"
reference = "plain"
screens = ["facts"]

[axes]
n = {}
c = {}
s = {}

[inputs]
forward = { axes = "n c s", role = "prediction", range = [-9, 9] }
weight  = { axes = "n s", role = "target", range = [-9, 9] }
bounded = { axes = "c s", role = "provided", range = [0.1, 1] }
inputs  = { axes = "n", role = "mask" }

[define]
torch = "forward - weight * bounded"

[search]
primitives = ["add", "mul", "square"]
terminals  = ["torch"]
sets       = ["", "n"]
nodes      = 9
depth      = 4

[losses.plain]
title   = "Plain"
formula = "mean(mean(square(torch), 'c s') * shown, 'n', inputs)"
constants = { shown = { value = 1, low = 0, high = 4 } }
source  = "ours"
"""


def loaded(program: Program, task: str, folder: Path) -> dict[str, Any]:
    return runpy.run_path(str(export(Sheet(program, task), folder / "loss.py", force=True)))


def slopes_of(loss: Any, inputs: dict[str, torch.Tensor], moved: list[str]) -> list[torch.Tensor]:
    leaves = [inputs[name].detach().clone().requires_grad_() for name in moved]
    value = loss(**{**inputs, **dict(zip(moved, leaves, strict=True))})
    return [value.detach(), *torch.autograd.grad(value, leaves, materialize_grads=True)]


@pytest.mark.parametrize("name", ["segmentation", "embedding", "boxes", "ranking", "vae", "gan"])
def test_the_file_of_any_formula_is_the_module(name: str, tmp_path: Path) -> None:
    space = load_space(name)
    fresh, probes = Fresh(space, sampler_of(space), ()), stratified(space.signature).inputs
    seen = 0
    for k in range(12):
        program = fresh.draw(Draws.counted(7, k)).program
        ours = NamedLoss(program).double()
        moved = [n for n in ours.inputs if n in space.signature.predictions]
        if not moved:
            continue
        try:
            names = loaded(program, space.task, tmp_path)
        except ExportError:  # a loss that is flat or infinite has no self-test
            continue
        names["main"]()
        theirs = names["FoundLoss"]().double()
        assert theirs.inputs == ours.inputs
        for stratum in (0, 5, 9):
            inputs = {n: probes[n][stratum] for n in ours.inputs}
            for got, wanted in zip(
                slopes_of(theirs, inputs, moved), slopes_of(ours, inputs, moved), strict=True
            ):
                size = max(1.0, wanted.abs().max().item())
                torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10 * size, equal_nan=True)
        seen += 1
    assert seen >= 8


def test_names_that_are_taken_and_axes_in_another_order(tmp_path: Path) -> None:
    (tmp_path / "hostile.toml").write_text(HOSTILE)
    space = load_space(str(tmp_path / "hostile.toml"))
    turned = replace(space.signature.inputs["weight"], axes=("s", "n"))  # as no space file can have it
    signature = replace(space.signature, inputs={**space.signature.inputs, "weight": turned})
    program = parse(space.loss("plain").program.text, signature, {"shown": (1.0, 0.0, 4.0)})
    names = loaded(program, space.task, tmp_path)
    names["main"]()
    theirs = names["FoundLoss"](**{next(iter(names["FoundLoss"].ranges)): 2.5})
    ours = NamedLoss(program.with_constants({"shown": 2.5}))
    shapes = {"forward": (2, 3, 5), "weight": (5, 2), "bounded": (3, 5), "inputs": (2,)}
    inputs = {n: torch.rand(shapes[n]) for n in ours.inputs}
    given = dict(zip(theirs.inputs, inputs.values(), strict=True))
    assert all(name.isidentifier() for name in given)
    torch.testing.assert_close(theirs(**given), ours(**inputs))


def test_constants_are_learned_and_progress_is_moved(tmp_path: Path) -> None:
    space = load_space("segmentation")
    program = parse("mean(ce * (1 + a * progress), 'n')", space.signature, {"a": (0.5, 0.0, 2.0)})
    kind = loaded(program, space.task, tmp_path)["FoundLoss"]
    inputs = {
        "logits": torch.randn(2, 3, 4),
        "target": torch.eye(3)[torch.tensor([[0, 1, 2, 0], [1, 1, 0, 2]])].mT,
        "valid": torch.ones(2, 4),
    }
    loss, other = kind(learnable=True), kind(a=1.5)
    torch.testing.assert_close(loss(**inputs), other(**inputs))  # at progress 0 the constant says nothing
    for one in (loss, other):
        one.set_progress(0.5)
    torch.testing.assert_close(other(**inputs) / loss(**inputs), torch.tensor(1.75 / 1.25))
    loss(**inputs).backward()
    assert loss.raw_a.grad > 0
    assert "progress=0.5" in repr(loss)
    assert loss(**{**inputs, "logits": inputs["logits"].half()}).dtype == torch.float32
    with pytest.raises(ValueError, match="must hold"):
        loss.set_progress(2.0)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    program = load_space("contrastive").seeds[0].program
    kind = loaded(program, "contrastive", tmp_path)["FoundLoss"]
    loss = kind()
    shapes = {name: (4, 3) if name == "z" else (4, 4) for name in loss.inputs}
    inputs = {name: torch.ones(shape) for name, shape in shapes.items()}
    loss(**inputs)
    with pytest.raises(TypeError, match="z"):
        loss(**{n: x for n, x in inputs.items() if n != "z"})
    with pytest.raises(ValueError, match=r"must have the axes \(n, c\), but has shape \(4,\)"):
        loss(**inputs | {"z": torch.ones(4)})
    with pytest.raises(ValueError, match="its m is 5, but that of"):
        loss(**inputs | {"positive": torch.ones(4, 5)})


def test_what_teaches_nothing_is_refused(tmp_path: Path) -> None:
    space = load_space("gan")
    for formula, why in (("mean(g_real, 'n')", "learned"), ("mean(detach(d_real), 'n')", "No gradient")):
        program = parse(formula, space.signature)
        with pytest.raises(ExportError, match=why):
            loaded(program, space.task, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("space", "loss"), [("embedding", "triplet_semihard"), ("ranking", "list_mle")])
def test_compilers_take_the_file(space: str, loss: str, tmp_path: Path) -> None:
    program = load_space(space).losses[loss].program
    plain = loaded(program, space, tmp_path)["FoundLoss"]()
    probes = stratified(load_space(space).signature).inputs
    inputs = {name: probes[name][5].float() for name in plain.inputs}
    if space == "ranking":
        for x in inputs.values():
            torch._dynamo.mark_dynamic(x, 0)
    fast = torch.compile(plain, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(fast(**inputs), plain(**inputs))
    exported = torch.export.export(plain, (), inputs)
    torch.testing.assert_close(exported.module()(**inputs), plain(**inputs))
