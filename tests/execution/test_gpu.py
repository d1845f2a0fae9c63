"""What a GPU does, as far as it shows without one; and on one, where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from losssearch.controllers.registry import make_controller
from losssearch.execution.card import in_memory, mlp_bytes, recorded
from losssearch.execution.kernel.assembly import Layout
from losssearch.execution.kernel.tape import Tape
from losssearch.execution.plan import MLP, Run, RunResult, Setting
from losssearch.execution.population import train_population
from losssearch.execution.products import rounded
from losssearch.execution.reference import loss_gradient
from losssearch.execution.slopes import why_no_kernel
from losssearch.language.canonical import canonical
from losssearch.language.derivative import gradient
from losssearch.language.formula import parse
from losssearch.outcomes import Outcome
from losssearch.spaces import load_space
from tests.execution import gpu_cases
from tests.execution.test_population import Task, programs_of

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.mark.slow
def test_the_simulated_kernel_equals_the_cpus() -> None:
    command = [sys.executable, "-m", "tests.execution.gpu_cases"]
    surroundings = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for kind in ("values", "slopes"):
        assert found[kind]["gap"] < 1e-6
        assert found[kind]["least"] > 1e-3
    assert {name: gap for name, gap in found["opcodes"].items() if not gap < 1e-5} == {}
    assert found["population"]["gap"] < 1e-5
    assert found["population"]["different"] == found["population"]["runs"]


def test_what_does_not_fit_the_memory_is_trained_in_halves() -> None:
    tried = []

    def train(members):
        tried.append(len(members))
        if len(members) > 3:
            raise torch.OutOfMemoryError("as torch says it")
        return [RunResult(Outcome.SCORED, float(i)) for i in members]

    assert [result.metric for result in in_memory(train, list(range(10)))] == list(range(10))
    assert tried == [10, 5, 2, 3, 5, 2, 3]

    def never(members):
        raise torch.OutOfMemoryError("as torch says it")

    with pytest.raises(torch.OutOfMemoryError):
        in_memory(never, [0, 1])


def test_the_memory_of_a_model_counts_what_it_holds() -> None:
    setting = Setting(MLP((64,)), batch=128)
    parameters = 65 * 64 + 65 * 10
    sgd = mlp_bytes(setting, 64, 10, 360)
    assert sgd > 4 * (2 * parameters + 2 * 74 * 128 + 74 * 360)
    adam = mlp_bytes(Setting(MLP((64,)), optimiser="adam", batch=128), 64, 10, 360)
    assert adam - sgd == 4 * 2 * parameters


def test_nothing_is_recorded_on_the_cpu() -> None:
    def function() -> None:
        pass

    assert recorded(function, torch.device("cpu")) is function


@pytest.fixture(scope="module")
def device() -> torch.device:
    found = torch.device("cuda")
    assert why_no_kernel(found) == ""
    return found


@needs_gpu
@pytest.mark.gpu
def test_the_kernel_on_a_gpu_equals_the_cpus_opcode_by_opcode(device: torch.device) -> None:
    assert {name: gap for name, gap in gpu_cases.opcodes(device).items() if not gap < 1e-5} == {}
    for case in gpu_cases.losses(device).values():
        assert case["gap"] < 1e-5


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("scale", [0.5, 3.0, 60.0])
def test_random_losses_on_a_gpu_are_those_of_the_cpu(scale: float, device: torch.device) -> None:
    samples, classes = 128, 10
    space = load_space("multiclass")
    proposals = make_controller("random", space, [], 3).ask(64)
    slopes = [gradient(canonical(p.program), ("logits",)) for p in proposals]
    slopes = [slope for slope in slopes if "logits" in slope.inputs]
    tape = Tape(slopes, [("n", "c")], Layout("n", "c", {"n": samples, "c": classes}))
    chosen = np.array([k for k in range(len(slopes)) if k not in tape.refused])
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    given = {
        "logits": (rng.normal(size=(1, classes, samples)) * scale).astype(np.float32),
        "target": np.eye(classes, dtype=np.float32)[labels].T[None].copy(),
        "prior": np.full((1, classes), 1 / classes, np.float32),
        "count": np.full((1, classes), 100, np.float32),
        "progress": np.array([0.3], np.float32),
    }
    given = {name: given[name] for name in tape.inputs}
    wanted, mine = gpu_cases.both(tape, chosen, given, device, 500, 128, {})
    _, again = gpu_cases.both(tape, chosen, given, device, 3, 64, {})
    assert np.array_equal(mine.view(np.int32), again.view(np.int32))  # to the bit, whatever the launch
    shown = np.isfinite(wanted) & np.isfinite(mine)
    assert (np.isfinite(wanted) == np.isfinite(mine)).mean() > 0.99
    size = 1 + np.abs(np.where(shown, wanted, 0)).max((1, 2), keepdims=True)
    gap = np.where(shown, np.abs(mine - wanted) / size, 0).max((1, 2))
    assert np.quantile(gap, 0.9) < 1e-4  # some lose digits, whoever computes


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_population_on_a_gpu_trains_as_on_the_cpu(optimiser: str, device: torch.device) -> None:
    task = Task(Setting(MLP((8,)), optimiser=optimiser, batch=16, epochs=3))
    text = "mean(-log_p * target * (1 - progress), 'n c')"  # reads how far the training is
    moving = loss_gradient(parse(text, load_space("multiclass").signature), "logits")
    functions = [*programs_of("cross_entropy", "brier", "focal"), moving]
    runs = [Run(loss, s, rate) for loss in range(4) for s in (0, 1) for rate in (0.05, 0.1)]
    here, there = (train_population(task, functions, runs, device=str(on)) for on in ("cpu", device))
    for one, other in zip(here, there, strict=True):
        assert other.metric == pytest.approx(one.metric, rel=1e-3)


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("layer", [torch.nn.Linear(64, 64), torch.nn.Conv1d(64, 64, 3), torch.nn.GRU(64, 64)])
def test_on_a_gpu_nothing_is_rounded_unless_that_is_wanted(
    layer: torch.nn.Module, device: torch.device
) -> None:
    def out(on: str) -> torch.Tensor:
        x = torch.sin(torch.arange(64 * 64.0)).reshape(64, 64).to(on)
        found = layer.to(on)(x)
        return (found[0] if isinstance(found, tuple) else found).detach().cpu()

    with rounded("fp32", device):
        near = out(str(device))
    with rounded("tf32", device):
        far = out(str(device))
    gaps = [float((found - out("cpu")).abs().max()) for found in (near, far)]
    assert gaps[0] < 1e-5 < gaps[1]


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize(("precision", "least", "most"), [("tf32", 0, 5e-3), ("bf16", 1e-6, 5e-2)])
def test_on_a_gpu_products_may_be_rounded(
    optimiser: str, precision: str, least: float, most: float, device: torch.device
) -> None:
    setting = Setting(MLP((64, 64)), optimiser=optimiser, batch=64, epochs=3)
    functions = programs_of("cross_entropy", "brier", "focal")
    runs = [Run(loss, s, 0.05) for loss in range(3) for s in (0, 1)]
    exact = train_population(Task(setting), functions, runs, device=str(device))
    task = Task(replace(setting, precision=precision))
    near = train_population(task, functions, runs, device=str(device))
    gaps = [abs(one.metric / other.metric - 1) for one, other in zip(near, exact, strict=True)]
    assert least <= max(gaps) < most


@needs_gpu
@pytest.mark.gpu
def test_on_a_gpu_too_a_diverging_run_leaves_its_neighbours_alone(device: torch.device) -> None:
    functions = programs_of("cross_entropy", "brier", "focal")
    calm = [Run(loss, s, 0.1) for loss in (0, 1, 2) for s in (0, 1)]
    wild = [Run(run.loss, run.split, 1e30 if run.loss == 1 else 0.1) for run in calm]
    before, after = (train_population(Task(), functions, runs, device=str(device)) for runs in (calm, wild))
    for run, one, other in zip(calm, before, after, strict=True):
        if run.loss == 1:
            assert other.outcome is Outcome.DIVERGED
        else:
            assert one.curve == other.curve
