"""The trees of the peers: what grows is a loss's tree, and means the same in torch and in our language."""

from __future__ import annotations

import math
import random

import pytest
import torch
import torch.nn.functional as F

from benchmarks.plain_losses import (
    DEPTH,
    FUNCTIONS,
    LEAVES,
    NODES,
    START,
    Tree,
    codons,
    depth,
    grow,
    is_loss,
    is_wide,
    loss,
    nodes,
    program,
    size,
    swapped,
)
from losssearch.execution.reference import evaluate, loss_gradient


def grown(seed: int) -> Tree:
    return grow(random.Random(seed).random)


def written(tree: Tree) -> str:
    """The tree in prefix notation, constants to nine digits."""
    word = f"{tree.value:.9g}" if tree.word == "constant" else tree.word
    return f"{word}({', '.join(map(written, tree.args))})" if tree.args else word


LOSSES = [tree for seed in range(400) if is_loss(tree := grown(seed)) and size(tree) > 2]


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40, 10, generator=draw, dtype=torch.double)
    return logits.requires_grad_(), F.one_hot(torch.arange(40) % 10, 10).double()


def test_every_row_of_numbers_gives_a_well_formed_tree_and_one_number_goes_into_each_node():
    for seed in range(500):
        drawn = []
        numbers = random.Random(seed)
        tree = grow(lambda numbers=numbers, drawn=drawn: drawn.append(numbers.random()) or drawn[-1])
        assert len(drawn) == size(tree) <= NODES
        assert depth(tree) <= DEPTH
        for node in nodes(tree):
            assert len(node.args) == (FUNCTIONS[node.word].arity if node.word in FUNCTIONS else 0)
            assert node.word in FUNCTIONS or node.word in LEAVES


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 1e-9])
def test_rows_of_equal_numbers_give_trees_too(number):
    assert size(grow(lambda: number)) <= NODES


def test_the_numbers_of_a_tree_give_it_back():
    for tree in [*START.values(), *LOSSES]:
        numbers = codons(tree)
        assert all(0 <= number < 1 for number in numbers)
        assert written(grow(iter(numbers).__next__)) == written(tree)


def test_a_swapped_subtree_stands_in_its_place_and_the_rest_stays():
    new = Tree("neg", (Tree("margin"),))
    for tree in LOSSES[:30]:
        before = written(tree)
        for place, old in enumerate(nodes(tree)):
            child = swapped(tree, place, new)
            assert list(nodes(child))[place] is new
            assert size(child) == size(tree) - size(old) + 2
            assert written(swapped(child, place, old)) == before


def test_a_loss_reads_prediction_and_target():
    assert is_loss(Tree("p_t"))
    assert is_loss(Tree("mul", (Tree("target"), Tree("logits"))))
    assert not is_loss(Tree("mul", (Tree("p"), Tree("logits"))))
    assert not is_loss(Tree("mul", (Tree("target"), Tree("constant", value=2.0))))


def test_the_start_losses_are_cross_entropy_and_brier_score(batch):
    logits, target = batch
    assert torch.isclose(loss(START["cross_entropy"], logits, target, 0), F.cross_entropy(logits, target))
    by_hand = ((F.softmax(logits, 1) - target) ** 2).sum(1).mean()
    assert torch.isclose(loss(START["brier"], logits, target, 0), by_hand)


def test_margin_is_the_true_logit_less_the_best_other(batch):
    logits, target = batch
    rows = zip(logits.tolist(), target.argmax(1).tolist(), strict=True)
    gaps = [row[k] - max(x for i, x in enumerate(row) if i != k) for row, k in rows]
    assert loss(Tree("margin"), logits, target, 0).item() == pytest.approx(sum(gaps) / len(gaps))


def test_the_audit_trains_what_the_peer_trained(batch):
    """Value and gradient are those of the same loss in our language, wherever torch has finite ones."""
    logits, target = batch
    progress = torch.tensor(0.25, dtype=torch.double)
    inputs = {"logits": logits.detach(), "target": target, "progress": progress}
    compared = 0
    for tree in [*START.values(), *LOSSES]:
        value = loss(tree, logits, target, 0.25)
        (slope,) = torch.autograd.grad(value, logits)
        if not (value.isfinite() and slope.isfinite().all()):
            continue
        own = program(tree)
        theirs = evaluate(own, inputs)
        assert float(theirs) == pytest.approx(value.item(), rel=1e-6, abs=1e-9), written(tree)
        gap = (loss_gradient(own, "logits")({k: v[None] for k, v in inputs.items()})[0] - slope).abs().max()
        assert float(gap) <= 1e-6 * max(float(slope.abs().max()), 1e-6), written(tree)
        compared += 1
    assert compared > 0.8 * len(LOSSES)


def test_a_sum_over_classes_leaves_alone_what_has_none():
    assert not is_wide(Tree("sum", (Tree("p"),)))
    assert program(Tree("sum", (Tree("p_t"),))) == program(Tree("p_t"))


def test_constants_can_be_tuned_and_start_where_they_were():
    tree = Tree("mul", (Tree("constant", value=0.3), Tree("pow", (Tree("p_t"), Tree("constant", value=2.0)))))
    assert list(program(tree).constant_values.values()) == [0.3, 2.0]
    assert all(math.isclose(c.low, 0.001) and c.high == 20 for c in program(tree).constants)
