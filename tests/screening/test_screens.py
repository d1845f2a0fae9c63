"""Screens keep what can win and refuse what cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from losssearch.controllers.registry import make_controller
from losssearch.language.canonical import canonical
from losssearch.language.formula import parse
from losssearch.outcomes import Outcome
from losssearch.screening import fingerprint
from losssearch.screening.fingerprint import AGREE
from losssearch.screening.measure import readings
from losssearch.screening.pipeline import SCREENS, Screens
from losssearch.screening.scale import gradient_scale
from losssearch.spaces import load_space, space_names

SEEDS = [(space, loss.name) for space in space_names() for loss in load_space(space).seeds]


def program(text, space="multiclass", **constants):
    return parse(text, load_space(space).signature, constants)


def judged(text, space="multiclass", known=(), **constants):
    screens = Screens.of(load_space(space))
    for name in known:
        screens.judge(load_space(space).losses[name].program)
    return screens.judge(program(text, space, **constants))


@pytest.mark.parametrize(("space", "name"), SEEDS)
def test_every_seed_point_passes_every_screen_of_its_space(space, name):
    loaded = load_space(space)
    verdict = Screens.of(loaded).judge(loaded.losses[name].program)
    assert verdict.rejection is None, verdict.rejection
    assert not verdict.case.flipped


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("mean(-log_pt + 0 * p_t, 'n')", Outcome.DUPLICATE),
        ("mean(p_t - p_t + sum(target, 'c'), 'n')", Outcome.BLIND),
        ("mean(sum(p * p, 'c'), 'n')", Outcome.BLIND),
        ("mean(square(square(exp(exp(-margin)))) - p_t, 'n')",
         Outcome.NOT_FINITE),
        ("mean(relu(p_t - 2) + 0 * log_pt, 'n')", Outcome.FLAT),
        ("mean(dot(target, cos(9 * logits), 'c'), 'n')", Outcome.NOT_LEARNING),
    ],
)  # fmt: skip
def test_what_cannot_be_a_loss_is_refused_with_its_reason(text, outcome):
    verdict = judged(text, known=["cross_entropy"])
    assert verdict.rejection is not None
    assert verdict.rejection.outcome is outcome


def test_a_duplicate_is_credited_to_the_loss_it_repeats():
    verdict = judged("mean(-log(p_t), 'n') * 1", known=["cross_entropy"])
    assert verdict.rejection is None or verdict.rejection.same_as is not None
    again = judged("-mean(log_pt, 'n')", known=["cross_entropy"])
    assert again.rejection.outcome is Outcome.DUPLICATE
    assert again.rejection.same_as == again.case.key


@pytest.mark.parametrize(
    "text", ["mean(-3 * log_pt, 'n')", "mean(5 - log_pt, 'n')", "mean(-c * log_pt, 'n') + c"]
)
def test_a_factor_or_an_offset_makes_no_new_loss(text):
    verdict = judged(text, known=["cross_entropy"], c=0.3)
    assert verdict.rejection.outcome in (Outcome.EQUIVALENT, Outcome.DUPLICATE)


@pytest.mark.parametrize("text", ["square(mean(-log_pt, 'n'))", "mean(-log_pt, 'n') * (2 - progress)"])
def test_a_step_size_variant_is_tagged_but_not_credited(text):
    verdict = judged(text, known=["cross_entropy"])
    assert verdict.rejection is None
    assert any(tag.startswith("step-size variant of mean(-log_pt") for tag in verdict.case.tags)


def test_a_wide_huber_is_not_taken_for_the_squared_error():
    screens = Screens.of(load_space("regression"))
    space = load_space("regression")
    assert screens.judge(space.losses["mse"].program).rejection is None
    wide = space.losses["huber"].program.with_constants({"delta": 4.0})
    assert screens.judge(wide).rejection is None


def test_slight_label_smoothing_is_not_taken_for_cross_entropy():
    space = load_space("multiclass")
    screens = Screens.of(space)
    screens.judge(space.losses["cross_entropy"].program)
    slight = space.losses["label_smoothing"].program.with_constants({"smoothing": 0.05})
    assert screens.judge(slight).rejection is None


def test_a_loss_with_the_wrong_sign_is_turned_over_and_then_recognised():
    verdict = judged("mean(log_pt, 'n')", known=["cross_entropy"])
    assert verdict.case.flipped
    assert verdict.rejection.outcome is Outcome.DUPLICATE


@pytest.mark.parametrize("space", space_names())
def test_scaled_gradients_of_all_seeds_have_the_size_of_the_references(space):
    from losssearch.screening.scale import _size

    loaded = load_space(space)
    wanted = _size(loaded.losses[loaded.reference].program, loaded)
    for loss in loaded.seeds:
        scale = gradient_scale(loss.program, loaded)
        assert scale * _size(loss.program, loaded) == pytest.approx(wanted, rel=1e-9)


def test_counts_add_up_and_are_taken_once():
    space = load_space("multiclass")
    screens = Screens.of(space)
    for name in ("cross_entropy", "gce", "mae", "brier"):
        screens.judge(space.losses[name].program)
    screens.judge(space.losses["cross_entropy"].program)
    counts = screens.take_counts()
    assert counts["duplicate"]["seen"] == 5
    assert counts["duplicate"]["rejected"] == 1
    assert counts["prediction"]["seen"] == 4
    assert all(c["seconds"] >= 0 for c in counts.values())
    assert screens.take_counts() == {}


def test_what_was_judged_before_a_restart_is_remembered():
    space = load_space("multiclass")
    first, second = Screens.of(space), Screens.of(space)
    passed = first.judge(space.losses["gce"].program)
    second.remember(passed.case.key, passed.case.written)
    assert second.judge(space.losses["gce"].program).rejection.outcome is Outcome.DUPLICATE
    factor = program("mean((1 - exp(q * log_pt)) / q * 7, 'n')", q=0.7)
    assert second.judge(factor).rejection.outcome is Outcome.EQUIVALENT


def test_marks_tell_losses_apart_that_their_slopes_tell_apart():
    """Every pair of many losses: the marks say what all slopes say, up to a factor of four at the border."""
    space = load_space("multiclass")
    proposals = make_controller("random", space, [(s.name, s.program) for s in space.seeds], 5).ask(300)
    known = [r.slopes[0] for r in readings([canonical(p.program) for p in proposals]) if r.slopes]
    slopes = np.stack([s.reshape(len(s), -1) for s in known])
    with np.errstate(all="ignore"):
        directions = slopes / np.sqrt(np.square(slopes).sum(2, keepdims=True))
    alive = np.isfinite(directions).all((1, 2))
    flat = directions[alive].reshape(alive.sum(), -1)
    marks = fingerprint._rows([(slopes[k],) for k in np.flatnonzero(alive)])[:, : fingerprint.MARKS]
    far = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    seen = np.sqrt(np.square(marks[:, None] - marks[None]).mean(2))
    same, different = far < AGREE / 4, far > AGREE * 4
    assert same.sum() > 1.05 * len(flat)  # some are the same as another
    assert (seen[same] <= AGREE).all()
    assert (seen[different] > AGREE).all()


def test_every_space_lists_known_screens_and_each_has_a_title():
    for name in space_names():
        assert set(load_space(name).screens) <= set(SCREENS)
    assert all(screen.title for screen in SCREENS.values())
    assert AGREE == 1e-8


def test_screens_leave_the_number_of_threads_alone():
    before = torch.get_num_threads()
    judged("mean(-log_pt, 'n')")
    assert torch.get_num_threads() == before
