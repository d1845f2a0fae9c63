"""Facts of losses that textbooks state, and never a wrong proof."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given

from losssearch.execution.reference import Compiled, evaluate
from losssearch.execution.refute import refuted
from losssearch.language.canonical import canonical
from losssearch.language.facts import Verdict, facts, ranges_of
from losssearch.language.formula import parse
from losssearch.language.program import Program
from losssearch.spaces import load_space, space_names
from tests.language.programs import SPACE, inputs, programs
from tests.language.test_properties import relaxed

MULTICLASS, REGRESSION = load_space("multiclass"), load_space("regression")


@pytest.mark.parametrize(
    ("space", "name", "proved"),
    [
        (MULTICLASS, "cross_entropy", "finite smooth bounded_influence batch_free convex monotone"),
        (MULTICLASS, "focal", "finite smooth batch_free"),
        (MULTICLASS, "gce", "finite smooth bounded_influence batch_free monotone"),
        (MULTICLASS, "brier", "finite smooth bounded_influence batch_free"),
        (MULTICLASS, "mae", "finite bounded_influence batch_free"),
        (MULTICLASS, "crammer_singer", "finite batch_free convex monotone"),
        (REGRESSION, "mse", "finite smooth batch_free convex"),
        (REGRESSION, "mae", "finite bounded_influence batch_free convex"),
        (REGRESSION, "log_cosh", "finite smooth bounded_influence batch_free convex"),
        (REGRESSION, "pinball", "finite bounded_influence batch_free convex"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_what_textbooks_say_is_proved_and_the_rest_stays_open(space, name, proved) -> None:
    known = facts(space.losses[name].program)
    names = ("finite", "smooth", "bounded_influence", "batch_free", "convex", "monotone")
    assert {n for n in names if getattr(known, n)} == set(proved.split())


@pytest.mark.parametrize(
    ("space", "name", "wrong"),
    [
        (MULTICLASS, "brier", "convex"),
        (MULTICLASS, "mae", "convex"),
        (MULTICLASS, "gce", "convex"),
        (REGRESSION, "welsch", "convex"),
        (REGRESSION, "tukey", "convex"),
    ],
)
def test_what_is_false_is_refuted_by_numbers_that_anyone_can_check(space, name, wrong) -> None:
    program = space.losses[name].program
    fact = getattr(refuted(program, facts(program)), wrong)
    assert fact.verdict is Verdict.REFUTED
    example = json.loads(json.dumps(fact.counterexample))
    left = {k: torch.tensor(v, dtype=torch.float64) for k, v in example["inputs"].items()}
    right = {
        **left,
        **{k: torch.tensor(v, dtype=torch.float64) for k, v in example["other"].items()},
    }
    middle = {k: (left[k] + right[k]) / 2 for k in left}
    chord = (evaluate(program, left) + evaluate(program, right)) / 2
    assert float(evaluate(program, middle)) > float(chord)


def test_a_sum_is_refuted_to_be_free_of_the_batch() -> None:
    program = parse("sum(-log(p_t), 'n')", SPACE)
    known = refuted(program, facts(program))
    assert known.batch_free.verdict is Verdict.REFUTED
    example = known.batch_free.counterexample
    assert example["twice"] == pytest.approx(2 * example["once"])


def test_a_loss_of_the_wrong_sign_is_refuted_to_be_monotone() -> None:
    program = parse("mean(log(p_t), 'n')", SPACE)
    assert refuted(program, facts(program)).monotone.verdict is Verdict.REFUTED


def test_nothing_that_was_proved_is_refuted() -> None:
    for name in space_names()[:3]:
        for loss in load_space(name).losses.values():
            known = facts(loss.program)
            for seed in range(2):
                found = refuted(loss.program, known, seed=seed)
                for field in ("convex", "batch_free", "monotone"):
                    if getattr(known, field):
                        assert getattr(found, field) is getattr(known, field)


@pytest.mark.parametrize(
    ("text", "blind"),
    [
        ("mean(w, 'n')", ("logits", "target")),
        ("mean(p_t - p_t, 'n')", ("logits", "target")),
        ("mean(-log(p_t), 'n')", ()),
        ("mean(detach(p_t), 'n')", ("logits",)),
        ("mean(logits * 0 + target, 'n c')", ("logits",)),
        ("mean(logits, 'n c')", ("target",)),
    ],
)
def test_a_loss_that_cannot_see_an_input_is_blind_to_it(text: str, blind: tuple[str, ...]) -> None:
    assert facts(parse(text, SPACE)).blind_to == blind


def test_kinks_are_named() -> None:
    assert facts(parse("mean(relu(u) + abs(p - target), 'n c')", SPACE)).kinks == ("abs",)
    assert facts(parse("mean(abs(exp(logits)), 'n c')", SPACE)).kinks == ()


@relaxed
@given(programs(detach=False))
def test_what_is_proved_holds_on_random_losses(program: Program) -> None:
    """Every proof of a random loss is put to random inputs; none may fall."""
    known = facts(program)
    run = Compiled(canonical(program), plain=False)
    data = inputs(3, scale=4.0)
    other = inputs(4, scale=4.0)
    [value] = run(data)
    value = value.double()
    if known.finite:
        assert bool(torch.isfinite(value))
    if known.convex:
        far = {**data, "logits": other["logits"]}
        middle = {**data, "logits": (data["logits"] + other["logits"]) / 2}
        chord = (value + run(far)[0].double()) / 2
        gap = run(middle)[0].double() - chord
        assert not bool(gap > 1e-7 * (1 + value.abs() + chord.abs()))
    if known.monotone:
        better = {**data, "logits": data["logits"] + 0.5 * data["target"]}
        assert not bool(run(better)[0].double() - value > 1e-9 * (1 + value.abs()))
    if known.batch_free:
        double = {
            k: torch.cat([v, v]) if v.ndim and k != "prior" and k != "pairs" else v for k, v in data.items()
        }
        double["pairs"] = torch.ones(10, 10, dtype=torch.bool)
        twice = run(double)[0].double()
        assert torch.allclose(twice, value, rtol=1e-6, atol=1e-6) or bool(value.abs() > 1e6)


def test_a_mean_under_a_mask_is_told_as_what_is_proved() -> None:
    """It is no mean of the means of samples, but a batch given twice has the same value."""
    known = facts(parse("mean(square(px1 - tx1), 'n s', pos)", load_space("boxes").signature))
    assert known.batch_free
    assert known.batch_free.why == "A batch given twice has the same value."


@relaxed
@given(programs(depth=3))
def test_the_sharper_bounds_hold(program: Program) -> None:
    once = canonical(program)
    data = inputs(5, scale=5.0)
    for i, interval in enumerate(ranges_of(once)):
        step = Program(once.signature, once.instructions, (i,), once.constants)
        value = Compiled(step, plain=False)(data)[0].double()
        slack = 1e-9 * (1 + value.abs())
        assert bool((value >= interval.low - slack).all())
        assert bool((value <= interval.high + slack).all())


def test_facts_are_plain_data() -> None:
    program = MULTICLASS.losses["brier"].program
    plain = refuted(program, facts(program)).as_plain()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["convex"]["verdict"] == "refuted"
