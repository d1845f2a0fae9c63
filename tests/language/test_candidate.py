"""A candidate is its parts."""

from __future__ import annotations

import pickle

import pytest

from losssearch.errors import FormulaError
from losssearch.language.candidate import Candidate
from losssearch.language.canonical import candidate_key, structure_key
from losssearch.language.formula import parse
from losssearch.language.signature import Signature
from tests.language.programs import SPACE

CE = parse("mean(-log(p_t), 'n')", SPACE)


def test_a_single_loss_has_its_programs_keys_size_and_text() -> None:
    candidate = Candidate.of(CE)
    assert candidate.key == candidate_key(CE)
    assert candidate.structure_key == structure_key(CE)
    assert (candidate.size, candidate.text, candidate.loss) == (CE.size, CE.text, CE)


def test_parts_are_known_by_name_and_not_by_order() -> None:
    one = Candidate.parse({"a": "mean(u, 'n')", "b": "mean(w, 'n')"}, SPACE)
    two = Candidate.parse({"b": "mean(w, 'n')", "a": "mean(u, 'n')"}, SPACE)
    swapped = Candidate.parse({"a": "mean(w, 'n')", "b": "mean(u, 'n')"}, SPACE)
    assert one == two
    assert hash(one) == hash(two)
    assert one.key == two.key != swapped.key
    assert one.text == "a = mean(u, 'n')\nb = mean(w, 'n')"
    assert one.size == 4
    with pytest.raises(FormulaError, match="no 'loss'"):
        _ = one.loss


def test_no_part_and_parts_of_two_spaces_are_refused() -> None:
    with pytest.raises(FormulaError, match="at least one"):
        Candidate({})
    other = Signature(SPACE.axes, SPACE.inputs, SPACE.copies)
    with pytest.raises(FormulaError, match="one signature"):
        Candidate({"a": CE, "b": parse("mean(u, 'n')", other)})


def test_a_candidate_survives_pickling() -> None:
    candidate = Candidate.of(CE)
    assert pickle.loads(pickle.dumps(candidate)) == candidate
