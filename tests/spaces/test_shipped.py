"""Every shipped space can be searched: proposals fit it, and its screens take no seed for another."""

from __future__ import annotations

import pytest

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
