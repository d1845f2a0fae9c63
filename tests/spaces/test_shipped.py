"""Every shipped space can be searched: proposals fit it, and its screens take no seed for another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from losssearch.errors import SpaceError
from losssearch.execution.module import MODULES
from losssearch.language.draws import Draws
from losssearch.language.sampling import Sampler
from losssearch.outcomes import Outcome
from losssearch.screening.pipeline import Screens
from losssearch.spaces import Space, load_space, space_names


@pytest.fixture(params=space_names())
def space(request: pytest.FixtureRequest) -> Space:
    return load_space(request.param)


def test_a_search_can_propose_in_it(space: Space) -> None:
    sampler = Sampler(space.grammar)
    for i in range(20):
        for way in (sampler.by_role, sampler.free):
            assert sampler.has_head(way(Draws.counted(0, i)))


def test_no_seed_is_taken_for_another(space: Space) -> None:
    verdicts = Screens.of(space).judge_all([loss.program for loss in space.seeds])
    rejected = [v.rejection.outcome for v in verdicts if v.rejection]
    # smooth_l1 at its first width is huber; with equal classes a corrected loss is the plain one.
    assert rejected in ([], [Outcome.EQUIVALENT] * len(rejected))
    assert not rejected or space.name in MODULES
    assert not any(v.case.flipped for v in verdicts if v.rejection is None)


def test_every_input_and_axis_says_what_it_is(space: Space) -> None:
    signature = space.signature
    assert all(given.about for given in signature.inputs.values())
    assert set(signature.about) == set(signature.axes)


def test_what_is_told_to_people_makes_no_other_space(tmp_path: Path) -> None:
    shipped = load_space("ranking")
    file = tmp_path / "ranking.toml"
    text = shipped.path.read_text()
    file.write_text(re.sub(r', about = "[^"]*"|, there = "valid"', "", text))
    assert load_space(file).digest == shipped.digest
    file.write_text(text.replace("range = [0, 4]", "range = [0, 5]"))
    assert load_space(file).digest != shipped.digest


@pytest.mark.parametrize("mask", ["rel", "pairs", "valid_"])
def test_only_a_mask_over_its_axes_says_what_is_there(mask: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = load_space("ranking").path.read_text()
    file.write_text(text.replace('[0, 4], there = "valid"', f'[0, 4], there = "{mask}"'))
    with pytest.raises(SpaceError, match=r"\[inputs\] rel.there: No mask over its axes is called"):
        load_space(file)
