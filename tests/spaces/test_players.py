"""Several learners of one loss: whatever is proposed teaches each, and the space says who moves what."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from losssearch.controllers.base import sampler_of
from losssearch.controllers.derivation import Derivation
from losssearch.controllers.lessons import rules_of
from losssearch.controllers.policies import numbers_of
from losssearch.controllers.registry import make_controller
from losssearch.errors import SpaceError
from losssearch.language.canonical import canonical
from losssearch.language.draws import Draws
from losssearch.language.drops import drops
from losssearch.language.formula import parse
from losssearch.language.program import Program
from losssearch.outcomes import Outcome
from losssearch.screening.pipeline import Screens
from losssearch.spaces import Space, load_space

GAN = load_space("gan")

TRIO = """
title     = "Three learners"
task      = "mine"
axes      = ["n"]
sets      = ["", "n"]
head      = "mean(body, 'n')"
better    = "a, b and c approach y"
reference = "each"
screens   = ["facts"]

[inputs]
a = { axes = "n", role = "prediction", range = [-9, 9], player = "ann" }
b = { axes = "n", role = "prediction", range = [-9, 9], player = "bob" }
c = { axes = "n", role = "prediction", range = [-9, 9], player = "cyd" }
y = { axes = "n", role = "target", range = [-9, 9] }

[search]
primitives = ["add", "sub", "mul", "square", "tanh"]
terminals  = ["a", "b", "c", "y"]
sets       = ["", "n"]
nodes      = 16
depth      = 6

[losses.each]
title   = "Three squared errors"
formula = "mean(square(a - y) + square(b - y) + square(c - y), 'n')"
source  = "ours"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


@pytest.fixture
def trio(tmp_path: Path) -> Space:
    return load_space(written(tmp_path, TRIO))


def teaches_both(program: Program) -> bool:
    read = canonical(program).inputs
    return "g_fake" in read and bool(read & {"d_real", "d_fake"})


@pytest.mark.parametrize("name", ["random", "evolution", "reinforce", "q_learning", "portfolio"])
def test_every_proposal_of_a_gan_reads_scores_that_each_player_moves(name: str) -> None:
    start = [(loss.name, loss.program) for loss in GAN.seeds]
    proposals = make_controller(name, GAN, start, 0).ask(60)
    assert len(proposals) == 60
    assert all(teaches_both(p.program) for p in proposals)


def test_growth_by_role_holds_a_term_of_each_player() -> None:
    sampler = sampler_of(GAN)
    assert [{t.term.data for t, _ in side} for side in sampler.sides] == [{"gap"}, {"g_fake", "g_gap"}]
    for i in range(100):
        names = {step.data for step in sampler.by_role(Draws.counted(1, i)).instructions}
        assert "gap" in names
        assert names & {"g_fake", "g_gap"}


@pytest.mark.parametrize("way", ["free", "by_role", "words"])
def test_three_players_and_a_target_all_occur(trio: Space, way: str) -> None:
    sampler, rng = sampler_of(trio), random.Random(0)
    for i in range(60):
        if way == "words":
            derivation = Derivation(rules_of(trio))
            while legal := derivation.legal():
                derivation.write(rng.choice(legal), rng.random())
            program = derivation.program()
        else:
            program = getattr(sampler, way)(Draws.counted(2, i))
        assert program.inputs == {"a", "b", "c", "y"}


def test_a_policy_sees_the_need_of_each_player(trio: Space) -> None:
    ordinary = numbers_of(rules_of(load_space("multiclass")))
    assert numbers_of(rules_of(trio)) == ordinary + 2


@pytest.mark.parametrize(
    ("formula", "who"),
    [
        ("mean(softplus(-gap), 'n m')", "generator"),
        ("mean(softplus(-gap) + relu(g_real), 'n m')", "generator"),  # nobody moves g_real
        ("mean(softplus(-g_gap), 'n m')", "discriminator"),
        ("mean(grad_norm * g_fake, 'n m')", "discriminator"),  # a slope is no score
        ("mean(softplus(-gap) + g_fake - g_fake, 'n m')", "generator"),
    ],
)
def test_a_loss_that_leaves_a_player_out_is_screened(formula: str, who: str) -> None:
    rejection = Screens.of(GAN).judge(parse(formula, GAN.signature)).rejection
    assert rejection is not None
    assert rejection.outcome is Outcome.BLIND
    assert rejection.detail == f"its canonical form reads no prediction of the {who}"


@pytest.mark.parametrize("loss", GAN.seeds, ids=lambda loss: loss.name)
def test_no_ablation_of_a_pair_drops_a_player(loss) -> None:
    left = drops(loss.program)
    assert all(teaches_both(drop.program) for drop in left)
    if loss.name == "gan_non_saturating":  # either half of the discriminator's, and softplus around each
        assert len(left) > 2


PLACE = 'role = "prediction", range = [-9, 9], player = "ann"'
FAULTS = {
    "nobody's": (
        ', player = "bob"',
        "",
        "[inputs] b.player: There are players: say whose it is, such as 'ann'",
    ),
    "a target's": (
        'role = "target", range = [-9, 9]',
        'role = "target", range = [-9, 9], player = "ann"',
        "[inputs] y.player: Only a prediction or a parameter is a player's, but the role is target.",
    ),
    "no name": ('player = "ann"', 'player = "the ann"', "[inputs] a.player: 'the ann' is no name."),
    "only a parameter": (
        PLACE,
        PLACE.replace("prediction", "parameter"),
        "[inputs]: The player 'ann' has no prediction.",
    ),
    "misspelt": ('player = "ann"', 'plaer = "ann"', "There is no key 'plaer'. Did you mean 'player'?"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_file_section_and_key(tmp_path: Path, fault: str) -> None:
    old, new, expected = FAULTS[fault]
    assert old in TRIO
    path = written(tmp_path, TRIO.replace(old, new, 1))
    with pytest.raises(SpaceError) as caught:
        load_space(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value), str(caught.value)
