"""One string names any loss: classical, changed, a part, found, or written on the spot."""

from __future__ import annotations

import pytest

import losssearch as ls
from losssearch.errors import LossSearchError, UsageError
from losssearch.insight.lookup import find_loss, read_setting, split_list
from losssearch.search import Search
from losssearch.spaces import load_space

NOWHERE = "sqlite:////no/such/place.db"


def test_a_name_means_the_first_space_that_has_it_unless_one_is_named() -> None:
    assert find_loss("focal", NOWHERE).space.name == "multiclass"
    assert find_loss("binary/focal", NOWHERE).space.name == "binary"
    assert find_loss("focal", NOWHERE, "binary").space.name == "binary"


def test_constants_stand_behind_the_name_or_beside_it() -> None:
    written = find_loss("focal(gamma=5, alpha=1)", NOWHERE)
    given = find_loss("focal", NOWHERE, constants={"gamma": 5, "alpha": 1})
    assert written.program == given.program
    assert written.program.constant_values == {"gamma": 5.0, "alpha": 1.0}
    assert find_loss("focal", NOWHERE).program.constant_values == {"gamma": 2.0, "alpha": 0.25}


def test_a_formula_speaks_the_words_of_its_space() -> None:
    formula = "mean(delta**2 * (sqrt(1 + square(r / delta)) - 1), 'n')"
    mine = find_loss(formula, NOWHERE, "regression", {"delta": (1.0, 0.01, 100.0)})
    assert mine.key == find_loss("pseudo_huber", NOWHERE).key
    with pytest.raises(LossSearchError, match="r"):
        find_loss(formula, NOWHERE, "multiclass", {"delta": 1.0})


def test_a_found_loss_is_explained_as_it_was_found(tmp_path) -> None:
    storage = f"sqlite:///{tmp_path}/losses.db"
    search = Search("binary", "breast-cancer-noisy", start=["bce"], storage=storage, name="mine")
    search.workers = "inline"
    best = search.run(candidates=2).best
    by_name = ls.explain("mine/1", storage=storage, against=["hinge"])
    assert by_name.loss.formula == best.formula
    assert by_name.reference.candidate.name == "bce"
    assert ls.explain(best).sentences == by_name.sentences


def test_a_program_is_explained_in_its_space() -> None:
    program = ls.parse("mean(abs(r), 'n')", space="regression")
    assert ls.explain(program, space="regression").loss.key == find_loss("regression/mae", NOWHERE).key
    with pytest.raises(UsageError, match="space="):
        ls.explain(program)


def test_a_users_own_space_is_looked_in_first(tmp_path) -> None:
    text = load_space("binary").path.read_text()
    own = tmp_path / "own.toml"
    own.write_text(text + "\n[losses.mine]\ntitle='T'\nformula=\"mean(relu(2 - margin), 'n')\"\nsource='S'\n")
    found = ls.explain("mine", space=own, against=["hinge"])
    assert found.loss.formula == "mean(relu(2 - margin), 'n')"
    assert found.others[0].space.name == "own"


def test_others_may_be_names_between_commas() -> None:
    told = ls.explain("focal", against="gce, focal(gamma=5)")
    assert [each.reference for each in told.others] == ["gce", "focal(gamma=5)"]


def test_commas_within_brackets_do_not_divide() -> None:
    assert split_list("mae, focal(gamma=5,alpha=1),mean(abs(r), 'n')") == [
        "mae", "focal(gamma=5,alpha=1)", "mean(abs(r), 'n')",
    ]  # fmt: skip
    assert split_list("") == split_list(" , ") == []


def test_a_setting_is_a_name_and_a_number() -> None:
    assert read_setting(" gamma = 2e-1 ") == ("gamma", 0.2)
    for wrong in ("gamma", "gamma=", "gamma=two", "=2", "gamma=2=3", "gamma=(2)"):
        with pytest.raises(UsageError, match="NAME=NUMBER"):
            read_setting(wrong)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ls.explain("focl", storage=NOWHERE), "^No loss is called 'focl'. Did you mean 'focal'"),
        (lambda: ls.explain("demo/1", storage=NOWHERE), "does not exist"),
        (lambda: ls.explain("binary/focl", storage=NOWHERE), "Did you mean 'focal'"),
        (lambda: ls.explain("focal(gama=2)"), "Did you mean 'gamma'"),
        (lambda: ls.explain("focal(gamma=9)"), r"outside its range \[0, 5\]"),
        (lambda: ls.explain("focal", constants={"gamma": (1.0, 0.0, 2.0)}), "its range stays"),
        (lambda: ls.explain("mean(-log(p_x), 'n')"), "p_x"),
        (lambda: ls.explain("mean(-log(p_t)"), "character"),
        (lambda: ls.explain("focal", against=["regression/mse"]), "cannot be compared"),
        (lambda: ls.explain("focal", against=["mae"] * 5), "At most 4"),
        (lambda: ls.explain("mse", against=["l1_regulariser"]), "does not read the prediction"),
        (lambda: ls.explain("focal", space="binry"), "'binary'"),
        (lambda: ls.explain("focal:generator"), "no part 'generator'"),
        (lambda: ls.explain("__import__('os').system('true')"), "character"),
    ],
)
def test_a_mistake_is_one_line(call, says) -> None:
    with pytest.raises(LossSearchError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
