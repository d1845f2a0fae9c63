"""The ledger says the same as a plain look at all entries, keeps no program for long, and stays small."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losssearch.controllers.base import Proposal
from losssearch.ledger import HELD, Entry, Ledger
from losssearch.outcomes import Outcome
from losssearch.selection import Climb, Score
from losssearch.spaces import load_space

PROGRAM = load_space("multiclass").seeds[0].program


def never_read(number):
    raise AssertionError(f"the program of {number} was read again")


def dumb_promotion(entries, share):
    """Of all that were trained, `share` should stand above rung 0: who is next?"""
    trained = [e for e in entries if e.rung >= 0]
    due = math.ceil(share * len(trained)) - len([e for e in trained if e.rung > 0])
    waiting = sorted(
        (e for e in trained if e.rung == 0 and math.isfinite(e.value)),
        key=lambda e: (e.value, e.size, e.number),
    )
    return waiting[: max(0, due)]


def dumb_leader(entries):
    scored = [e for e in entries if math.isfinite(e.value)]
    top = max((e.rung for e in scored), default=None)
    best = [e for e in scored if e.rung == top]
    return min(best, key=lambda e: (e.value, e.size, e.number), default=None)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12),  # which loss
            st.none() | st.sampled_from([0.1, 0.2, 0.3, math.inf]),
            st.integers(0, 2),  # how many rungs it rises
            st.integers(1, 3),  # its size
        ),
        max_size=60,
    )
)
def test_who_leads_and_who_is_promoted_is_what_a_look_at_all_entries_says(trainings):
    ledger = Ledger(never_read)
    for which, value, rise, size in trainings:
        entry = ledger.entries.get(str(which))
        if entry is None:
            entry = Entry(which, str(which), size, 1.0)
            ledger.add(entry, PROGRAM)
        rung = min(2, max(0, entry.rung) + rise)
        ledger.take(entry, Score(value, outcome=Outcome.SCORED if value else Outcome.DIVERGED), rung)
        assert ledger.trained == len([e for e in ledger if e.rung >= 0])
        assert ledger.leader() == dumb_leader(list(ledger))
        for share in (0.1, 0.6, 1.0):
            assert ledger.to_promote(0, share) == dumb_promotion(list(ledger), share)
        found = ledger.best(3, 1)
        assert [e.order for e in found] == sorted(
            e.order for e in ledger if e.rung == 1 and math.isfinite(e.value)
        )[:3]


def test_an_empty_ledger_promotes_nobody_and_has_no_leader():
    ledger = Ledger(never_read)
    assert (ledger.to_promote(0, 0.5), ledger.leader(), ledger.best(3, 0), ledger.trained) == (
        [],
        None,
        [],
        0,
    )


def test_programs_that_were_not_used_for_long_are_read_again():
    read = []

    def reading(number):
        read.append(number)
        return PROGRAM

    ledger = Ledger(reading)
    entries = [Entry(n, str(n), 5, 1.0) for n in range(HELD + 10)]
    for entry in entries:
        ledger.add(entry, PROGRAM)
        ledger.take(entry, Score(0.5, per_split=(0.5,)), 0)
    assert [ledger.program(e) for e in entries[:3]] == [PROGRAM] * 3
    assert read == []  # nothing is let go of before it is stored
    ledger.settle()
    assert all(e.score is None for e in entries)
    ledger.program(entries[0])  # used a moment ago
    assert read == []
    ledger.program(entries[5])
    assert read == [5]
    ledger.program(entries[5])
    assert read == [5]


def test_a_twin_is_neither_promoted_nor_chosen():
    ledger = Ledger(never_read)
    first, twin, other = (Entry(n, str(n), 5 - n, 1.0) for n in range(3))
    for entry, value, trace in ((first, 0.2, "a"), (twin, 0.1, "a"), (other, 0.3, "b")):
        ledger.add(entry, PROGRAM)
        ledger.take(entry, Score(value, per_split=(value,), trace=trace), 0)
    assert (first.twin, twin.twin, other.twin) == ("", "0", "")
    assert ledger.trained == 3
    assert ledger.best(3, 0) == ledger.to_promote(0, 1.0) == [first, other]
    assert ledger.leader() is first
    row = ledger.row(Proposal(1, PROGRAM, (), "random"), PROGRAM, "1", Outcome.SCORED, "", None, [])
    assert (row.score, row.detail) == (0.1, "trains exactly like #0")
    assert row.metrics["trace"] == "a"
    assert "trace" not in row.evidence
    ledger.take(first, Score(0.25, per_split=(0.2, 0.3), trace="c"), 1)
    assert first.update().metrics["trace"] == "a", "by its first trainings a loss is known again"


def test_a_committed_round_keeps_numbers_but_no_records():
    ledger = Ledger(never_read)
    entry = Entry(0, "0", 5, 1.0)
    ledger.add(entry, PROGRAM)
    ledger.take(entry, Score(0.25, per_split=(0.2, 0.3), metrics={"ece": 0.1}), 1)
    assert entry.update().metrics == {"ece": 0.1, "worst_split": math.inf, "splits": 2}
    ledger.settle()
    assert (entry.value, entry.rung, entry.outcome, entry.score) == (0.25, 1, Outcome.SCORED, None)


def test_a_ledger_learns_from_who_climbs_and_is_the_same_when_it_is_rebuilt():
    first, again = (Ledger(never_read, climbs=[Climb(), Climb()]) for _ in range(2))
    scores = [(0.5, 0.7, 0.8), (0.4, 0.6, 0.9), (0.3, 0.6), (0.2,)]
    for rung in range(3):
        for number, own in enumerate(scores):
            if rung < len(own):
                if rung == 0:
                    first.add(Entry(number, str(number), 1, 1.0), PROGRAM)
                first.take(first.entries[str(number)], Score(own[rung]), rung)
    assert first.entries["1"].climbed == ((0, 0.4), (1, 0.6))
    assert first.expected(first.entries["1"]) == 0.9  # it stands on the highest rung
    assert first.expected(first.entries["3"]) == pytest.approx(0.2 + 0.2 + 0.2)  # .2 a rung, in the median
    for entry in first:
        copy = Entry(entry.number, entry.key, 1, 1.0)
        again.add(copy, PROGRAM)
        for rung, value in entry.climbed:
            again.take(copy, Score(value), rung)
        again.take(copy, Score(entry.value), entry.rung)
    assert [again.expected(e) for e in again] == [first.expected(e) for e in first]
