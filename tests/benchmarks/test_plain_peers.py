"""The peers are given what we have: the same errors for the same loss, and proposals that are losses."""

from __future__ import annotations

import random

import numpy as np
import pytest

from benchmarks.plain_loop import PROXY, WORST, judge, train
from benchmarks.plain_losses import START, Tree, is_loss, nodes, program, size
from benchmarks.plain_peers import PEERS, Gp
from losssearch.execution.plan import Run
from losssearch.execution.reference import loss_gradient
from losssearch.proxies.registry import load_proxy
from losssearch.selection import score

SAMPLES = 500  # of validation data
FOCAL_LIKE = Tree(
    "mul",
    (
        Tree("sub", (Tree("constant", value=1.5), Tree("pow", (Tree("p_t"), Tree("constant", value=0.5))))),
        Tree("sub", (Tree("progress"), Tree("log_pt"))),
    ),
)


@pytest.mark.parametrize("tree", [*START.values(), FOCAL_LIKE], ids=[*START, "focal-like"])
def test_the_plain_loop_gives_the_errors_of_the_population_trainer(tree):
    """At most a sample or two fall on the other side, by rounding."""
    [whole] = load_proxy(PROXY).train([loss_gradient(program(tree), "logits")], [Run(0, 1, 0.08, 0.01, 10)])
    alone = train(tree, 1, 0.08, 0.01, 10)
    assert len(alone) == len(whole.curve) == 2
    assert np.abs(np.array(alone) - [error for _, error in whole.curve]).max() <= 2.5 / SAMPLES


def test_a_loss_is_judged_as_on_our_first_rung():
    proxy = load_proxy(PROXY)
    runs = proxy.runs(0, [0])
    found = proxy.train([loss_gradient(program(START["brier"]), "logits")], runs)
    value, trainings = judge(START["brier"])
    assert trainings == len(runs) == 3
    assert value == pytest.approx(score(runs, found).value, abs=2.5 / SAMPLES)


def test_what_learns_nothing_on_the_first_split_is_given_up():
    assert judge(Tree("log_pt")) == (WORST, 1)  # cross entropy upside down


def test_a_loss_that_is_not_finite_ends_its_training_at_once():
    infinite = Tree("div", (Tree("p_t"), Tree("constant", value=-1e-6)))  # the guard adds 1e-6
    assert train(infinite, 0, 0.08, 0.0, 10) == []
    assert judge(infinite) == (WORST, 1)


@pytest.mark.parametrize("name", PEERS)
def test_every_proposal_is_a_loss_and_the_start_losses_are_among_the_first(name):
    peer, asked = PEERS[name](0), []
    numbers = random.Random(0)
    while len(asked) < 60:
        tree, ticket = peer.ask()
        asked.append(tree)
        peer.tell(ticket, numbers.random())
    assert asked[:2] == list(START.values())
    assert all(map(is_loss, asked))
    assert len(set(asked)) > 20


@pytest.mark.parametrize("name", PEERS)
def test_the_same_seed_and_scores_give_the_same_proposals(name):
    def first(seed: int) -> list[Tree]:
        peer, asked = PEERS[name](seed), []
        for _ in range(20):
            tree, ticket = peer.ask()
            asked.append(tree)
            peer.tell(ticket, size(tree) / 100)
        return asked

    assert first(3) == first(3)
    assert first(3) != first(4)


def test_a_generation_waits_for_its_last_answer_keeps_its_elite_and_favours_what_did_well():
    peer = Gp(0)
    tickets = [peer.ask()[1] for _ in range(Gp.size)]
    assert peer.ask() is None

    def error(tree: Tree) -> float:  # wanted: trees that speak of the margin
        return 0.1 if any(node.word == "margin" for node in nodes(tree)) else 0.9

    for ticket in tickets:
        peer.tell(ticket, error(ticket))
    best = min(tickets, key=lambda tree: (error(tree), size(tree)))
    second = [peer.ask()[0] for _ in range(Gp.size)]
    assert second[0] == best
    assert np.mean([error(tree) for tree in second]) < np.mean([error(tree) for tree in tickets])


def test_crossover_moves_parts_between_parents():
    peer = Gp(0)
    a, b = FOCAL_LIKE, START["brier"]
    for _ in range(50):
        children = peer.crossed(a, b)
        assert all(map(is_loss, children))
        if a not in children and b not in children:  # else a child was no loss, and its parent stayed
            assert sum(map(size, children)) == size(a) + size(b)
