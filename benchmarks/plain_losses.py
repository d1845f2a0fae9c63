"""What is a loss to someone who searches for one without this library? A tree of torch functions.

The peers of `time_to_target` share these trees. Leaves are the words that our own search has on this task,
but for counts and shares of the classes, which are even here; functions are protected in the usual ways, so
that few trees give nan. The value of a tree is summed over classes if it has them, and averaged over
samples.

    grow(draw)        a tree from numbers in [0, 1): one for each node, from the top, left to right
    codons(tree)      numbers that give this tree: how Optuna is told of a loss
    loss(tree, ...)   its value, by torch
    program(tree)     the same in our language, for the audit; the protections are spelled out there
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from losssearch.language.formula import parse
from losssearch.language.program import Constant, Program
from losssearch.spaces import load_space

NODES, DEPTH = 24, 8  # as in search_spaces/multiclass.toml
EPS, TOP = 1e-6, 20.0
LEAST, MOST = 0.01, 10.0  # of a fresh constant
RANGE = (0.001, 20.0)  # in which the audit tunes one, as in our own search


@dataclass(frozen=True)
class Tree:
    """A word, its arguments, and the value if it is a constant."""

    word: str
    args: tuple[Tree, ...] = ()
    value: float = 0.0


@dataclass(frozen=True)
class Word:
    """A function: how many arguments it takes, what it does, and how our language writes it."""

    arity: int
    run: Callable[..., Tensor]
    text: str


def _power(x: Tensor, y: Tensor) -> Tensor:
    return (y * (x.abs() + EPS).log()).clamp(max=TOP).exp()


def _sum(x: Tensor) -> Tensor:
    return x.sum(1, keepdim=True)


FUNCTIONS = {
    "add": Word(2, torch.add, "({} + {})"),
    "sub": Word(2, torch.sub, "({} - {})"),
    "mul": Word(2, torch.mul, "({} * {})"),
    "div": Word(2, lambda x, y: x / (y + EPS), f"({{}} / ({{}} + {EPS:.6f}))"),
    "pow": Word(2, _power, f"exp(minimum({{1}} * log(abs({{0}}) + {EPS:.6f}), {TOP}))"),
    "maximum": Word(2, torch.maximum, "maximum({}, {})"),
    "minimum": Word(2, torch.minimum, "minimum({}, {})"),
    "neg": Word(1, torch.neg, "(-{})"),
    "log": Word(1, lambda x: (x.abs() + EPS).log(), f"log(abs({{}}) + {EPS:.6f})"),
    "exp": Word(1, lambda x: x.clamp(max=TOP).exp(), f"exp(minimum({{}}, {TOP}))"),
    "sqrt": Word(1, lambda x: (x.abs() + EPS).sqrt(), f"sqrt(abs({{}}) + {EPS:.6f})"),
    "square": Word(1, torch.square, "square({})"),
    "abs": Word(1, torch.abs, "abs({})"),
    "tanh": Word(1, torch.tanh, "tanh({})"),
    "sigmoid": Word(1, torch.sigmoid, "sigmoid({})"),
    "softplus": Word(1, torch.nn.functional.softplus, "softplus({})"),
    "relu": Word(1, torch.relu, "relu({})"),
    "sum": Word(1, _sum, "sum({}, 'c')"),  # over classes; what has none stays as it is
}
WIDE = ("logits", "target", "p", "log_p")  # one value a class
NARROW = ("p_t", "log_pt", "margin", "progress")
LEAVES = (*WIDE, *NARROW, "constant")
ARITY = {name: word.arity for name, word in FUNCTIONS.items()} | dict.fromkeys(LEAVES, 0)
START = {
    "cross_entropy": Tree("neg", (Tree("log_pt"),)),
    "brier": Tree("square", (Tree("sub", (Tree("p"), Tree("target"))),)),
}


def grow(draw: Callable[[], float], room: int = NODES, levels: int = DEPTH) -> Tree:
    """A tree of at most `room` nodes and `levels` levels; `draw` is called once a node."""
    words = _fitting(room, levels)
    place = draw() * len(words)
    word = words[int(place)]
    if word == "constant":
        return Tree(word, value=LEAST * (MOST / LEAST) ** (place - int(place)))
    args: list[Tree] = []
    room -= 1
    for left in range(ARITY[word] - 1, -1, -1):  # every argument still to come needs a node
        args.append(grow(draw, room - left, levels - 1))
        room -= size(args[-1])
    return Tree(word, tuple(args))


def codons(tree: Tree, room: int = NODES, levels: int = DEPTH) -> list[float]:
    """The numbers from which `grow` makes this tree, which must be inside the limits."""
    words = _fitting(room, levels)
    within = math.log(tree.value / LEAST) / math.log(MOST / LEAST) if tree.word == "constant" else 0.5
    found = [(words.index(tree.word) + min(within, 1 - EPS)) / len(words)]
    room -= 1
    for left, arg in zip(range(len(tree.args) - 1, -1, -1), tree.args, strict=True):
        found += codons(arg, room - left, levels - 1)
        room -= size(arg)
    return found


@cache
def _fitting(room: int, levels: int) -> Sequence[str]:
    """The words that can begin a tree."""
    most = 0 if levels == 1 else room - 1
    return [word for word, arity in ARITY.items() if arity <= most]


def nodes(tree: Tree) -> Iterator[Tree]:
    """The tree and everything in it, from the top, left to right."""
    yield tree
    for arg in tree.args:
        yield from nodes(arg)


def size(tree: Tree) -> int:
    return sum(1 for _ in nodes(tree))


def depth(tree: Tree) -> int:
    return 1 + max(map(depth, tree.args), default=0)


def swapped(tree: Tree, place: int, new: Tree) -> Tree:
    """The tree with `new` at a place, counted from the top, left to right."""
    if place == 0:
        return new
    place -= 1
    args = list(tree.args)
    for i, arg in enumerate(args):
        if place < (own := size(arg)):
            args[i] = swapped(arg, place, new)
            break
        place -= own
    return replace(tree, args=tuple(args))


def is_loss(tree: Tree) -> bool:
    """Whether it is inside the limits, and reads both the prediction and the target."""
    words = {node.word for node in nodes(tree)}
    reads = words & {"p_t", "log_pt", "margin"} or ("target" in words and words & {"logits", "p", "log_p"})
    return bool(reads) and size(tree) <= NODES and depth(tree) <= DEPTH


def is_wide(tree: Tree) -> bool:
    """Whether it has a value for each class."""
    return tree.word in WIDE or (tree.word != "sum" and any(map(is_wide, tree.args)))


def loss(tree: Tree, logits: Tensor, target: Tensor, progress: float) -> Tensor:
    """The value of the loss, shape ().

    Args:
        logits: Shape (samples, classes).
        target: One-hot, of the same shape.
        progress: Share of the training that is done.
    """
    given: dict[str, Tensor] = {"logits": logits, "target": target}

    def leaf(node: Tree) -> Tensor:
        name = node.word
        if name == "constant":
            return logits.new_full((1, 1), node.value)
        if name not in given:
            given[name] = make[name]()
        return given[name]

    def true(x: Tensor) -> Tensor:
        return (x * target).sum(1, keepdim=True)

    make: dict[str, Callable[[], Tensor]] = {
        "log_p": lambda: logits.log_softmax(1),
        "p": lambda: logits.softmax(1),
        "p_t": lambda: true(leaf(Tree("p"))),
        "log_pt": lambda: true(leaf(Tree("log_p"))),
        "margin": lambda: true(logits) - logits.masked_fill(target > 0, -torch.inf).amax(1, keepdim=True),
        "progress": lambda: logits.new_full((1, 1), progress),
    }

    def run(node: Tree) -> Tensor:
        return FUNCTIONS[node.word].run(*map(run, node.args)) if node.args else leaf(node)

    return run(tree).sum(1).mean()


def program(tree: Tree) -> Program:
    """The same loss in our language; its constants are named, and may be tuned."""
    constants: list[Constant] = []

    def text(node: Tree) -> str:
        if node.word == "constant":
            constants.append(Constant(f"c{len(constants)}", node.value, *RANGE))
            return constants[-1].name
        if node.word == "sum" and not is_wide(node.args[0]):
            return text(node.args[0])
        return FUNCTIONS[node.word].text.format(*map(text, node.args)) if node.args else node.word

    body = text(tree)
    body = f"sum({body}, 'c')" if is_wide(tree) else body
    named: dict[str, Any] = {constant.name: constant for constant in constants}
    return parse(f"mean({body}, 'n')", load_space("multiclass").signature, named)
