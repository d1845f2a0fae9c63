"""What programs share is simplified once, and nobody can tell."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losssearch.controllers.base import sampler_of
from losssearch.errors import FormulaError
from losssearch.language import forms, shelf
from losssearch.language.canonical import candidate_key, canonical, canonical_alone, key_of_canonical
from losssearch.language.drafts import drafts_of
from losssearch.language.draws import Draws
from losssearch.language.formula import format_program, parse
from losssearch.language.program import Program, program_of
from losssearch.spaces import load_space, space_names


def anew(program: Program) -> Program:
    """The same program, of which nobody has asked anything yet."""
    return Program(program.signature, program.instructions, program.outputs, program.constants)


def drawn(space: str, number: int) -> Program:
    sampler, draws = sampler_of(load_space(space)), Draws.counted(11, number)
    if number % 2:
        with suppress(FormulaError):  # a wrongness of more axes than the body has
            return anew(sampler.by_role(draws))
    return anew(sampler.free(draws))


@given(number=st.integers(0, 2**32))
@pytest.mark.parametrize("space", space_names())
def test_a_form_is_the_same_whoever_was_simplified_before(space: str, number: int) -> None:
    program = drawn(space, number)
    form = canonical(program)
    assert form == canonical_alone(anew(program))
    assert form.text == format_program(anew(form))


@given(number=st.integers(0, 2**32))
def test_what_is_read_off_knows_itself_as_it_would_find_itself(number: int) -> None:
    written = drawn("multiclass", number)
    for program in (written, canonical(written)):
        fresh = anew(program)
        assert program.text == fresh.text
        assert (program.sizes, program.depth, program.inputs) == (fresh.sizes, fresh.depth, fresh.inputs)


@given(number=st.integers(0, 2**32))
def test_a_draft_is_the_program_that_its_term_makes(number: int) -> None:
    program = drawn("multiclass", number)
    drafts = drafts_of(program.signature)
    again = drafts.written(drafts.place(drafts.term(drafts.step_of(program))), program.constants)
    assert again == program == program_of(program.signature, program.term(), program.constants)


@pytest.mark.parametrize(("a", "b"), [(1.0, 2.0), (2.0, 1.0), (1.5, 1.5)])
def test_values_decide_the_order_of_terms_of_one_shape(a: float, b: float) -> None:
    signature = load_space("multiclass").signature
    constants = {"a": (a, 0.0, 5.0), "b": (b, 0.0, 5.0)}
    program = parse("mean(exp(a * p_t) * exp(b * p_t) + a * b, 'n')", signature, constants)
    with pytest.raises(forms.ValuesDecide):
        forms.forms_of(signature).canonical(program)
    assert canonical(program) == canonical_alone(anew(program))
    other = parse("mean(b * a + exp(b * p_t) * exp(a * p_t), 'n')", signature, constants)
    assert candidate_key(program) == candidate_key(other)


def test_a_canonical_program_is_its_own_form() -> None:
    form = canonical(drawn("multiclass", 5))
    assert canonical(form) is form
    assert candidate_key(form) == key_of_canonical(form)


def test_a_full_room_gives_way_to_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    signature = load_space("regression").signature
    monkeypatch.setattr(shelf, "FULL", 50)
    rooms = set()
    for number in range(60):
        program = drawn("regression", number)
        assert canonical(program) == canonical_alone(anew(program))
        rooms.add(id(forms.forms_of(signature)))
        assert len(forms.forms_of(signature).instructions) < 50 + 200
    assert len(rooms) > 1


def test_threads_do_not_disturb_each_other() -> None:
    programs = [drawn("binary", number) for number in range(40)]
    expected = [candidate_key(anew(p)) for p in programs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda p: candidate_key(anew(p)), programs * 5))
        rooms = set(pool.map(lambda _: id(forms.forms_of(programs[0].signature)), range(40)))
    assert found == expected * 5
    assert id(forms.forms_of(programs[0].signature)) not in rooms


def test_constants_keep_values_ranges_and_whether_they_are_learnt() -> None:
    signature = load_space("multiclass").signature
    program = parse(
        "mean(-(1 - p_t)**gamma * log_pt * alpha, 'n')", signature, {"gamma": 2.5, "alpha": (3, 1, 4)}
    )
    form = canonical(program)
    assert {(c.value, c.low, c.high) for c in form.constants} == {(2.5, -10.0, 10.0), (3.0, 1.0, 4.0)}
    assert [c.name for c in form.constants] == ["c0", "c1"]
