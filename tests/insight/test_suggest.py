"""Advice is data: every loss in it exists, every row has a source, and what it claims is measured."""

from __future__ import annotations

import inspect
import re

import pytest

import losssearch as ls
from losssearch import cli
from losssearch.catalogue import everything, find
from losssearch.errors import LossSearchError
from losssearch.insight.suggest import PLAIN, advice, questions, suggestions, traits_of
from losssearch.spaces import load_space, space_names

ROWS = advice()


def test_every_named_loss_is_in_the_catalogue() -> None:
    for row in ROWS:
        assert row.loss in load_space(row.task).losses, row


def test_every_row_has_a_reason_a_source_and_a_known_trait() -> None:
    for row in ROWS:
        assert row.trait in questions()
        assert re.fullmatch(r"[A-Z].*\.", row.reason), row
        assert re.search(r"\b(1[89]|20)\d\d\b", row.source) or row.source.startswith("Common practice"), row
    assert len({(r.task, r.trait, r.loss) for r in ROWS}) == len(ROWS)
    assert {row.trait for row in ROWS} == set(questions())


def test_the_source_of_a_loss_is_among_those_of_the_catalogue_where_both_name_a_paper() -> None:
    """An arXiv number is typed once too often; the same loss has the same paper, or another year's."""
    for row in ROWS:
        known = find(row.loss, row.task)[1].source
        mine, theirs = (re.findall(r"arXiv:[\d.]+\d", text) for text in (row.source, known))
        if mine and theirs and row.source.split()[0] == known.split()[0]:
            assert set(mine) <= set(theirs), row


def test_each_trait_is_a_flag_of_the_command_and_each_flag_a_trait() -> None:
    flags = {
        n.replace("_", "-")
        for n, p in inspect.signature(cli.suggest).parameters.items()
        if p.default is False
    }
    assert flags - {"json"} == set(questions()) - {PLAIN}


def test_where_to_begin_comes_last_and_alone_without_traits() -> None:
    assert [s.loss for s in suggestions("multiclass")] == ["cross_entropy"]
    found = ls.suggest("regression", ["outliers"])
    assert [found[0].loss, found[-1].loss] == ["huber", "mse"]
    assert found[-1].traits == (PLAIN,)


def test_a_loss_that_serves_two_traits_comes_first_with_both_reasons() -> None:
    found = suggestions("multiclass", ["imbalance", "hard-samples"])
    assert found[0].loss == "class_balanced_focal"
    assert found[0].traits == ("imbalance", "hard-samples")
    assert len(found[0].reasons) == len(found[0].sources) == 2
    assert sorted(s.loss for s in found) == sorted({s.loss for s in found})


def test_a_task_without_advice_gives_its_catalogue() -> None:
    tasks = {row.task for row in ROWS}
    for name in space_names():
        if name not in tasks:
            space, found = load_space(name), suggestions(name)
            assert {s.loss for s in found} == {loss.name for loss in space.losses.values() if loss.seed}
            assert all(s.reasons[0] and s.sources[0] for s in found)
            assert traits_of(name) == {}


def test_every_suggestion_can_be_shown() -> None:
    known = {f"{space.name}/{loss.name}" for space, loss in everything()}
    for task in {row.task for row in ROWS}:
        assert {s.reference for s in suggestions(task, list(traits_of(task)))} <= known


# What the advice claims, measured.


def said(explain, task: str, trait: str, sentences: set[str]) -> dict[str, bool]:
    losses = [row.loss for row in ROWS if (row.task, row.trait) == (task, trait)]
    found = {loss: {s.name for s in explain(f"{task}/{loss}").sentences} for loss in losses}
    return {loss: bool(names & sentences) for loss, names in found.items()}


def test_what_is_advised_against_outliers_limits_their_pull(explain) -> None:
    assert all(said(explain, "regression", "outliers", {"bounded", "levels_off", "gives_up"}).values())
    for row in ROWS:
        if (row.task, row.trait) == ("regression", "outliers"):
            pull = explain(f"regression/{row.loss}").weights[row.loss]["pull"]
            assert pull < 0.02  # of ten far residuals among a thousand; squares give them .18


def test_what_is_advised_against_label_noise_gives_up_on_hopeless_samples(explain) -> None:
    found = said(explain, "multiclass", "label-noise", {"gives_up", "bounded_value"})
    # The correction needs no giving up, as it knows the noise; that of nce_mae is a sum of two.
    assert {loss for loss, so in found.items() if not so} == {"forward_corrected"}
    assert all(said(explain, "binary", "label-noise", {"gives_up"}).values())


def test_what_is_advised_for_hard_samples_concentrates_on_them(explain) -> None:
    for task in ("multiclass", "binary"):
        assert all(said(explain, task, "hard-samples", {"pulls"}).values())
        assert all(said(explain, task, "hard-samples", {"fades"}).values())


def test_what_is_advised_where_only_the_decision_counts_stops(explain) -> None:
    for task in ("multiclass", "binary"):
        assert all(said(explain, task, "decision-only", {"stops"}).values())


def test_what_is_advised_as_smooth_has_no_kink(explain) -> None:
    assert all(said(explain, "regression", "smooth", {"smooth"}).values())


@pytest.mark.parametrize(
    ("task", "traits", "says"),
    [
        ("multiclss", [], "'multiclass'"),
        ("multiclass", ["outliers"], "There is advice on imbalance, label-noise"),
        ("regression", ["outlier"], "Did you mean 'outliers'"),
    ],
)
def test_what_is_unknown_is_told_in_one_line(task, traits, says) -> None:
    with pytest.raises(LossSearchError, match=says) as caught:
        suggestions(task, traits)
    assert "\n" not in str(caught.value)
