"""The store keeps what it is given, once, and finds it again; on SQLite and on PostgreSQL."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from losssearch.errors import StoreError, UsageError
from losssearch.store.store import EvaluationRow, ScoreUpdate, Store, run_text
from tests.store.make import begin, candidate, commit, key_of, proposal, training

TEXT = st.text(max_size=30)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SLOW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class TestLosses:
    def test_a_loss_comes_back_as_it_was_stored(self, store: Store) -> None:
        row = candidate(1, constants={"c0": [1.0, 0, math.inf]}, scale=0.1 + 0.2, facts={"finite": True})
        assert store.add_candidates([row]) == 1
        (back,) = store.candidates([row.key]).values()
        assert back.created_at is not None
        assert back.created_at.utcoffset() == timedelta(0)
        for name in ("key", "parts", "canonical", "constants", "scale", "facts", "size", "name"):
            assert getattr(back, name) == getattr(row, name)

    def test_a_loss_is_stored_once_and_keeps_its_first_form(self, store: Store) -> None:
        assert store.add_candidates([candidate(1), candidate(1, size=9), candidate(2)]) == 2
        assert store.add_candidates([candidate(1, size=7), candidate(3)]) == 1
        assert store.candidates([key_of(1)])[key_of(1)].size == 9

    def test_what_a_stored_loss_lacks_is_filled_in(self, store: Store) -> None:
        store.add_candidates([candidate(1)])
        store.add_candidates([candidate(1, name="focal", source="Lin", scale=2.0, facts={"a": 1})])
        store.add_candidates([candidate(1, name="other", scale=3.0, facts={"a": 2})])
        back = store.candidates([key_of(1)])[key_of(1)]
        assert (back.name, back.source, back.scale, back.facts) == ("focal", "Lin", 2.0, {"a": 1})

    def test_nothing_at_all_is_fine(self, store: Store) -> None:
        assert store.add_candidates([]) == 0
        assert store.record_evaluations([]) == 0
        assert store.candidates([]) == {}
        assert store.evaluations([], "digits", "quick") == {}
        assert store.known(["no such key"], "digits", "quick") == set()

    def test_more_keys_than_one_statement_takes(self, store: Store) -> None:
        rows = [candidate(n) for n in range(1201)]
        assert store.add_candidates(rows) == 1201
        assert len(store.candidates(row.key for row in rows)) == 1201

    @SLOW
    @given(text=TEXT, plain=PLAIN)
    def test_any_text_and_plain_data_survive(self, store: Store, text: str, plain: Any) -> None:
        number = f"{text}{plain}".encode("utf-8", "replace").hex()
        store.add_candidates([candidate(number, facts={"x": plain}, source=text)])
        back = store.candidates([key_of(number)])[key_of(number)]
        assert back.facts == {"x": plain}
        assert back.source == text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


class TestTrainings:
    def test_a_training_comes_back_as_it_was_stored(self, store: Store) -> None:
        store.add_candidates([candidate(1)])
        run = run_text({"split": 3, "rate": 0.1, "epochs": 30})
        row = training(1, run, metrics={"error": math.nan}, curve=[[10, 0.5], [20, math.inf]])
        assert store.record_evaluations([row]) == 1
        back = store.evaluations([row.candidate_key], "digits", "quick")[row.candidate_key][run]
        assert math.isnan(back.metrics["error"])
        assert back.curve == row.curve
        assert (back.metric, back.outcome, back.seconds) == (0.25, "SCORED", 0.0)

    def test_trainings_are_found_by_loss_proxy_and_protocol(self, store: Store) -> None:
        store.add_candidates([candidate(n) for n in range(4)])
        store.record_evaluations([training(1), training(2, proxy="other"), training(3, protocol="long")])
        keys = [key_of(n) for n in range(4)]
        assert store.known(keys, "digits", "quick") == {key_of(1)}
        assert list(store.evaluations(keys, "digits", "quick")) == [key_of(1)]
        assert set(store.evaluations(keys, "digits")) == {key_of(1), key_of(3)}

    def test_a_result_is_never_overwritten_but_an_accident_is(self, store: Store) -> None:
        store.add_candidates([candidate(1)])
        assert store.record_evaluations([training(1, outcome="DIED", metric=None)]) == 1
        assert store.record_evaluations([training(1, outcome="TIMEOUT", metric=None)]) == 0
        assert store.record_evaluations([training(1, metric=0.5)]) == 1
        assert store.record_evaluations([training(1, metric=0.1), training(1, metric=0.2)]) == 0
        (back,) = store.evaluations([key_of(1)], "digits", "quick")[key_of(1)].values()
        assert back.metric == 0.5

    def test_nan_is_no_metric(self, store: Store) -> None:
        store.add_candidates([candidate(1)])
        store.record_evaluations([training(1, metric=math.nan, outcome="INVALID")])
        (back,) = store.evaluations([key_of(1)], "digits", "quick")[key_of(1)].values()
        assert back.metric is None

    def test_a_training_of_an_unknown_loss_is_refused_whole(self, store: Store) -> None:
        store.add_candidates([candidate(1)])
        with pytest.raises(UsageError, match=r"not in the store. Add it with add_candidates"):
            store.record_evaluations([training(1), training(2)])
        assert store.known([key_of(1)], "digits", "quick") == set()

    def test_one_run_has_one_text(self) -> None:
        assert run_text({"b": 1.0, "a": "x"}) == run_text({"a": "x", "b": 1}) == '{"a":"x","b":1}'


class TestSearches:
    def test_a_search_goes_on_where_it_stopped(self, url: str) -> None:
        with Store.open(url) as store:
            search = begin(store, nodes=3)
            search = commit(store, search, [0.5, None])
            commit(store, search, [0.3])
        with Store.open(url) as store:
            again = begin(store, nodes=3)
            assert (again.rounds, again.proposals, again.state) == (2, 3, {"round": 1})
            assert [row.number for row in store.rounds("demo")] == [0, 1]

    def test_a_round_is_stored_once(self, store: Store) -> None:
        search = begin(store)
        after = commit(store, search, [0.5])
        assert commit(store, search, [0.7, 0.8]) == after  # the copy is stale: round 0 again
        assert [row.score for row in store.proposals("demo")] == [0.5]

    def test_a_gap_is_refused(self, store: Store) -> None:
        search = begin(store)
        with pytest.raises(UsageError, match="Round 2 of 'demo' cannot be stored: 0 rounds are"):
            store.commit_round(search, 2, [], {}, None, 0.0)
        store.add_candidates([candidate(5)])
        with pytest.raises(UsageError, match="must number its proposals from 0 to 0"):
            store.commit_round(search, 0, [proposal(5, 0.1)], {}, None, 0.0)
        assert store.search("demo").rounds == 0

    def test_a_failing_round_leaves_no_trace(self, store: Store) -> None:
        search = begin(store)
        with pytest.raises(UsageError, match="not in the store"):
            store.commit_round(
                search, 0, [proposal(0, 0.1), proposal(1, 0.2)], {}, None, 0.0,
                events=[("round", {})], candidates=[candidate(0)],
            )  # fmt: skip
        assert store.candidates([key_of(0)]) == {}
        assert store.proposals("demo") == []
        assert store.events("demo") == []

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"proxy": "xor"}, "proxy = 'digits', not 'xor'"),
            ({"seed": 1}, "seed = 0, not 1"),
            ({"config": {"nodes": 4}}, "nodes = 3, not 4"),
            ({"config": {}}, "nodes = 3, not None"),
        ],
    )
    def test_another_search_under_the_same_name_is_refused(
        self, store: Store, change: dict[str, Any], told: str
    ) -> None:
        same: dict[str, Any] = {
            "name": "demo", "space": "multiclass", "proxy": "digits",
            "controller": "random", "config": {"nodes": 3, "rounds": 10}, "seed": 0,
        }  # fmt: skip
        store.open_search(**same)
        store.open_search(**same | {"config": {"nodes": 3, "rounds": 20}})
        assert store.search("demo").config == {"nodes": 3, "rounds": 20}
        with pytest.raises(UsageError, match=f"was begun with {told}"):
            store.open_search(**same | change)

    @pytest.mark.parametrize("name", ["", "a/b", "a@b", "-x", "x" * 101, "a b", "ü"])
    def test_a_name_that_a_reference_could_not_hold_is_refused(self, store: Store, name: str) -> None:
        with pytest.raises(UsageError, match="A search cannot be called"):
            begin(store, name)

    def test_events_status_and_audits_are_kept(self, store: Store) -> None:
        search = begin(store)
        store.add_event(search, "note", {"text": "a\x00b"})
        store.commit_round(search, 0, [], {"flat": {"seen": 3}}, [1], 2.5, [("round", {"n": 0})])
        events = store.events("demo")
        assert [row.kind for row in events] == ["note", "round"]
        assert store.events("demo", after=events[0].id, limit=1) == events[1:]
        store.set_status(search, "finished")
        audit = store.add_audit(search, "fresh", [{"loss": "demo/1", "p": 0.03}], {"n": 5})
        assert store.audits("demo") == [audit]
        (listed,) = store.searches()
        assert (listed.status, listed.rounds, listed.state) == ("finished", 1, None)
        (stored,) = store.rounds("demo")
        assert (stored.counts, stored.seconds) == ({"flat": {"seen": 3}}, 2.5)

    def test_an_unknown_search_is_told_with_a_hint(self, store: Store) -> None:
        with pytest.raises(UsageError, match="It holds no search yet"):
            store.leaderboard("demo")
        begin(store)
        with pytest.raises(UsageError, match=r"no search 'dem'. Did you mean 'demo'"):
            store.rounds("dem")

    def test_writing_needs_the_search_to_be_opened_here(self, store: Store) -> None:
        search = begin(store)
        store.close_search(search)
        with pytest.raises(StoreError, match=r"not open for writing here. Call open_search first"):
            commit(store, search, [0.1])


class TestLeaderboard:
    @SLOW
    @given(
        data=st.lists(
            st.tuples(
                st.integers(0, 9),  # which loss
                st.none() | st.sampled_from([0.1, 0.2, 0.3, math.inf, math.nan]),
                st.integers(0, 2),  # rung
            ),
            max_size=25,
        ),
        cut=st.integers(0, 25),
    )
    def test_the_order_is_rung_score_size_number_and_each_loss_comes_once(
        self, store: Store, data: list[tuple[int, float | None, int]], cut: int
    ) -> None:
        name = f"s{len(store.searches())}"
        search = begin(store, name)
        rows = [proposal(n, score, of=loss, rung=rung) for n, (loss, score, rung) in enumerate(data)]
        losses = [candidate(n, size=n % 3) for n in range(10)]
        search = store.commit_round(search, 0, rows[:cut], {}, None, 0.0, candidates=losses)
        store.commit_round(search, 1, rows[cut:], {}, None, 0.0)
        store.close_search(search)
        first: dict[int, tuple[float, float, int, int]] = {}
        for n, (loss, score, rung) in enumerate(data):
            if score is not None and not math.isnan(score):
                first.setdefault(loss, (-rung, score, loss % 3, n))
        wanted = [entry[3] for entry in sorted(first.values())]
        board = store.leaderboard(name, limit=100)
        assert [ranked.proposal.number for ranked in board] == wanted
        assert [ranked.rank for ranked in board] == list(range(1, len(board) + 1))
        part = store.leaderboard(name, limit=2, offset=1)
        assert [ranked.rank for ranked in part] == [r.rank for r in board[1:3]]

    def test_a_new_score_moves_a_loss_and_its_copies(self, store: Store) -> None:
        search = begin(store)
        copy = proposal(2, 0.5, of="copy", same_as=key_of(0), outcome="EQUIVALENT")
        search = store.commit_round(
            search, 0, [proposal(0, 0.5), proposal(1, 0.4), copy], {}, None, 0.0,
            candidates=[candidate(0), candidate(1), candidate("copy")],
        )  # fmt: skip
        assert [r.proposal.number for r in store.leaderboard("demo")] == [1, 0]
        store.update_scores(search, [ScoreUpdate(0, "SCORED", 1, 0.45, {"error": 0.45})])
        assert [r.proposal.number for r in store.leaderboard("demo")] == [0, 1]
        assert store.proposals("demo")[2].score == 0.45
        assert store.proposals("demo")[2].outcome == "EQUIVALENT"
        store.update_scores(search, [ScoreUpdate(0, "DIVERGED", 2, None)])
        assert [r.proposal.number for r in store.leaderboard("demo")] == [1]
        store.commit_round(search, 1, [], {}, None, 0.0, updates=[ScoreUpdate(2, "SCORED", 2, 0.1)])
        assert store.leaderboard("demo", 1)[0].proposal.number == 0
        assert store.outcomes("demo") == {"DIVERGED": 1, "SCORED": 2}

    def test_a_copy_has_the_metrics_of_its_loss_and_never_leads(self, store: Store) -> None:
        search = begin(store)
        first = proposal(0, 0.5, metrics={"ece": 0.1})
        early = proposal(1, 0.5, of="early", same_as=key_of(0), outcome="EQUIVALENT")
        search = store.commit_round(
            search,
            0,
            [replace(early, number=0), replace(first, number=1)],
            {},
            None,
            0.0,
            candidates=[candidate(0)],
        )
        late = proposal(2, 0.5, of=0, outcome="DUPLICATE")
        store.commit_round(search, 1, [late], {}, None, 0.0)
        assert [row.metrics for row in store.proposals("demo")] == [{}, {"ece": 0.1}, {"ece": 0.1}]
        assert [ranked.proposal.number for ranked in store.leaderboard("demo")] == [1]

    def test_a_rejected_proposal_needs_no_stored_loss_until_it_gets_a_score(self, store: Store) -> None:
        search = store.commit_round(begin(store), 0, [proposal(0, None, size=7)], {}, None, 0.0)
        assert store.candidates([key_of(0)]) == {}
        found = store.find("demo@0").candidate
        assert (found.key, found.size, found.space) == (key_of(0), 7, "multiclass")
        with pytest.raises(UsageError, match="not in the store"):
            store.update_scores(search, [ScoreUpdate(0, "SCORED", 1, 0.1)])
        store.add_candidates([candidate(0)])
        store.update_scores(search, [ScoreUpdate(0, "SCORED", 1, 0.1)])
        assert [ranked.proposal.number for ranked in store.leaderboard("demo")] == [0]

    def test_updating_a_proposal_that_does_not_exist_is_refused(self, store: Store) -> None:
        search = begin(store)
        with pytest.raises(UsageError, match="has no proposal 7 to give a score"):
            store.update_scores(search, [ScoreUpdate(7, "SCORED", 1, 0.1)])


class TestReferences:
    @pytest.fixture
    def filled(self, store: Store) -> Store:
        commit(store, begin(store), [0.5, None, 0.2])
        store.add_candidates(
            [
                candidate("f", name="focal"),
                candidate("c", name="brier"),
                candidate("d", name="brier", space="dense"),
            ]
        )
        return store

    def test_every_kind_of_reference_finds_its_loss(self, filled: Store) -> None:
        first = filled.find("demo/1")
        assert first.proposal is not None
        assert (first.search, first.proposal.number) == ("demo", 2)
        assert filled.find("demo@1").candidate.key == key_of(1)
        assert filled.find(key_of(0)[:8].upper()).candidate.key == key_of(0)
        assert filled.find("focal").candidate.key == key_of("f")
        assert filled.find("dense/brier").candidate.key == key_of("d")

    @pytest.mark.parametrize(
        ("reference", "told"),
        [
            ("demo/3", "has no rank 3"),
            ("demo/0", "has no rank 0"),
            ("demo@3", "'demo' has 3 proposals"),
            ("dmo/1", "Did you mean 'demo'"),
            ("demo", "is a search. Write demo/1"),
            ("focl", "Did you mean 'focal'"),
            ("brier", "may mean multiclass/brier, dense/brier"),
            ("abc", "at least 6 characters of a key"),
            ("", "holds no loss ''"),
            ("demo/-1", "holds no loss"),
        ],
    )
    def test_a_reference_that_finds_nothing_says_why(self, filled: Store, reference: str, told: str) -> None:
        with pytest.raises(UsageError) as caught:
            filled.find(reference)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_key_that_is_not_unique_is_told(self, store: Store) -> None:
        rows = [candidate(n, key=f"abcdef{n:026x}") for n in range(6)]
        store.add_candidates(rows)
        with pytest.raises(UsageError, match=r"'abcdef' may mean .* and 2 more"):
            store.find("abcdef")


def test_the_cost_of_a_round_does_not_grow_with_the_search(store: Store) -> None:
    """Counts statements, and asks SQLite whether any of them walks through a whole table."""
    search = begin(store)
    statements: list[tuple[str, Any]] = []

    @event.listens_for(store.engine, "before_cursor_execute")
    def listen(_c: Any, _k: Any, statement: str, parameters: Any, _x: Any, many: bool) -> None:
        statements.append((statement, parameters[0] if many else parameters))

    def one_round(search: Any) -> Any:
        losses = [candidate(n) for n in range(search.proposals, search.proposals + 20)]
        store.add_candidates(losses)
        store.known([loss.key for loss in losses], "digits", "quick")
        store.record_evaluations(
            EvaluationRow(loss.key, "digits", "quick", f"{k}", "SCORED", 0.1)
            for loss in losses
            for k in range(3)
        )
        search = commit(store, search, [n / 7 for n in range(20)])
        store.leaderboard("demo", 5)
        return search

    search = one_round(search)
    first = len(statements)
    for _ in range(5):
        search = one_round(search)
    assert len(statements) == 6 * first
    if store.engine.dialect.name == "sqlite":
        with store.reading() as connection:
            connection.exec_driver_sql("SELECT 1")
            for statement, parameters in statements[-first:]:
                if statement.startswith(("SELECT", "UPDATE")):
                    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                    for step in plan:
                        assert not re.match("SCAN (?!CONSTANT)", step[3]), f"{step[3]}: {statement}"
                        if "ORDER BY" not in statement:  # or it would walk through all that was ever scored
                            assert "ix_ls_proposal_board" not in step[3], statement
                        if "TEMP B-TREE" in step[3] and "ls_proposal" in statement:
                            assert "PART OF" in step[3] or "LAST" in step[3]  # only the ties are sorted
