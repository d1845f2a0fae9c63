"""What is drawn has the wanted type, stays inside the limits, and is the same on every machine."""

from __future__ import annotations

from collections import Counter

import pytest

from losssearch.errors import FormulaError
from losssearch.language.draws import Draws
from losssearch.language.formula import define, parse
from losssearch.language.grammar import PREDICTION, TARGET, Grammar, Want
from losssearch.language.program import program_of
from losssearch.language.sampling import Sampler, Sketch
from losssearch.language.signature import Input, Kind, Role, Signature

PRIMITIVES = "add sub mul div neg abs square sqrt pow exp log tanh relu maximum sum mean max dot"


@pytest.fixture(scope="module")
def signature() -> Signature:
    inputs = {
        "logits": Input("logits", ("n", "c"), Role.PREDICTION, -30, 30),
        "target": Input("target", ("n", "c"), Role.TARGET, 0, 1, frozenset({"simplex over c"})),
        "prior": Input("prior", ("c",), Role.PROVIDED, 1e-6, 1),
    }
    bare = Signature(("n", "c"), inputs, sets=frozenset({0b00, 0b01, 0b10, 0b11}))
    bare = define(bare, "log_p", "log_softmax(logits, 'c')")
    bare = define(bare, "p", "exp(log_p)")
    return define(bare, "p_t", "dot(target, p, 'c')")


def sampler_of(signature: Signature, nodes: int = 24, depth: int = 8, extra: str = "") -> Sampler:
    return Sampler(
        Grammar(
            signature,
            dict.fromkeys(f"{PRIMITIVES} {extra}".split(), 1.0),
            ("logits", "target", "p", "log_p", "p_t", "prior", "C"),
            frozenset({0b00, 0b01, 0b10, 0b11}),
            nodes,
            depth,
            "mean(body, 'n')",
            {"p_t": 1},
        )
    )


def test_every_draw_is_a_loss_inside_the_limits(signature: Signature) -> None:
    for nodes, depth in ((24, 8), (6, 4), (3, 3)):
        sampler = sampler_of(signature, nodes, depth)
        for k in range(200):
            program = sampler.free(Draws.counted(0, k))
            assert program.size <= nodes + 1
            assert program.depth <= depth + 1
            assert {"logits", "target"} <= program.inputs
            assert program.root.axes == 0


@pytest.mark.parametrize("need", [0, PREDICTION, TARGET, PREDICTION | TARGET])
@pytest.mark.parametrize("axes", [0b00, 0b01, 0b10, 0b11])
def test_a_grown_term_has_the_wanted_axes_and_speaks_of_what_it_must(
    signature: Signature, axes: int, need: int
) -> None:
    sampler = sampler_of(signature)
    want = Want(Kind.REAL, axes, 0, need)
    if not sampler.can(want, 24, 8):
        assert axes in (0b00, 0b10)  # without the samples there is neither prediction nor target
        return
    for k in range(50):
        sketch = Sketch()
        term = sampler.grow(want, 10, 6, Draws.counted(1, k), sketch)
        program = program_of(signature, term, sketch.constants.values(), scalar=False)
        assert program.root.axes | axes == axes
        assert "logits" in program.inputs or not need & PREDICTION
        assert "target" in program.inputs or not need & TARGET


def test_a_wanted_sign_holds_on_numbers(signature: Signature) -> None:
    torch = pytest.importorskip("torch")
    from losssearch.execution.reference import evaluate

    sampler = sampler_of(signature, extra="sigmoid softplus minimum")
    torch.manual_seed(0)
    inputs = {
        "logits": torch.randn(8, 3, dtype=torch.float64),
        "target": torch.eye(3, dtype=torch.float64)[torch.arange(8) % 3],
        "prior": torch.full((3,), 1 / 3, dtype=torch.float64),
    }
    for sign in (1, -1):
        for k in range(100):
            sketch = Sketch()
            want = Want(Kind.REAL, 0b01, sign, PREDICTION)
            term = sampler.grow(want, 8, 6, Draws.counted(2, k), sketch)
            program = program_of(signature, term, sketch.constants.values(), scalar=False)
            assert bool((sign * evaluate(program, inputs) >= -1e-9).all()), program.text


def test_what_is_too_small_to_exist_is_refused(signature: Signature) -> None:
    want = Want(Kind.REAL, 0b01, 0, PREDICTION | TARGET)
    with pytest.raises(FormulaError, match="1 nodes and 0 levels"):
        sampler_of(signature).grow(want, 1, 0, Draws.counted(0, 0), Sketch())


def test_a_draw_by_role_speaks_of_rightness(signature: Signature) -> None:
    sampler = sampler_of(signature)
    for k in range(100):
        assert "p_t" in sampler.by_role(Draws.counted(3, k)).text


def test_masks_are_grown_where_an_operation_wants_one(signature: Signature) -> None:
    sampler = sampler_of(signature, extra="where greater")
    texts = [sampler.free(Draws.counted(4, k)).text for k in range(300)]
    assert any("where(" in text and ">" in text for text in texts)


def test_a_detached_part_does_not_count_as_speaking_of_the_prediction(
    signature: Signature,
) -> None:
    sampler = sampler_of(signature, nodes=4, extra="detach")
    texts = {sampler.free(Draws.counted(5, k)).text for k in range(300)}
    assert "mean(detach(p_t), 'n')" not in texts


def test_proposal_k_does_not_depend_on_those_before_it(signature: Signature) -> None:
    sampler = sampler_of(signature)
    backwards = [sampler.free(Draws.counted(6, k)) for k in reversed(range(30))]
    assert backwards[::-1] == [sampler_of(signature).free(Draws.counted(6, k)) for k in range(30)]


def test_equal_codons_give_equal_programs_and_few_codons_are_enough(signature: Signature) -> None:
    sampler = sampler_of(signature)
    for codons in ([], [3], list(range(40))):
        pair = [sampler.free(Draws.codons(codons, 256)) for _ in range(2)]
        assert pair[0] == pair[1]


def test_draws_are_spread_as_asked() -> None:
    draws = Draws.counted(7, 0)
    counts = Counter(draws.weighted([1.0, 1.0, 4.0]) for _ in range(4000))
    assert counts[1] == 0
    assert 0.7 < counts[2] / 4000 < 0.8
    assert all(0.1 <= draws.between(0.1, 10) <= 10 for _ in range(100))
    assert {draws.below(3) for _ in range(100)} == {0, 1, 2}


def test_the_head_is_recognised(signature: Signature) -> None:
    sampler = sampler_of(signature)
    assert sampler.has_head(parse("mean(-p_t, 'n')", signature))
    assert not sampler.has_head(parse("sum(-p_t, 'n')", signature))
    assert not sampler.has_head(parse("mean(-p_t, 'n', p_t)", signature))


def test_a_head_without_a_body_is_refused(signature: Signature) -> None:
    with pytest.raises(FormulaError, match="no `body`"):
        Sampler(Grammar(signature, {"add": 1.0}, ("p_t",), frozenset({0, 1}), head="mean(p_t, 'n')"))
