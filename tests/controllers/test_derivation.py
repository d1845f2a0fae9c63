"""Whatever is begun word by word ends in a legal program, and whatever is legal can be written."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from losssearch.controllers.base import sampler_of
from losssearch.controllers.derivation import Derivation, Rules, rewritten, written_as
from losssearch.controllers.lessons import rules_of
from losssearch.controllers.words import LITERALS
from losssearch.errors import FormulaError
from losssearch.language.canonical import structure_key
from losssearch.language.formula import format_program, parse, parse_term
from losssearch.language.grammar import Grammar
from losssearch.language.program import Program
from losssearch.language.sampling import Sampler, Sketch
from losssearch.language.signature import Input, Role, Signature
from losssearch.language.term import CONSTANT, LITERAL, Term
from losssearch.spaces import load_space, space_names

SIGNATURE = Signature(
    axes=("n", "c"),
    inputs={
        "z": Input("z", ("n", "c"), Role.PREDICTION, -5, 5),
        "y": Input("y", ("n", "c"), Role.TARGET, 0, 1),
        "w": Input("w", ("c",), Role.PROVIDED, 0, 1),
    },
    sets=frozenset({0, 1, 2, 3}),
)


def rules_with(
    *primitives: str, nodes: int = 12, depth: int = 6, names: tuple[str, ...] = ("z", "y")
) -> Rules:
    grammar = Grammar(
        signature=SIGNATURE,
        primitives=dict.fromkeys(primitives, 1.0),
        terminals=names,
        sets=frozenset({0, 1, 2, 3}),
        nodes=nodes,
        depth=depth,
        head="mean(body, 'n')",
    )
    return Rules(Sampler(grammar))


def random_derivation(rules: Rules, rng: random.Random) -> Derivation:
    derivation = Derivation(rules)
    while legal := derivation.legal():
        derivation.write(rng.choice(legal), rng.random())
    return derivation


@pytest.mark.parametrize("name", space_names())
def test_any_legal_words_end_in_a_legal_program(name: str) -> None:
    space = load_space(name)
    rules, rng = rules_of(space), random.Random(0)
    for _ in range(150):
        derivation = random_derivation(rules, rng)
        program = derivation.program()
        constants = {c.name: c for c in program.constants}
        assert rules.sampler.fits(program), program.text
        assert len(derivation.written) <= space.search.nodes
        assert parse(format_program(program), space.signature, constants) == program


def test_masks_choices_and_held_values_are_legal_too() -> None:
    rules = rules_with(
        "where", "less", "any", "detach", "add", "mul", "dot", "sum", "pow", "div", "softmax",
        names=("z", "y", "w"),
    )  # fmt: skip
    rng, seen = random.Random(1), set()
    for _ in range(600):
        derivation = random_derivation(rules, rng)
        program = derivation.program()
        assert rules.sampler.fits(program), program.text
        assert moves(program), f"no gradient reaches z in {program.text}"
        seen |= {step.op for step in program.instructions}
    assert {"where", "less", "detach", "dot", "pow", "softmax"} <= seen


def moves(program: Program) -> bool:
    """Whether a path without detach or comparison leads to the prediction."""
    live: list[bool] = []
    for step in program.instructions:
        blocked = step.op in ("detach", "less", "any")
        live.append(step.data == "z" or (not blocked and any(live[i] for i in step.args)))
    return live[program.outputs[0]]


def every_body(rules: Rules) -> set[Program]:
    """All complete derivations, by trying every legal word everywhere."""
    found: set[Program] = set()
    stack: list[list[int]] = [[]]
    while stack:
        words = stack.pop()
        derivation = Derivation(rules)
        for number in words:
            derivation.write(number)
        if derivation.body is not None:
            found.add(derivation.program())
        stack += [[*words, number] for number in derivation.legal()]
    return found


def every_term(rules: Rules, nodes: int) -> list[list[Term]]:
    """All terms over the same words by their number of nodes, well typed or not."""
    words = rules.alphabet.words
    leaves = [Term(w.op, (), w.data) for w in words if w.made is not None and w.span is None]
    found: list[list[Term]] = [[], [*leaves, Term(CONSTANT, (), "c0")]]
    for size in range(2, nodes + 1):
        terms = []
        for word in words:
            if word.made is not None:
                continue
            for split in itertools.product(range(1, size), repeat=len(word.wishes)):
                if sum(split) == size - 1:
                    choices = itertools.product(*(found[n] for n in split))
                    terms += [Term(word.op, args, word.data) for args in choices]
        found.append(terms)
    return found


def well_typed(rules: Rules, nodes: int) -> set[Program]:
    """All bodies of at most so many nodes, each built and judged by the checker."""
    found = set()
    for term in itertools.chain(*every_term(rules, nodes)):
        sketch = Sketch()
        sketch.constant(1.0, 0.001, 20.0)  # c0
        try:
            program = rules.sampler.program(term, sketch)
        except FormulaError:
            continue
        if rules.sampler.fits(program):
            found.add(program)
    return found


WORDS = ("sub", "abs", "sum", "log")


def test_nothing_but_well_typed_bodies_can_be_written() -> None:
    rules = rules_with(*WORDS, nodes=6, depth=5)
    allowed = {structure_key(program) for program in well_typed(rules, 6)}
    written = every_body(rules)
    assert len(written) > 10
    assert {structure_key(program) for program in written} <= allowed


def test_every_well_typed_body_can_be_written_where_there_is_some_room() -> None:
    """At the very limit some cannot: what an argument may cost at worst is set aside."""
    roomy = rules_with(*WORDS, nodes=9, depth=8)
    bodies = well_typed(rules_with(*WORDS, nodes=6, depth=5), 6)
    assert len(bodies) > 100
    for program in bodies:
        assert written_as(roomy, program) is not None, program.text


@pytest.mark.parametrize("name", ["multiclass", "regression"])
def test_what_was_written_can_be_read_off_the_program(name: str) -> None:
    space = load_space(name)
    rules, rng = rules_of(space), random.Random(3)
    read = 0
    for _ in range(150):
        program = random_derivation(rules, rng).program()
        words = written_as(rules, program)
        folded = {s.data for s in program.instructions if s.op == LITERAL} - set(LITERALS)  # neg(2) is -2
        if words is None or folded:
            continue
        read += 1
        again = Derivation(rules)
        for number in words:
            again.write(number)
        assert structure_key(again.program()) == structure_key(program)
    assert read > 75


def test_classical_losses_lie_in_the_alphabet() -> None:
    space = load_space("multiclass")
    rules = rules_of(space)
    names = {n: written_as(rules, loss.program) for n, loss in space.losses.items()}
    spelt = [rules.alphabet.names[i] for i in names["cross_entropy"] or []]
    assert spelt == ["neg", "log_pt"]
    assert names["brier"]
    assert names["focal"]
    assert names["ldam"] is None  # its constants and inputs are not all in the grammar


def test_a_read_constant_lies_in_its_span() -> None:
    space = load_space("multiclass")
    rules = rules_of(space)
    constants = {"a": (0.4, 0.0, 1.0), "b": (-5.0, -9.0, 9.0)}
    words = written_as(rules, parse("mean(a * log_pt + b * p_t, 'n')", space.signature, constants))
    spans = [rules.alphabet.words[i].span for i in words or [] if rules.alphabet.words[i].span]
    assert spans == [(0.3, 1.0), (-10.0, -1.0)]


def test_another_head_cannot_be_written() -> None:
    space = load_space("regression")
    assert written_as(rules_of(space), parse("2 * mean(square(r), 'n')", space.signature)) is None


def test_what_is_unfinished_is_no_program_and_what_is_illegal_is_refused() -> None:
    rules = rules_of(load_space("regression"))
    derivation = Derivation(rules)
    derivation.write(rules.alphabet.names.index("square"))
    with pytest.raises(FormulaError, match="not complete"):
        derivation.program()
    constant = rules.alphabet.names.index("1")
    with pytest.raises(FormulaError, match="does not fit"):
        rewritten(rules, [constant])
    with pytest.raises(FormulaError, match="does not fit"):
        rewritten(rules, [rules.alphabet.names.index("r"), constant])


def test_a_grammar_without_a_loss_is_refused() -> None:
    with pytest.raises(FormulaError, match="no body has at most 2 nodes"):
        rules_with("sub", "abs", "sum", nodes=2)  # z and y and what joins them are three


def test_an_untaught_writer_favours_what_is_never_negative_where_that_is_wished_for() -> None:
    rules = rules_of(load_space("regression"))
    derivation = Derivation(rules)
    derivation.write(rules.alphabet.names.index("log"))
    context = derivation.context()
    assert context.wish
    square, tanh = (rules.alphabet.names.index(name) for name in ("square", "tanh"))
    weights = rules.alphabet.weights
    plain = weights(False, False)[square] - weights(False, False)[tanh]
    wished = weights(False, True)[square] - weights(False, True)[tanh]
    assert wished - plain == pytest.approx(math.log(1 / 0.5))  # tanh is not negative if its argument is not


def test_the_sampler_and_the_words_agree_on_the_head() -> None:
    sampler = sampler_of(load_space("multiclass"))
    assert sampler.head == parse_term("mean(body, 'n')")
    assert Rules(sampler).root.axes == {sampler.body_axes}
