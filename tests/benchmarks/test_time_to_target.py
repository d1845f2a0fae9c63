"""When was the target reached, what may be concluded, and what does the audit measure?"""

from __future__ import annotations

import json
import math
from contextlib import ExitStack

import numpy as np
import pytest

from benchmarks.plain_loop import PROXY
from benchmarks.plain_losses import START, Tree, program
from benchmarks.target_rows import Point, Row, arrival, conclusions, read, table, write
from benchmarks.time_to_target import SharedAudit
from losssearch.execution.plan import Run
from losssearch.execution.reference import loss_gradient
from losssearch.proxies.registry import load_proxy
from losssearch.screening.scale import gradient_scale
from losssearch.spaces import load_space
from losssearch.tuning import AUDIT_SPLITS, CONFIRMING

TARGET = 0.05
PEERS = ["gp", "random"]


def row(contender: str, *errors: tuple[float, float], seed: int = 0, budget: float = 100) -> Row:
    """A row whose points are pairs of seconds and audited error."""
    points = [Point(t, t, 0.4, "mean(p_t, 'n')", {}, error) for t, error in errors]
    return Row(contender, seed, budget, 10, 60, points, 0.0)


def test_the_target_is_reached_by_the_first_loss_that_has_it_and_stays_from_the_last_miss_on():
    own = row("gp", (5, 0.08), (9, 0.05), (20, 0.06), (30, 0.04), (40, 0.03))
    assert own.reached(TARGET) == 9
    assert own.stays(TARGET) == 30
    assert row("gp", (5, 0.04), (9, 0.06)).stays(TARGET) == math.inf
    assert row("gp").reached(TARGET) == row("gp").stays(TARGET) == math.inf


def test_what_is_in_hand_is_the_last_loss_before_and_nothing_is_said_beyond_the_budget():
    own = row("gp", (5, 0.08), (20, 0.06), budget=60)
    assert [own.error_after(t) for t in (4, 5, 19, 60, 61)] == [None, 0.08, 0.08, 0.06, None]


def test_the_median_seed_counts_and_a_missing_arrival_is_a_bound():
    rows = [row("gp", (t, 0.04), seed=i) for i, t in enumerate((30, 10, 20))]
    assert arrival(rows, "gp", TARGET) == (20, False)
    rows = [row("gp", (10, 0.04)), row("gp", seed=1), row("gp", seed=2)]
    assert arrival(rows, "gp", TARGET) == (100, True)
    assert arrival(rows, "random", TARGET) is None


def test_of_two_seeds_the_one_that_favours_the_peer_counts():
    for contender, seconds in (("gp", 10), ("ours", 20)):
        rows = [row(contender, (10, 0.04)), row(contender, (20, 0.04), seed=1)]
        assert arrival(rows, contender, TARGET) == (seconds, False)


def test_ours_is_compared_with_the_peer_that_arrives_first():
    rows = [row("ours", (5, 0.04)), row("gp", (40, 0.05)), row("random", (30, 0.06), (90, 0.04))]
    assert "ours against gp: 8.0x sooner." in conclusions(rows, PEERS, TARGET)


def test_peers_that_never_arrive_give_a_lower_bound_that_says_so():
    rows = [row("ours", (5, 0.04)), row("gp", (40, 0.06)), row("random")]
    [line] = [line for line in conclusions(rows, PEERS, TARGET) if "against" in line]
    assert "at least 20.0x" in line
    assert "lower bound" in line


def test_without_an_arrival_of_ours_there_is_no_ratio():
    rows = [row("ours", (5, 0.06)), row("gp", (40, 0.04))]
    [line] = [line for line in conclusions(rows, PEERS, TARGET) if "against" in line]
    assert "no ratio" in line


def test_rows_are_read_back_as_they_were_written_losses_that_failed_too(tmp_path):
    rows, settings = [row("gp", (5, 0.08), (6, math.inf)), row("ours")], {"budget": 100.0}
    path = tmp_path / "results" / "rows.json"
    write(path, rows, settings, [])
    assert read(path, settings) == rows
    assert json.loads(path.read_text())["rows"][0]["points"][1]["error"] is None
    with pytest.raises(SystemExit, match="other settings"):
        read(path, {"budget": 200.0})


def test_the_table_has_a_line_for_each_row():
    lines = table([row("gp", (5, 0.08)), row("ours", (7, 0.04))], [6, 10], TARGET).splitlines()
    assert len(lines) == 3
    assert "0.0800" in lines[1]
    assert lines[1].split()[-2:] == ["no", "no"]
    assert lines[2].split()[-4:] == ["7", "s", "7", "s"]


def test_the_audit_takes_the_epoch_from_its_tuning_splits_and_the_error_from_fresh_ones():
    """With one setting, the first of the tuner: usual rate and decay, own constants."""
    proxy, space = load_proxy(PROXY), load_space("multiclass")
    brier = program(START["brier"])
    slope = loss_gradient(brier, "logits", gradient_scale(brier, space))
    rate, decay = proxy.setting().rates[0], proxy.setting().decays[0]
    tuning = proxy.train([slope], [Run(0, split, rate, decay) for split in (*AUDIT_SPLITS, *CONFIRMING)])
    epochs = [epoch for epoch, _ in tuning[0].curve]
    means = [np.mean([dict(result.curve)[epoch] for result in tuning]) for epoch in epochs]
    best = epochs[int(np.argmin(means))]
    tests = proxy.train([slope], [Run(0, split, rate, decay, stage="audit") for split in range(3)])
    with ExitStack() as stack:
        found = SharedAudit(stack, "inline", settings=1, splits=3).errors([brier])
    assert found == pytest.approx([np.mean([dict(result.curve)[best] for result in tests])])


def test_a_loss_that_teaches_nothing_is_audited_as_such_and_repeats_cost_nothing():
    flat = Tree("relu", (Tree("sub", (Tree("p_t"), Tree("constant", value=2.0))),))
    with ExitStack() as stack:
        audit = SharedAudit(stack, "inline", settings=1, splits=2)
        first = audit.errors([program(flat), program(START["brier"])])
        trained = audit.evaluator.trained
        assert audit.errors([program(START["brier"]), program(flat)]) == first[::-1]
        assert audit.evaluator.trained == trained
    assert first[0] > 0.8 > first[1]
