"""Every registered exporter writes every classical loss, and what it writes is that loss."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from losssearch.execution.module import MODULES, module_for
from losssearch.execution.named import NamedLoss
from losssearch.execution.parts import is_called
from losssearch.exporters import as_json
from losssearch.exporters.registry import EXPORTERS, export
from losssearch.exporters.sheet import Sheet
from losssearch.screening.probes import stratified
from losssearch.spaces import ClassicalLoss, Space, load_space, space_names
from losssearch.testing import CHECKS, NAMED_CHECKS, Verdict, check_loss

SPACES = {name: load_space(name) for name in space_names()}
LOSSES = [
    (space, loss) for space in SPACES.values() for loss in space.losses.values() if loss.candidate.is_one
]
CALLABLE = [pair for pair in LOSSES if is_called(pair[1].program, pair[0].task)]
NAMED = [pair for pair in LOSSES if pair not in CALLABLE]
#: Without ldam: onnx's own evaluator takes the log of an underflown softmax at its large logits.
MAIN = {
    *("cross_entropy", "focal", "gce", "brier", "bce", "mse", "huber"),
    *("weighted_cross_entropy", "logit_adjusted", "sparse_lsr", "crammer_singer"),
}
#: No dtype can help: exp(20) is beyond fp16, and below -1 the loss is a wall of slope 1e6.
#: The Gaussian likelihood is exp(6e4) * 6e4**2 where the logarithm of the variance is -6e4.
BEYOND = {
    "exponential": {"saturation"},
    "msle": {"dtypes", "gradcheck", "gradgradcheck"},
    "gaussian_nll": {"saturation"},
}
#: Compilers take seconds; they are asked about some losses only.
SLOW = {"compiled", "exported", "onnx"}
#: Of named tensors: copied axes, sorting, cumulated sums, two axes of samples, progress, no samples at all.
MAIN_NAMED = {
    *("giou", "triplet_hard", "circle", "nt_xent", "lovasz_softmax", "list_mle", "gan_relativistic"),
    *("scheduled_sum", "style_layers", "dpo", "elbo", "gaussian_nll", "l2_regulariser"),
}


def name_of(pair: Any) -> str:
    return f"{pair[0].name}-{pair[1].name}" if isinstance(pair, tuple) else str(pair)


def sheet_of(space: Space, loss: ClassicalLoss) -> Sheet:
    return Sheet(loss.program, space.task, space.name, loss.name, loss.source)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., type[nn.Module]]]:
    """The class in the exported file of a loss."""
    folder = tmp_path_factory.mktemp("exported")
    loaded: list[str] = []

    def load(space: Space, loss: ClassicalLoss) -> type[nn.Module]:
        sheet = sheet_of(space, loss)
        path = export(sheet, folder / f"{space.name}_{loss.name}.py", force=True)
        name = f"exported_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        loaded.append(name)
        spec.loader.exec_module(module)
        module.main()  # its own self-test
        found: type[nn.Module] = getattr(module, sheet.class_name)
        return found

    yield load
    for name in loaded:
        sys.modules.pop(name, None)


def batches(task: str) -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(3)
    double = torch.float64
    x = 4 * torch.randn(9, 5, generator=rng, dtype=double)
    if task == "multiclass":
        index = torch.arange(9) % 5
        soft = torch.randn(9, 5, generator=rng, dtype=double).softmax(1)
        return [(x, index), (x, soft), (30 * x, index), (x.T.reshape(3, 5, 3), index.reshape(3, 3))]
    if task == "binary":
        return [(x, (x.roll(1, 0) > 0).to(double)), (30 * x[:, 0], x[:, 1].sigmoid())]
    return [(x, x.roll(1, 0)), (x[:, 0].abs(), 3 * x[:, 1].abs())]


def given(loss: ClassicalLoss) -> dict[str, Any]:
    """Provided inputs that are not neutral."""
    double = torch.float64
    mixed = 0.8 * torch.eye(5, dtype=double) + 0.04
    values: dict[str, Any] = {
        "prior": torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=double),
        "count": torch.tensor([400.0, 300.0, 150.0, 100.0, 50.0], dtype=double),
        "transition": mixed,
        "progress": 0.25,
        "positives": 20.0,
        "negatives": 180.0,
    }
    signature = loss.program.signature
    if "prior" in signature.inputs and not signature.inputs["prior"].axes:
        values["prior"] = 0.125
    return {name: values[name] for name in loss.requires}


def value_and_slope(loss: nn.Module, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    value = loss(leaf, target)
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope


@pytest.mark.parametrize("pair", CALLABLE, ids=name_of)
def test_the_exported_file_is_the_module(
    pair: tuple[Space, ClassicalLoss], exported: Callable[..., type[nn.Module]]
) -> None:
    space, loss = pair
    kind = exported(space, loss)
    keywords: list[dict[str, Any]] = [
        {},
        {"reduction": "none", **given(loss)},
        {"reduction": "sum"},
    ]
    if space.task != "regression":
        weight = torch.linspace(0.5, 2.0, 5 if space.task == "multiclass" else 2)
        weight = weight.to(torch.float64)
        keywords.append({"weight": weight, "ignore_index": 1, "label_smoothing": 0.1})
    for keyword in keywords:
        ours, theirs = module_for(loss.program, space.task, **keyword), kind(**keyword)
        for x, target in batches(space.task):
            wanted, wanted_slope = value_and_slope(ours.double(), x, target)
            value, slope = value_and_slope(theirs.double(), x, target)
            torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)
            size = max(1.0, wanted_slope.abs().max().item())
            torch.testing.assert_close(slope, wanted_slope, rtol=1e-12, atol=1e-12 * size)


def made_up(space: Space, names: Iterable[str], stratum: int) -> dict[str, Tensor]:
    """Inputs of a loss of named tensors, from tiny to far out."""
    probes = stratified(space.signature).inputs
    return {name: probes[name][stratum].clone() for name in names}


def value_and_slopes(loss: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = {name: x.requires_grad_() for name, x in inputs.items() if x.is_floating_point()}
    value = loss(**inputs)
    if not value.requires_grad:
        return value, ()
    return value.detach(), torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)


@pytest.mark.parametrize("pair", NAMED, ids=name_of)
def test_the_exported_file_of_named_tensors_is_the_module(
    pair: tuple[Space, ClassicalLoss], exported: Callable[..., type[nn.Module]]
) -> None:
    space, loss = pair
    kind = exported(space, loss)
    ours, theirs = NamedLoss(loss.program).double(), kind().double()
    if "progress" in loss.program.inputs:
        ours.set_progress(0.375)
        theirs.set_progress(0.375)  # type: ignore[operator]
    names = dict(zip(ours.inputs, theirs.inputs, strict=True))  # type: ignore[arg-type]
    assert list(ours.inputs.values()) == list(theirs.inputs.values())  # type: ignore[operator,union-attr]
    batches = [made_up(space, names, stratum) for stratum in range(0, 12, 2)]
    for axes in {axis for given in ours.inputs.values() for axis in given.split()}:  # nothing along an axis
        batches.append(
            {n: _emptied(x, ours.inputs[n], axes, ours.copies) for n, x in batches[2].items()}
        )  # fmt: skip
    for inputs in batches:
        wanted, wanted_slopes = value_and_slopes(ours, {n: x.detach() for n, x in inputs.items()})
        value, slopes = value_and_slopes(theirs, {names[n]: x.detach() for n, x in inputs.items()})
        torch.testing.assert_close(value, wanted, rtol=1e-11, atol=1e-12)
        for slope, wanted_slope in zip(slopes, wanted_slopes, strict=True):
            size = max(1.0, wanted_slope.abs().max().item() if wanted_slope.numel() else 0.0)
            torch.testing.assert_close(slope, wanted_slope, rtol=1e-11, atol=1e-12 * size)


def _emptied(x: Tensor, axes: str, axis: str, copies: dict[str, str]) -> Tensor:
    for dim, own in enumerate(axes.split()):
        if copies.get(own, own) == copies.get(axis, axis):
            x = x.narrow(dim, 0, 0)
    return x


@pytest.mark.parametrize("pair", CALLABLE, ids=name_of)
@pytest.mark.parametrize("kind", ["module", "file"])
def test_the_loss_keeps_the_contract(
    kind: str, pair: tuple[Space, ClassicalLoss], exported: Callable[..., type[nn.Module]]
) -> None:
    space, loss = pair
    checks = [c for c in CHECKS if c not in SLOW | BEYOND.get(loss.name, set())]
    build = partial(MODULES[space.task], program=loss.program)
    report = check_loss(build if kind == "module" else exported(space, loss), space.task, only=checks)
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("pair", [p for p in CALLABLE if p[1].name in MAIN], ids=name_of)
@pytest.mark.parametrize("kind", ["module", "file"])
def test_compilers_take_the_loss(
    kind: str, pair: tuple[Space, ClassicalLoss], exported: Callable[..., type[nn.Module]]
) -> None:
    space, loss = pair
    if kind == "module" and loss.name not in ("focal", "bce", "huber"):
        pytest.skip("one loss a task suffices: the module's code is the same")
    build = partial(MODULES[space.task], program=loss.program)
    report = check_loss(build if kind == "module" else exported(space, loss), space.task, only=sorted(SLOW))
    assert report.passed, str(report)


@pytest.mark.parametrize("pair", NAMED, ids=name_of)
@pytest.mark.parametrize("kind", ["module", "file"])
def test_the_loss_of_named_tensors_keeps_the_contract(
    kind: str, pair: tuple[Space, ClassicalLoss], exported: Callable[..., type[nn.Module]]
) -> None:
    space, loss = pair
    checks = [c for c in NAMED_CHECKS if c not in SLOW | BEYOND.get(loss.name, set())]
    build = partial(NamedLoss, program=loss.program)
    report = check_loss(build if kind == "module" else exported(space, loss), space.task, only=checks)
    assert report.passed, str(report)
    excused = {row.name for row in report.rows if row.verdict is Verdict.NOT_APPLICABLE}
    detached = any(step.op == "detach" for step in loss.program.instructions)
    assert excused == ({"gradcheck", "gradgradcheck"} if detached else set())


@pytest.mark.parametrize("pair", [p for p in NAMED if p[1].program.constants], ids=name_of)
@pytest.mark.parametrize("kind", ["module", "file"])
def test_learned_constants_are_shown_and_computed_in_single_too(
    kind: str, pair: tuple[Space, ClassicalLoss], exported: Callable[..., type[nn.Module]]
) -> None:
    space, loss = pair
    build = partial(NamedLoss, program=loss.program) if kind == "module" else exported(space, loss)
    report = check_loss(partial(build, learnable=True), space.task, only=["extra_repr", "dtypes"])
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("pair", [p for p in NAMED if p[1].name in MAIN_NAMED], ids=name_of)
@pytest.mark.parametrize("kind", ["module", "file"])
def test_compilers_take_the_loss_of_named_tensors(
    kind: str, pair: tuple[Space, ClassicalLoss], exported: Callable[..., type[nn.Module]]
) -> None:
    space, loss = pair
    build = partial(NamedLoss, program=loss.program)
    checks = [name for name in NAMED_CHECKS if name in SLOW]
    report = check_loss(build if kind == "module" else exported(space, loss), space.task, only=checks)
    assert report.passed, str(report)


@pytest.mark.parametrize("name", EXPORTERS)
@pytest.mark.parametrize("pair", LOSSES, ids=name_of)
def test_every_exporter_writes_every_loss(
    name: str, pair: tuple[Space, ClassicalLoss], tmp_path: Path
) -> None:
    space, loss = pair
    sheet = sheet_of(space, loss)
    path = export(sheet, tmp_path, name)
    assert path.suffix == EXPORTERS[name].suffix
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert "\t" not in text
    if name == "json":
        assert as_json.read(text, space.signature) == loss.program
    if name != "latex":
        assert sheet.key in text


@pytest.mark.parametrize(("name", "loss"), [("multiclass", "ldam"), ("embedding", "triplet_semihard")])
def test_an_exported_file_needs_nothing_of_ours(name: str, loss: str, tmp_path: Path) -> None:
    space = SPACES[name]
    path = export(sheet_of(space, space.losses[loss]), tmp_path)
    code = (
        "import runpy, sys; sys.modules['losssearch'] = None; "
        f"runpy.run_path({str(path)!r}, run_name='__main__')"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "value and gradient are as when this file was written" in done.stdout


def test_exported_files_are_formatted(tmp_path: Path) -> None:
    """As ruff would, at 110 columns; and lint finds nothing in them."""
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed")
    for space, loss in LOSSES:
        export(sheet_of(space, loss), tmp_path / f"{space.name}_{loss.name}.py")
    common = ["--isolated", "--line-length=110", "--target-version=py311", str(tmp_path)]
    for command in (
        ["format", "--diff"],
        ["check", "--select=E,F,W,I,UP,B,SIM,RUF", "--ignore=E501"],
    ):
        done = subprocess.run([ruff, *command, *common], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
