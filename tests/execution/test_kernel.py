"""The kernel computes what the torch reference computes, whatever stands beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from losssearch.controllers.registry import make_controller
from losssearch.errors import UsageError
from losssearch.execution.kernel import elementary
from losssearch.execution.kernel.assembly import Layout
from losssearch.execution.kernel.bound import Bound
from losssearch.execution.kernel.tape import Tape
from losssearch.execution.reference import Compiled, loss_gradient
from losssearch.language.canonical import canonical
from losssearch.language.derivative import gradient
from losssearch.language.formula import parse
from losssearch.language.primitives import PRIMITIVES
from losssearch.language.program import Constant, program_of
from losssearch.language.term import Term
from losssearch.spaces import load_space
from tests.language.programs import CONSTANTS, SPACE, programs
from tests.language.programs import inputs as hypothesis_inputs

SAMPLES, CLASSES = 37, 5
LAYOUT = Layout("n", "c", {"n": SAMPLES, "c": CLASSES})
SMALL = Layout("n", "c", {"n": 5, "c": 3})
DTYPES = {"single": np.float32, "double": np.float64}


def rows_of(tensor, dtype):
    """A torch input over (n, c), (n), (c) or () as the kernel takes it: one row, samples last."""
    array = tensor.double().numpy().astype(dtype)
    return np.array(array.T, order="C")[None]


def batch(scale, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, SAMPLES)
    prior = rng.random(CLASSES) + 0.1
    return {
        "logits": torch.from_numpy(rng.normal(size=(SAMPLES, CLASSES)) * scale),
        "target": torch.from_numpy(np.eye(CLASSES)[labels]),
        "prior": torch.from_numpy(prior / prior.sum()),
        "count": torch.from_numpy(np.floor(prior * 100) + 1),
        "progress": torch.tensor(0.3, dtype=torch.float64),
    }


def ask(program, given_inputs, precision, layout=LAYOUT, axes=("n", "c")):
    tape = Tape([program], [axes], layout, precision)
    assert not tape.refused
    arrays = {n: rows_of(given_inputs[n], DTYPES[precision]) for n in tape.inputs}
    [found] = Bound(tape, np.zeros(1, int)).run(arrays)
    return found[0].T


def random_losses(count):
    space = load_space("multiclass")
    controller = make_controller("random", space, [], 7)
    return [canonical(p.program) for p in controller.ask(count)]


@pytest.mark.parametrize("name", [n for n, row in PRIMITIVES.items() if row.scalar is not None])
@pytest.mark.parametrize("precision", ["single", "double"])
def test_an_elementwise_loop_equals_torch_beyond_its_guards_too(name, precision):
    row = PRIMITIVES[name]
    edges = [0.0, 1e-7, -1e-7, 1e-6, 1e-13, 0.3, -0.3, 0.7, 1.0, -1.0, 2.5, -7.0, 30.0, 59.0, 61.0, -80.0]
    grid = torch.tensor(edges, dtype=torch.float64)
    torch_type = torch.float32 if precision == "single" else torch.float64
    columns = torch.cartesian_prod(*[grid] * row.arity).to(torch_type).reshape(-1, row.arity)
    if name == "pow":  # beyond, the power itself leaves single precision
        columns = columns[columns[:, 1].abs() <= 3]
    terms = [Term("name", (), f"x{k}") for k in range(row.arity)]
    names = {f"x{k}": columns[:, k] for k in range(row.arity)}
    if row.masks:
        terms[0] = Term("greater", (terms[0], Term("literal", (), 0.0)))
    program = program_of(_numbers(), Term(name, tuple(terms)), scalar=False)
    layout = Layout("n", "", {"n": len(columns)})
    tape = Tape([program], [("n",)], layout, precision)
    arrays = {n: v.numpy()[None].copy() for n, v in names.items()}
    [found] = Bound(tape, np.zeros(1, int)).run(arrays)
    wanted = Compiled(program, plain=False)({n: v[None] for n, v in names.items()})[0][0].to(torch_type)
    tolerance = 2e-6 if precision == "single" else 1e-12
    exact = Compiled(program, plain=False)({n: v.double()[None] for n, v in names.items()})[0][0].double()
    # Where torch itself is far from the exact value, digits are lost whoever computes.
    lost = (wanted.double() - exact).abs()
    gap = (torch.from_numpy(found[0]).double() - exact).abs()
    assert bool((gap <= tolerance * (1 + exact.abs()) + 8 * lost).all()), (gap / (1 + exact.abs())).max()


def _numbers():
    from losssearch.language.signature import Input, Role, Signature

    inputs = {f"x{k}": Input(f"x{k}", ("n",), Role.PREDICTION if k == 0 else Role.PROVIDED) for k in range(3)}
    return Signature(axes=("n",), inputs=inputs)


@pytest.mark.parametrize(
    "formula",
    [
        "mean(sum(logits, 'c') * 2, 'n')",
        "sum(logits, 'n c')",
        "mean(logits, 'n c', target)",
        "mean(max(logits, 'c', target) - min(logits, 'c', 1 - target), 'n')",
        "mean(max(logits, 'c', target * 0), 'n')",
        "mean(logsumexp(logits, 'c') - logsumexp(logits, 'c', target), 'n')",
        "mean(logsumexp(logits, 'c', target * 0), 'n')",
        "sum(square(mean(logits, 'n')) * prior, 'c')",
        "mean(sum(softmax(logits, 'c') * log_softmax(logits, 'c'), 'c'), 'n')",
        "sum(softmax(logits, 'n') * target, 'n c')",
        "mean(where(any(logits > 2, 'c'), dot(logits, logits, 'c'), 0), 'n')",
        "max(sum(logits, 'c'), 'n') - min(sum(logits, 'c'), 'n')",
        "mean(sum(logits, 'c'), 'n', where(sum(target, 'c') > 2, 1, 0))",
        "mean(C * logits / N, 'n c') + progress",
    ],
)
@pytest.mark.parametrize("scale", [0.5, 20.0])
def test_reductions_equal_torch_in_value_and_gradient(formula, scale):
    program = canonical(parse(formula, load_space("multiclass").signature))
    inputs = batch(scale)
    value = ask(program, inputs, "double", axes=())
    assert value == pytest.approx(float(Compiled(program)(inputs)[0]), rel=1e-12, abs=1e-12)
    slope = ask(gradient(program, ("logits",)), inputs, "double")
    wanted = loss_gradient(program, "logits")({n: v[None] for n, v in inputs.items()})[0]
    assert np.allclose(slope, wanted, rtol=1e-11, atol=1e-13)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(programs(3), st.integers(0, 5), st.sampled_from([0.5, 2.0, 20.0]))
def test_any_program_over_samples_and_classes_equals_torch(program, seed, scale):
    ran = canonical(program)
    names = tuple(n for n in ("logits", "u") if n in ran.inputs)
    assume(names)
    slopes = gradient(ran, names)
    tape = Tape([slopes], [("n", "c") if n == "logits" else ("n",) for n in names], SMALL, "double")
    assume(not tape.refused)
    inputs = {n: torch.as_tensor(v) for n, v in hypothesis_inputs(seed, scale).items()}
    found = Bound(tape, np.zeros(1, int)).run({n: rows_of(inputs[n], np.float64) for n in tape.inputs})
    wanted = Compiled(slopes, plain=False)(inputs)
    for mine, theirs, name, output in zip(found, wanted, names, slopes.outputs, strict=True):
        has = slopes.instructions[output].axes
        index = tuple(slice(None) if SPACE.bits[a] & has else None for a in SPACE.inputs[name].axes)
        theirs = theirs.double()[index].expand(inputs[name].shape)
        size = 1 + float(theirs.abs().max())
        if not math.isfinite(size):
            continue
        assert np.abs(mine[0].T - theirs.numpy()).max() <= 1e-6 * size


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_single_precision_is_as_good_as_torch_in_single_precision(scale):
    inputs = batch(scale)
    checked = 0
    for program in random_losses(60):
        slope = gradient(program, ("logits",))
        exact = _torch_slope(slope, inputs, torch.float64)
        torch_error = np.abs(_torch_slope(slope, inputs, torch.float32) - exact).max()
        error = np.abs(ask(slope, inputs, "single") - exact).max()
        assert error <= 10 * torch_error + 2e-6 * (1e-3 + np.abs(exact).max()), program.text
        checked += 1
    assert checked == 60


def _torch_slope(slope, inputs, dtype):
    [found] = Compiled(slope)({n: v.to(dtype) for n, v in inputs.items()})
    return found.double().expand(SAMPLES, CLASSES).numpy()


def test_constants_and_scales_belong_to_a_row():
    space = load_space("multiclass")
    program = canonical(
        parse(
            "mean(sum(target * abs(logits)**q, 'c'), 'n')", space.signature, {"q": Constant("q", 2.0, 0, 5)}
        )
    )
    slope = gradient(program, ("logits",))
    [name] = [c.name for c in slope.constants]
    tape = Tape([slope], [("n", "c")], LAYOUT, "double", scaled=True)
    inputs = batch(2.0)
    values, scales = [1.5, 2.0, 3.0], np.array([1.0, -2.0, 0.5])
    bound = Bound(tape, np.zeros(3, int), constants=[{name: v} for v in values], scales=scales)
    [found] = bound.run({n: rows_of(inputs[n], np.float64) for n in tape.inputs})
    for row, value, scale in zip(found, values, scales, strict=True):
        z, t = inputs["logits"].numpy(), inputs["target"].numpy()
        wanted = scale * t * value * np.abs(z) ** (value - 1) * np.sign(z) / SAMPLES
        assert np.allclose(row.T, wanted, rtol=1e-9, atol=1e-12)


def test_rows_read_and_write_where_they_are_told():
    programs_ = [gradient(p, ("logits",)) for p in random_losses(2)]
    tape = Tape(programs_, [("n", "c")], LAYOUT, "double")
    batches = [batch(1.0, seed) for seed in (0, 1, 2)]
    varied = [n for n in tape.inputs if n != "progress"]
    stacked = {n: np.concatenate([rows_of(b[n], np.float64) for b in batches]) for n in varied}
    stacked["progress"] = rows_of(batches[0]["progress"], np.float64)
    program, data, into = np.array([0, 1, 1]), np.array([2, 0, 1]), np.array([1, 2, 0])
    which = dict.fromkeys(varied, data)
    [found] = Bound(tape, program, which=which, into=into).run(stacked)
    for k, d, r in zip(program, data, into, strict=True):
        assert np.array_equal(found[r].T, ask(programs_[k], batches[d], "double"))


def test_neighbours_and_threads_change_no_bit():
    slopes = [gradient(p, ("logits",)) for p in random_losses(12)]
    tape = Tape(slopes, [("n", "c")], LAYOUT)
    bound = Bound(tape, np.arange(12))
    inputs = {n: rows_of(v, np.float32) for n, v in batch(3.0).items()}
    healthy = bound.run(inputs)[0].copy()
    assert np.array_equal(bound.run(inputs, threads=2)[0], healthy)
    logits = np.repeat(inputs["logits"], 12, axis=0)
    logits[3] = np.nan
    sick = bound.run({**inputs, "logits": logits})[0]
    others = [r for r in range(12) if r != 3]
    assert np.array_equal(sick[others], healthy[others])
    assert np.isnan(sick[3]).any()
    for k in (0, 11):
        alone = Tape([slopes[k]], [("n", "c")], LAYOUT)
        assert np.array_equal(Bound(alone, np.zeros(1, int)).run(inputs)[0][0], healthy[k])


def test_what_the_kernel_cannot_run_is_refused_with_the_reason():
    pairs = Term("mul", (Term("name", (), "u"), Term("name", (), "pairs")))
    paired = program_of(SPACE, Term("mean", (pairs,), ("n", "m")), CONSTANTS)
    plain = program_of(SPACE, Term("mean", (Term("name", (), "u"),), ("n",)), CONSTANTS)
    tape = Tape([canonical(paired), canonical(plain)], [()], SMALL)
    assert list(tape.refused) == [0]
    assert "'m'" in tape.refused[0]
    with pytest.raises(UsageError, match="refused"):
        Bound(tape, np.zeros(1, int))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype(np.float64), "float32"),
        (lambda x: x[:, :, :-1].copy(), "must be"),
        (lambda x: x.transpose(0, 2, 1), "must be"),
        (lambda x: np.asfortranarray(x), "contiguous"),
        (lambda x: x[:0], "0 rows"),
        (lambda x: None, "not given"),
    ],
)
def test_memory_that_does_not_fit_is_not_touched(change, message):
    tape = Tape([gradient(random_losses(1)[0], ("logits",))], [("n", "c")], LAYOUT)
    inputs = {n: rows_of(v, np.float32) for n, v in batch(1.0).items()}
    changed = change(inputs["logits"])
    inputs = {**inputs, "logits": changed} if changed is not None else {"target": inputs["target"]}
    with pytest.raises(UsageError, match=message):
        Bound(tape, np.zeros(1, int)).run(inputs)


@pytest.mark.parametrize(
    ("name", "low", "high", "digits"),
    [("exp", -87, 88, 1e-7), ("log", 1e-30, 1e30, 1e-7), ("log1p", 0, 1e6, 2e-7), ("tanh", -20, 20, 2e-7)],
)
def test_vectorised_functions_are_right_to_the_last_digits(name, low, high, digits):
    from numba import njit

    function = getattr(elementary, name)

    @njit
    def table(xs, out):
        for i in range(xs.size):
            out[i] = function(xs[i])

    xs = np.linspace(low, high, 100_001).astype(np.float32)
    if name in ("log", "log1p"):
        xs = np.concatenate([xs, np.geomspace(1e-30, 1e30, 10_001).astype(np.float32)])
    xs = xs[xs != 0]
    out = np.empty_like(xs)
    table(xs, out)
    wanted = getattr(np, name)(xs.astype(np.float64))
    assert np.abs((out - wanted) / np.where(wanted == 0, 1, wanted)).max() <= digits
    sick = np.array([np.nan], np.float32)
    table(sick, sick)
    assert np.isnan(sick[0])
