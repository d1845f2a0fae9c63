"""Many candidates at once, by the kernel, get the verdicts of one at a time by the torch reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from losssearch.controllers.base import sampler_of
from losssearch.execution.kernel.assembly import Refused
from losssearch.execution.reference import Compiled, loss_gradient
from losssearch.language.canonical import canonical
from losssearch.language.draws import Draws
from losssearch.language.formula import parse
from losssearch.language.program import Program
from losssearch.outcomes import Outcome
from losssearch.screening.bulk import Bulk
from losssearch.screening.descent import Descent, descend_by_reference
from losssearch.screening.judge import Case
from losssearch.screening.measure import reading_by_reference, readings
from losssearch.screening.pipeline import Screens, Verdict
from losssearch.screening.probes import stratified
from losssearch.screening.scale import gradient_scale, gradient_scales
from losssearch.spaces import load_space

SPACES = ["multiclass", "binary", "regression"]


def drawn(space: str, count: int, first: int = 0) -> list[Program]:
    sampler = sampler_of(load_space(space))
    streams = [Draws.counted(5, first + k) for k in range(count)]
    return [sampler.by_role(d) if k % 3 else sampler.free(d) for k, d in enumerate(streams)]


def seeds(space: str) -> list[Program]:
    return [loss.program for loss in load_space(space).seeds]


def told(verdict: Verdict) -> tuple[object, ...]:
    rejection = verdict.rejection
    return verdict.case.key, verdict.case.flipped, rejection, verdict.case.tags


def by_reference(
    program: Program, name: str, inputs: dict[str, torch.Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """Values and slopes of all batches."""
    with torch.no_grad():
        return Compiled(program)(inputs)[0].numpy(), loss_gradient(program, name)(inputs).numpy()


@pytest.mark.parametrize("space", SPACES)
def test_values_and_slopes_are_those_of_the_reference(space: str) -> None:
    """To seven digits, or what the last digit of an input may change: the sine of 1e9 hangs on it."""
    signature = load_space(space).signature
    probes = stratified(signature)
    inputs = {name: value.numpy() for name, value in probes.inputs.items()}
    beside = {name: value * (1 + 1e-15) for name, value in probes.inputs.items()}
    bulk = Bulk(signature, inputs)
    programs = [canonical(p) for p in (*seeds(space), *drawn(space, 60))]
    found = bulk.run([bulk.string(p) for p in programs], "double")
    [name] = signature.predictions
    for k, program in enumerate(programs):
        value, slope = by_reference(program, name, dict(probes.inputs))
        value_beside, slope_beside = by_reference(program, name, beside)
        shaky, size = np.nan_to_num(np.abs(value_beside - value)), float(np.abs(slope).max())
        alike = np.isclose(found.values[k], value, rtol=1e-7, atol=1e-9 + 10 * shaky, equal_nan=True)
        assert alike.all(), program.text
        shaky = np.nan_to_num(np.abs(slope_beside - slope))
        atol = 1e-9 * size + 10 * shaky
        alike = np.isclose(found.slopes[name][k], slope, rtol=1e-6, atol=atol, equal_nan=True)
        assert alike.all(), program.text


@pytest.mark.parametrize("space", SPACES)
def test_a_string_runs_on_batches_of_every_size(space: str) -> None:
    """Among them a batch of one sample; asked for slopes alone, it gives the same."""
    signature = load_space(space).signature
    probes = stratified(signature).inputs
    small = {n: v.numpy() for n, v in probes.items()}
    along = {n: signature.inputs[n].axes.index("n") + 1 for n in probes if "n" in signature.inputs[n].axes}
    first = Bulk(signature, small)
    [name] = signature.predictions
    for samples in (1, 7):
        inputs = {n: v.narrow(along[n], 0, samples) if n in along else v for n, v in probes.items()}
        bulk = Bulk(signature, {n: v.numpy() for n, v in inputs.items()})
        for program in map(canonical, seeds(space)):
            string = first.string(program)
            found = bulk.run([string], "double")
            alone = bulk.run([string], "double", valued=False, wrt=[name])
            with torch.no_grad():
                slope = loss_gradient(program, name)(inputs).numpy()
            np.testing.assert_allclose(
                found.slopes[name][0], slope, rtol=1e-6, atol=1e-9, err_msg=program.text
            )
            assert np.array_equal(alone.slopes[name], found.slopes[name], equal_nan=True), program.text


def test_a_candidate_does_not_know_who_is_judged_beside() -> None:
    programs = [canonical(p) for p in drawn("multiclass", 20)]
    for together, program in zip(readings(programs), programs, strict=True):
        [alone] = readings([program])
        assert [a.tobytes() for a in together.slopes] == [a.tobytes() for a in alone.slopes]
        assert (together.peak, together.alive, together.rises) == (alone.peak, alone.alive, alone.rises)


@pytest.mark.parametrize("space", SPACES)
def test_a_round_has_the_verdicts_of_its_candidates_one_after_the_other(space: str) -> None:
    loaded = load_space(space)
    programs = [*seeds(space), *drawn(space, 40)]
    programs += programs[3:6]  # some come twice
    one_by_one, at_once = Screens.of(loaded), Screens.of(loaded)
    singly = [one_by_one.judge(program) for program in programs]
    together = at_once.judge_all(programs[:30]) + at_once.judge_all(programs[30:])
    assert [told(v) for v in together] == [told(v) for v in singly]
    mine, yours = one_by_one.take_counts(), at_once.take_counts()
    for name, count in mine.items():
        assert (count["seen"], count["rejected"]) == (yours[name]["seen"], yours[name]["rejected"])


@pytest.mark.parametrize("space", SPACES)
def test_the_reference_gives_the_same_verdicts(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apart from overflow: in single precision it hangs on the order in which factors are multiplied."""
    loaded = load_space(space)
    screens, slow = Screens.of(loaded), Screens.of(loaded)
    programs = [*seeds(space)[:6], *drawn(space, 40, first=100)]
    for own in (screens, slow):
        own.others = [screen for screen in own.others if screen.name != Descent.name]
    quick = screens.judge_all(programs)

    def refuse(self: Bulk, program: Program) -> None:
        raise Refused("the test wants the reference")

    monkeypatch.setattr(Bulk, "string", refuse)
    for mine, yours in zip(quick, slow.judge_all(programs), strict=True):
        outcomes = {v.rejection.outcome for v in (mine, yours) if v.rejection}
        if Outcome.NOT_FINITE not in outcomes:
            assert told(mine) == told(yours)


def test_what_the_kernel_cannot_run_is_read_by_the_reference() -> None:
    space = load_space("multiclass")
    program = canonical(space.losses["forward_corrected"].program)  # has a transition from class to class
    plain = canonical(space.losses["cross_entropy"].program)
    found, beside = readings([program, plain])
    [alone] = readings([plain])
    expected = reading_by_reference(program)
    assert np.array_equal(found.slopes[0], expected.slopes[0])
    assert np.array_equal(beside.slopes[0], alone.slopes[0])
    assert found.sees_target
    assert not found.rises


def test_a_target_that_cancels_out_counts_as_blind() -> None:
    """d/dz of t*z - t*log p is p: no target in it but for rounding."""
    space = load_space("multiclass")
    text = "mean(dot(target, logits, 'c') - log_pt, 'n')"
    verdict = Screens.of(space).judge(parse(text, space.signature))
    assert verdict.rejection is not None
    assert verdict.rejection.outcome is Outcome.BLIND


@pytest.mark.parametrize("space", SPACES)
def test_scales_found_together_are_those_found_alone(space: str) -> None:
    loaded = load_space(space)
    programs = [canonical(p) for p in seeds(space)]
    alone = [gradient_scale(p, loaded) for p in programs]
    assert gradient_scales(programs, loaded) == pytest.approx(alone, rel=1e-9)
    assert gradient_scales([], loaded) == []


@pytest.mark.parametrize("space", SPACES)
def test_descending_many_ends_where_descending_one_does(space: str) -> None:
    """Single precision may settle a sample on the edge the other way."""
    loaded = load_space(space)
    cases = [Case(loaded, program) for program in seeds(space)]
    screen = Descent()
    screen.prepare(cases)
    for case in cases:
        assert case.descent is not None
        before, after = descend_by_reference(Case(loaded, case.written))
        assert case.descent[0] == before
        assert case.descent[1] == pytest.approx(after, abs=0.05), case.written.text
        assert screen.judge(case) is None


@pytest.mark.parametrize("text", ["sum(-log_pt, 'n')", "mean(-log_pt, 'n') * log(N)"])
def test_a_loss_that_counts_the_samples_is_refused(text: str) -> None:
    space = load_space("multiclass")
    verdict = Screens.of(space).judge(parse(text, space.signature))
    assert verdict.rejection is not None
    assert verdict.rejection.outcome is Outcome.BATCH_SIZE


def test_a_sum_divided_by_the_number_of_samples_is_a_mean() -> None:
    space = load_space("multiclass")
    assert Screens.of(space).judge(parse("sum(-log_pt, 'n') / N", space.signature)).rejection is None
