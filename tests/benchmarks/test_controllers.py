"""Is the comparison of controllers what it says: scores, means, intervals, budgets, and its memory?"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import controller_runs, controllers
from benchmarks.controller_report import Judge, in_hand
from benchmarks.controller_runs import (
    OUTSIDE,
    TASKS,
    Budget,
    Finished,
    Incumbent,
    Journal,
    contenders,
    plain,
    run,
)
from benchmarks.controller_scores import (
    FLOOR,
    LUCK,
    Interval,
    Line,
    compare,
    conclusion,
    interquartile_mean,
    normalised,
    resampled,
    table,
)
from losssearch import session
from losssearch.controllers.registry import CONTROLLERS
from losssearch.language.canonical import candidate_key
from losssearch.records import constants_of
from losssearch.search import Search
from losssearch.spaces import load_space

LAPLACE, GUMBEL = TASKS["known-noise-laplace"], TASKS["known-noise-gumbel"]
TINY = Budget((5, 9), (0.0,))


# Scores.


def test_the_start_loss_has_score_0_and_the_best_known_1_by_error_and_by_efficiency():
    for efficiency in (False, True):
        assert normalised(0.4, 0.4, 0.1, efficiency=efficiency) == 0
        assert normalised(0.1, 0.4, 0.1, efficiency=efficiency) == 1
        assert normalised(0.05, 0.4, 0.1, efficiency=efficiency) > 1
    assert normalised(0.25, 0.4, 0.1, efficiency=False) == pytest.approx(0.5)
    # efficiencies 1 / 4 and 1 / 1: halfway is 5 / 8
    assert normalised(8 / 5, 4, 1, efficiency=True) == pytest.approx(0.5)


def test_a_loss_that_could_not_be_trained_counts_but_does_not_drown_the_others():
    assert normalised(math.inf, 0.4, 0.1, efficiency=False) == FLOOR
    # without any efficiency it is as far below the start as its efficiency was above none
    assert normalised(math.inf, 4, 1, efficiency=True) == pytest.approx(-1 / 3)


def test_without_headroom_there_is_no_scale():
    with pytest.raises(ValueError, match="known < start"):
        normalised(0.3, 0.2, 0.2, efficiency=False)


# Interquartile means and their bootstrap.


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 25])
def test_the_interquartile_mean_is_the_mean_of_the_middle_half(count):
    values = list(np.random.default_rng(count).normal(size=count))
    left = sorted(values)
    for _ in range(int(count / 4)):
        left.remove(min(left))
        left.remove(max(left))
    assert interquartile_mean(np.array([values]))[0] == pytest.approx(statistics.fmean(left))


def test_seeds_are_drawn_again_within_their_task_alone():
    strata = [np.array([[1.0], [2.0]]), np.array([[10.0], [20.0], [30.0]])]
    drawn = resampled(strata, samples=200)[:, :, 0]
    assert drawn.shape == (200, 5)
    assert set(drawn[:, :2].flat) == {1.0, 2.0}
    assert set(drawn[:, 2:].flat) == {10.0, 20.0, 30.0}


def test_the_interval_is_that_of_all_equally_likely_draws():
    """With one task of five seeds all 5^5 draws can be written down."""
    own = {("a", seed): [value] for seed, value in enumerate((0.1, 0.5, 0.6, 0.9, 2.0))}
    values = [scores[0] for scores in own.values()]
    every = [statistics.fmean(sorted(draw)[1:-1]) for draw in itertools.product(values, repeat=5)]
    [point] = compare("x", own, {}).curve
    assert point.middle == pytest.approx(statistics.fmean([0.5, 0.6, 0.9]))
    assert point.low == pytest.approx(np.quantile(every, 0.025), abs=0.03)
    assert point.high == pytest.approx(np.quantile(every, 0.975), abs=0.03)


def scores(*by_task, shift=0.0):
    return {(f"task{t}", s): [0.0, v + shift] for t, row in enumerate(by_task) for s, v in enumerate(row)}


def test_a_shift_of_every_run_is_found_exactly_since_the_same_runs_are_drawn_for_both():
    control = scores((0.1, 0.9, 0.4, 0.7, 0.2), (0.0, 0.3, 1.0, 0.5, 0.8))
    own = {key: [a, b + 0.01] for key, (a, b) in control.items()}
    line = compare("x", own, control)
    assert line.versus is not None
    assert [line.versus.middle, line.versus.low, line.versus.high] == pytest.approx([0.01] * 3)
    assert line.verdict == "beats random"
    assert compare("x", control, own).verdict == "loses to random"


def test_what_may_be_luck_is_not_shown_and_few_seeds_show_nothing():
    control = scores((0.1, 0.9, 0.4, 0.7, 0.2))
    assert compare("x", scores((0.9, 0.1, 0.5, 0.6, 0.3)), control).verdict == "not shown"
    assert compare("x", scores((9, 9, 9, 9)), control).verdict == "too few seeds"
    assert compare("x", scores((9, 9)), {}).verdict == ""
    assert compare("random", control, control, is_control=True).verdict == ""


def test_only_runs_that_both_have_are_compared():
    control = scores((0.1, 0.9, 0.4, 0.7, 0.2))
    own = scores((0.1, 0.9, 0.4, 0.7, 0.2), (5, 5, 5, 5, 5))
    line = compare("x", own, control)
    assert line.runs == 10
    assert line.versus == Interval(0, 0, 0)
    assert line.verdict == "not shown"


def test_a_controller_that_is_no_better_seems_so_as_rarely_as_is_said():
    rng, seeming = np.random.default_rng(3), 0
    for _ in range(100):
        own, control = (scores(*rng.normal(size=(3, 5))) for _ in range(2))
        seeming += compare("x", own, control).verdict == "beats random"
    assert seeming / 100 < 2.5 * LUCK


def line(controller, last, versus):
    return Line(controller, 25, 5, (Interval(last, last, last),), versus)


def test_the_table_puts_the_best_first_and_says_who_is_not_shown_to_beat_random():
    rows = [
        line("random", 0.5, None),
        line("ppo", 0.4, Interval(-0.1, -0.3, 0.1)),
        line("evolution", 0.8, Interval(0.3, 0.1, 0.5)),
    ]
    cells = [[c.strip() for c in r.split("|")[1:-1]] for r in table(rows, [800], "").splitlines()]
    assert [row[0] for row in cells] == ["controller", "---", "evolution", "random", "ppo"]
    assert [row[-1] for row in cells[2:]] == ["beats random", "", "not shown"]
    assert "beats random: evolution; not shown: ppo." in conclusion(rows)
    assert "Nothing is concluded" in conclusion(rows[:1])


# Runs.


@pytest.fixture(scope="module")
def found():
    return run("evolution", LAPLACE, 3, TINY)


def test_a_run_trains_exactly_its_budget_and_the_same_again_from_the_seed(found):
    again = run("evolution", LAPLACE, 3, TINY)
    assert found.trained == 9
    assert [(i.trained, i.formula, i.constants) for i in again.incumbents] == [
        (i.trained, i.formula, i.constants) for i in found.incumbents
    ]
    assert run("evolution", LAPLACE, 4, TINY).incumbents != found.incumbents


def test_the_first_loss_in_hand_is_known_at_the_first_checkpoint_at_the_latest(found):
    assert found.incumbents[0].trained <= 5
    assert found.after_trained(0) is None
    assert found.after_seconds(0.0) is None
    assert found.after_trained(9) == found.after_seconds(1e9) == found.incumbents[-1]


class Enough(Exception):
    """The rounds are over."""


def test_before_a_checkpoint_is_near_a_run_is_what_search_does(tmp_path, monkeypatch):
    for module in (session, controller_runs):
        monkeypatch.setattr(module, "ROUND", 8)
    led = {}

    def watch(progress):
        if progress.phase != "search":
            raise Enough
        led[progress.trained] = progress.formula

    storage = f"sqlite:///{tmp_path}/losses.db"
    own = Search(
        GUMBEL.space, GUMBEL.proxy, "evolution", GUMBEL.start, storage, "own", 4, "inline", mirror=False
    )
    with pytest.raises(Enough):
        own.run(candidates=40, watch=watch)
    del led[0]  # before the first round
    found = run("evolution", GUMBEL, 4, Budget((max(led) + 8,), (0.0,)))
    assert len(set(led.values())) > 1
    assert {t: found.after_trained(t).formula for t in led} == led


def test_a_round_never_oversteps_a_checkpoint():
    budget = Budget((50, 400), (10.0,))
    assert [budget.room(t, 0.0) for t in (0, 49, 50, 399)] == [50, 1, 96, 1]
    assert budget.room(400, 9.9) == 96  # goes on for the seconds
    assert budget.room(400, 10.0) == 0


def test_every_controller_of_the_registry_is_a_contender():
    assert {name.partition(":")[0] for name in contenders()} | set(OUTSIDE) == set(CONTROLLERS)


def test_every_task_has_a_space_for_its_losses():
    for task in TASKS.values():
        losses = [task.program(name) for name in (*task.start, *task.known)]
        assert len({candidate_key(p) for p in losses}) == len(losses)


# The audit's scale.


def test_before_a_loss_is_in_hand_the_start_loss_is(found):
    mse, mae = LAPLACE.program("mse"), LAPLACE.program(LAPLACE.known[0])
    judge = Judge(LAPLACE, {candidate_key(mse): 2.0, candidate_key(mae): 1.0})
    own = Incumbent(5, 1.0, 1.3, mae.text, constants_of(mae))
    early = replace(found, incumbents=(own,))
    points = in_hand(early, Budget((4, 5), (0.5, 1.0)))
    assert [[judge.score(i) for i in points[by]] for by in ("trained", "seconds")] == [[0, 1], [0, 1]]
    assert judge.shown(own) == 1


# What is kept.


def test_a_run_is_read_back_as_it_was_and_half_a_line_is_forgotten(tmp_path, found):
    path = tmp_path / "deep" / "runs.jsonl"
    Journal(path).add(plain(found))
    with path.open("a") as file:
        file.write('{"controller": "ev')
    journal = Journal(path)
    assert journal.finished() == [found]
    journal.add(plain(replace(found, seed=4)))
    assert [f.seed for f in Journal(path).finished()] == [3, 4]


def test_runs_of_another_budget_are_not_taken(tmp_path, found):
    journal = Journal(tmp_path / "runs.jsonl")
    journal.add(plain(found))
    job = ("evolution", LAPLACE.proxy, 3)
    assert controllers.kept([(*job, TINY)], journal) == [found]
    assert controllers.kept([(*job, Budget((5, 10), (0.0,)))], journal) == []
    assert controllers.kept([("evolution", LAPLACE.proxy, 4, TINY)], journal) == []


def test_the_same_command_goes_on_and_runs_nothing_twice(tmp_path, capsys):
    command = [
        "--tasks", LAPLACE.proxy, "--controllers", "random", "--budget", "3", "5", "--seconds", "0.1",
        "--settings", "1", "--splits", "2", "--out", str(tmp_path),
    ]  # fmt: skip
    assert controllers.main([*command, "--seeds", "0"]) == 0
    before = (tmp_path / "runs.jsonl").read_text(), (tmp_path / "audits.jsonl").read_text()
    assert controllers.main([*command, "--seeds", "0"]) == 0
    assert before == ((tmp_path / "runs.jsonl").read_text(), (tmp_path / "audits.jsonl").read_text())
    assert "1 runs are kept" in capsys.readouterr().err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) == {"audit", "budget", "machine", "scale", "trained", "seconds"}
    scale = summary["scale"][LAPLACE.proxy]
    assert 0.3 < scale["known"] / scale["start"] < 0.8  # squares have half the efficiency
    for name in ("table.md", "trained.png", "trained.svg", "seconds.png", "seconds.svg"):
        assert (tmp_path / name).stat().st_size > 0


def test_a_run_that_fails_is_said_and_costs_no_other():
    said = controllers._attempt(("nobody", LAPLACE.proxy, 0, TINY))
    assert isinstance(said, str)
    assert "nobody on known-noise-laplace, seed 0: UsageError" in said
    assert isinstance(controllers._attempt(("random", LAPLACE.proxy, 0, Budget((2,), (0.0,)))), Finished)


def test_a_budget_of_nothing_is_refused(capsys):
    with pytest.raises(SystemExit):
        controllers.main(["--budget", "0", "50"])
    assert "must be above 0" in capsys.readouterr().err


def test_known_losses_of_a_space_are_read_with_their_constants():
    digits = TASKS["digits-noisy"]
    assert digits.program("gce") == load_space("multiclass").losses["gce"].program
