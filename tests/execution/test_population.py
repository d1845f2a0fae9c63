"""The population trainer against plain PyTorch loops, and the walls between neighbours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from losssearch.errors import ProxyError
from losssearch.execution.plan import (
    MLP,
    GradientFn,
    MetricFn,
    Run,
    Setting,
    Split,
    Stage,
)
from losssearch.execution.population import train_population
from losssearch.execution.products import cpu_rounds
from losssearch.execution.reference import loss_gradient
from losssearch.execution.stacked import StackedModules, initial_weights
from losssearch.language.formula import parse
from losssearch.outcomes import Outcome
from losssearch.spaces import load_space

Inputs = Mapping[str, Tensor]
FEATURES, CLASSES = 6, 3


def spread(prediction: Tensor, target: Tensor) -> Tensor:
    """A smooth error: mean squared distance of the raw prediction to the target."""
    return (prediction - target).double().square().flatten(1).mean(1)


@dataclass
class Task:
    """Random separable data: enough to train on, made anew for each split."""

    base: Setting = field(default_factory=lambda: Setting(MLP((8,)), batch=16, epochs=3))
    classes: int | None = CLASSES
    prediction: str = "logits"
    metric: str = "spread"
    uneven: bool = False

    @property
    def metric_functions(self) -> Mapping[str, MetricFn]:
        return {"spread": spread, "guard": lambda p, y: (p - y).double().flatten(1).mean(1)}

    def setting(self, condition: str) -> Setting:
        return self.base

    def split(self, seed: int, condition: str, stage: Stage) -> Split:
        rng = np.random.default_rng(seed)
        parts = []
        for size in (70 + (seed if self.uneven else 0), 20, 20):
            x = rng.normal(size=(size, FEATURES)).astype(np.float32)
            label = x[:, :CLASSES].argmax(1)
            one_hot = np.eye(CLASSES, dtype=np.float32)[label]
            parts.append((x, one_hot if self.classes else x[:, 0]))
        provided = {"prior": np.full(CLASSES, 1 / CLASSES, np.float32)} if self.classes else {}
        test = parts[2] if stage == "audit" else None
        return Split(seed, parts[0], parts[1], test, provided=provided)


def cross_entropy(inputs: Inputs) -> Tensor:
    logits = inputs["logits"]
    return (torch.softmax(logits, -1) - inputs["target"]) / logits.shape[-2]


def squares(inputs: Inputs) -> Tensor:
    return 2 * (inputs["pred"] - inputs["target"]) / inputs["pred"].shape[-1]


def poison(inputs: Inputs) -> Tensor:
    return cross_entropy(inputs) * torch.where(inputs["progress"] > 0.4, torch.nan, 1.0)


def crash(inputs: Inputs) -> Tensor:
    raise RuntimeError("boom")


def plain_loop(task: Task, gradient: GradientFn, run: Run) -> list[float]:
    """The same training as a user would write it: one model, torch's own layers and optimiser."""
    setting, data = task.setting(run.condition), task.split(run.split, run.condition, run.stage)
    outputs = task.classes or 1
    assert isinstance(setting.model, MLP)
    starts = initial_weights(setting.model, FEATURES, outputs, data.seed)
    layers: list[nn.Module] = []
    for weight, bias in starts:
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    make: Callable[..., torch.optim.Optimizer] = (
        torch.optim.Adam if setting.optimiser == "adam" else torch.optim.SGD
    )
    more = {} if setting.optimiser == "adam" else {"momentum": setting.momentum}
    optimiser = make(model.parameters(), lr=run.rate, weight_decay=run.decay, **more)
    x, y = (torch.from_numpy(part) for part in data.train)
    order = torch.Generator().manual_seed(data.seed + 1)
    steps, curve = len(x) // setting.batch, []
    for epoch in range(setting.epochs):
        rows = torch.randperm(len(x), generator=order)
        for step in range(steps):
            batch = rows[step * setting.batch : (step + 1) * setting.batch]
            out = model(x[batch])
            out = out if task.classes else out.squeeze(-1)
            progress = torch.tensor((epoch * steps + step) / (setting.epochs * steps))
            inputs = {
                task.prediction: out.detach()[None],
                "target": y[batch][None],
                "progress": progress,
            }
            optimiser.zero_grad()
            out.backward(gradient(inputs)[0])
            optimiser.step()
        vx, vy = (torch.from_numpy(part) for part in (data.test or data.valid))
        out = model(vx).detach()
        curve.append(float(spread((out if task.classes else out.squeeze(-1))[None], vy[None])))
    return curve


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 5)])
@pytest.mark.parametrize("init", ["default", "he"])
def test_stacked_training_equals_the_plain_loop(
    optimiser: str, decay: float, hidden: tuple[int, ...], init: str
) -> None:
    setting = Setting(
        MLP(hidden, "he" if init == "he" else "default"),
        optimiser="adam" if optimiser == "adam" else "sgd",
        batch=16,
        epochs=3,
        evaluate_every=1,
    )
    task = Task(setting)
    rates = (0.01, 0.05) if optimiser == "adam" else (0.1, 0.3)
    runs = [Run(0, s, rate, decay) for s in (3, 7) for rate in rates]
    for run, result in zip(runs, train_population(task, [cross_entropy], runs), strict=True):
        assert result.outcome is Outcome.SCORED
        curve = [error for _, error in result.curve]
        # float32 sums in another order: a few hundred roundings of 6e-8
        assert curve == pytest.approx(plain_loop(task, cross_entropy, run), rel=2e-4)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_products_of_bf16_train_nearly_as_those_of_fp32(optimiser: str) -> None:
    """To the few digits that a factor has, where the processor knows such products; else to the bit."""
    setting = Setting(MLP((64, 64)), optimiser=optimiser, batch=64, epochs=5)
    runs = [Run(loss, s, 0.03) for loss in range(3) for s in (0, 1)]
    functions = programs_of("cross_entropy", "brier", "focal")
    exact = train_population(Task(setting), functions, runs)
    rounded = Task(replace(setting, precision="bf16"))
    near = train_population(rounded, functions, runs)
    gaps = [abs(one.metric / other.metric - 1) for one, other in zip(near, exact, strict=True)]
    assert max(gaps) < 0.05
    assert (max(gaps) > 1e-6) == cpu_rounds()
    again = train_population(Task(setting), functions, runs)
    assert [r.curve for r in again] == [r.curve for r in exact]  # nothing stays rounded


def test_modules_too_train_in_bf16() -> None:
    setting = Setting(net, batch=16, epochs=3)
    runs = [Run(0, s, 0.03) for s in (0, 1)]
    exact = train_population(Task(setting), programs_of("brier"), runs)
    near = train_population(Task(replace(setting, precision="bf16")), programs_of("brier"), runs)
    for one, other in zip(near, exact, strict=True):
        assert one.metric == pytest.approx(other.metric, rel=0.05)


def test_one_number_a_sample_equals_the_plain_loop() -> None:
    setting = Setting(MLP((8,)), batch=16, epochs=2, evaluate_every=1)
    task = Task(setting, classes=None, prediction="pred")
    runs = [Run(0, s, rate) for s in (1, 2) for rate in (0.01, 0.05)]
    for run, result in zip(runs, train_population(task, [squares], runs), strict=True):
        curve = [error for _, error in result.curve]
        assert curve == pytest.approx(plain_loop(task, squares, run), rel=2e-4)


def test_an_audit_measures_on_test_data_and_stops_early_by_validation() -> None:
    task = Task(Setting(MLP((8,)), batch=16, epochs=4, evaluate_every=1))
    run = Run(0, 5, 0.1, stage="audit")
    (result,) = train_population(task, [cross_entropy], [run])
    errors = [error for _, error in result.curve]
    assert errors == pytest.approx(plain_loop(task, cross_entropy, run), rel=2e-4)
    assert result.metric == errors[-1] == result.metrics["spread"]
    assert result.metrics["early_stopped"] in errors
    assert {"valid", "guard"} <= result.metrics.keys()


def test_a_diverged_run_leaves_its_neighbours_bit_identical() -> None:
    task = Task()
    runs = [Run(loss, s, rate) for loss in (0, 1, 2) for s in (0, 1) for rate in (0.05, 0.2)]
    healthy = train_population(task, [cross_entropy] * 3, runs)
    mixed = train_population(task, [cross_entropy, poison, cross_entropy], runs)
    for run, before, after in zip(runs, healthy, mixed, strict=True):
        if run.loss == 1:
            assert after.outcome is Outcome.DIVERGED
            assert after.metric is None
        else:
            assert after.curve == before.curve
            assert after.metrics == before.metrics


def test_a_rate_that_blows_up_leaves_the_other_rates_bit_identical() -> None:
    task = Task(classes=None, prediction="pred")
    low, high = (train_population(task, [squares], [Run(0, 0, 0.01), Run(0, 0, r)]) for r in (0.02, 1e9))
    assert high[1].outcome is Outcome.DIVERGED
    assert high[0].curve == low[0].curve


def test_a_loss_that_raises_fails_alone() -> None:
    runs = [Run(loss, 0, 0.1) for loss in (0, 1, 2)]
    results = train_population(Task(), [cross_entropy, crash, lambda i: i["prior"]], runs)
    assert [r.outcome for r in results] == [Outcome.SCORED, Outcome.FAILED, Outcome.FAILED]
    assert results[1].detail == "RuntimeError: boom"
    assert "shape" in results[2].detail
    assert results[0].curve == train_population(Task(), [cross_entropy] * 3, runs)[0].curve


def test_results_come_in_the_order_asked_whatever_the_blocks() -> None:
    task = Task()
    runs = [Run(loss, s, rate) for rate in (0.05, 0.2) for s in (4, 0, 2) for loss in (1, 0)]
    runs += [Run(0, 2, 0.05, epochs=1), Run(1, 9, 0.1, stage="audit")]
    losses: list[GradientFn] = [cross_entropy, lambda i: 0.5 * cross_entropy(i)]
    whole = train_population(task, losses, runs)
    for limit in (1, 2, 5):
        parts = train_population(task, losses, runs, block=limit)
        assert [r.metric for r in parts] == pytest.approx([r.metric for r in whole], rel=1e-4)
    alone = [train_population(task, losses, [run])[0].metric for run in runs]
    assert alone == pytest.approx([r.metric for r in whole], rel=1e-4)


def test_uneven_numbers_of_runs_on_the_splits_are_allowed() -> None:
    runs = [Run(0, 0, 0.1), Run(0, 0, 0.2), Run(0, 1, 0.2), Run(1, 1, 0.1)]
    results = train_population(Task(), [cross_entropy] * 2, runs)
    alone = [train_population(Task(), [cross_entropy] * 2, [run])[0] for run in runs]
    assert [r.metric for r in results] == pytest.approx([r.metric for r in alone], rel=1e-4)


def test_no_runs_give_no_results() -> None:
    assert train_population(Task(), [cross_entropy], []) == []


def test_a_batch_of_one_sample_trains() -> None:
    task = Task(Setting(MLP((4,)), batch=1, epochs=1))
    (result,) = train_population(task, [cross_entropy], [Run(0, 0, 0.01)])
    assert result.outcome is Outcome.SCORED


def test_splits_of_unequal_size_say_what_to_do() -> None:
    with pytest.raises(ProxyError, match="equal sizes"):
        train_population(Task(uneven=True), [cross_entropy], [Run(0, 0, 0.1), Run(0, 1, 0.1)])


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def normed_net() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("make", [net, normed_net])
def test_any_module_trains_as_it_would_alone(make: Callable[[], nn.Module], optimiser: str) -> None:
    base = Setting(make, batch=16, epochs=2)
    task = Task(replace(base, optimiser="adam" if optimiser == "adam" else "sgd"))
    runs = [Run(loss, s, rate) for loss in (0, 1) for s in (0, 1) for rate in (0.01, 0.1)]
    losses: list[GradientFn] = [cross_entropy, lambda i: 2 * cross_entropy(i)]
    together = train_population(task, losses, runs)
    alone = [train_population(task, losses, [run])[0] for run in runs]
    assert [r.metric for r in together] == pytest.approx([r.metric for r in alone], rel=2e-4)
    assert len({r.metric for r in together}) == len(runs)


def test_a_module_of_linear_layers_equals_plain_sgd() -> None:
    task = Task(Setting(net, batch=16, epochs=1))
    (result,) = train_population(task, [cross_entropy], [Run(0, 0, 0.1)])
    data = task.split(0, "default", "search")
    torch.manual_seed(data.seed)
    model = net()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = (torch.from_numpy(part) for part in data.train)
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(data.seed + 1))
    for step in range(len(x) // 16):
        batch = rows[step * 16 : (step + 1) * 16]
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch].argmax(1)).backward()
        optimiser.step()
    vx, vy = (torch.from_numpy(part) for part in data.valid)
    assert result.metric == pytest.approx(float(spread(model(vx)[None].detach(), vy[None])), rel=1e-4)


def test_a_model_of_the_wrong_width_is_told_so() -> None:
    runs = [Run(0, 0, 0.1)]
    wide = Setting(lambda: nn.Linear(FEATURES, 2 * CLASSES), batch=16, epochs=1)
    with pytest.raises(ProxyError, match=r"answers 16 samples by a tensor \(16, 6\), and not \(16, 3\)"):
        train_population(Task(wide), [cross_entropy], runs)
    number = Task(Setting(lambda: nn.Linear(FEATURES, 2), batch=16, epochs=1), None, "pred")
    with pytest.raises(ProxyError, match=r"\(16, 2\), and not \(16, 1\) or \(16,\)"):
        train_population(number, [squares], runs)


def test_running_statistics_are_why_models_run_one_by_one() -> None:
    grid = torch.ones(1, 1), torch.zeros(1, 1)
    assert StackedModules(net, Setting(), [0], CLASSES, *grid).why_loop == ""
    why = StackedModules(normed_net, Setting(), [0], CLASSES, *grid).why_loop
    assert "BatchNorm1d" in why


def programs_of(*names: str) -> list[GradientFn]:
    space = load_space("multiclass")
    return [loss_gradient(space.loss(name).program, "logits") for name in names]


def test_a_program_trains_as_the_function_that_it_is() -> None:
    runs = [Run(loss, s, rate) for loss in (0, 1) for s in (0, 3) for rate in (0.05, 0.2)]
    results = train_population(Task(), [cross_entropy, *programs_of("cross_entropy")], runs)
    for by_function, by_program in zip(results[:4], results[4:], strict=True):
        assert by_program.metric == pytest.approx(by_function.metric, rel=1e-4)
    # Two words for one loss are one structure, and the same bits.
    twice = train_population(Task(), programs_of("cross_entropy", "cross_entropy"), runs)
    assert [r.curve for r in twice[:4]] == [r.curve for r in twice[4:]]


def test_a_program_that_diverges_leaves_its_neighbours_bit_identical() -> None:
    losses = programs_of("cross_entropy", "brier", "focal")
    calm = [Run(loss, s, 0.1) for loss in (0, 1, 2) for s in (0, 1)]
    wild = [replace(run, rate=1e30) if run.loss == 1 else run for run in calm]
    before, after = (train_population(Task(), losses, runs) for runs in (calm, wild))
    for run, one, other in zip(calm, before, after, strict=True):
        if run.loss == 1:
            assert other.outcome is Outcome.DIVERGED
        else:
            assert one.curve == other.curve
            assert one.metrics == other.metrics


def test_what_the_kernel_refuses_trains_through_torch_beside_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = "mean(-dot(like(target, d='c'), like(log_p, d='c'), 'd'), 'n')"
    strange = loss_gradient(parse(text, load_space("multiclass").signature), "logits")
    runs = [Run(loss, s, 0.1) for loss in (0, 1) for s in (0, 1)]
    with caplog.at_level("INFO", logger="losssearch"):
        results = train_population(Task(), [*programs_of("cross_entropy"), strange], runs)
    assert [r.metric for r in results[2:]] == pytest.approx([r.metric for r in results[:2]], rel=1e-4)
    assert "1 of 2 losses run on the reference" in caplog.text


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, FEATURES)),
        nn.Conv1d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * FEATURES, CLASSES),
    )


def test_convolutions_train_stacked_as_they_would_alone() -> None:
    task = Task(Setting(conv_net, batch=16, epochs=2))
    grid = torch.ones(1, 1), torch.zeros(1, 1)
    assert StackedModules(conv_net, Setting(), [0], CLASSES, *grid).why_loop == ""
    runs = [Run(loss, s, rate) for loss in (0, 1) for s in (0, 1) for rate in (0.02, 0.1)]
    losses = programs_of("cross_entropy", "brier")
    together = train_population(task, losses, runs)
    alone = [train_population(task, losses, [run])[0] for run in runs]
    assert [r.metric for r in together] == pytest.approx([r.metric for r in alone], rel=2e-4)
