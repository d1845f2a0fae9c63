"""A known loss is found by its name, and takes its constants within their ranges."""

from __future__ import annotations

import math

import pytest

from losssearch.catalogue import everything, find, with_constants
from losssearch.errors import SpaceError, UsageError
from losssearch.spaces import load_space


def test_every_loss_of_every_shipped_space_is_found():
    for space, loss in everything():
        assert find(loss.name, space.name) == (space, loss)
        assert find(loss.name, space) == (space, loss)


def test_a_bare_name_means_the_first_space_in_order():
    assert find("focal")[0].name == "multiclass"
    assert find("mae")[0].name == "multiclass"
    assert find("hinge")[0].name == "binary"
    assert find("huber")[0].name == "regression"


def test_a_space_chooses_between_losses_of_one_name():
    space, loss = find("focal", space="binary")
    assert space is load_space("binary")
    assert loss is not find("focal")[1]


def test_a_space_may_be_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    text = load_space("binary").path.read_text(encoding="utf-8")
    path.write_text(text.replace("[losses.bce]", "[losses.my_bce]").replace('"bce"', '"my_bce"'))
    assert find("my_bce", path)[1].name == "my_bce"
    assert find("my_bce", str(path))[0].name == "mine"


def test_an_unknown_loss_is_told_with_the_likely_one():
    with pytest.raises(UsageError, match=r"No loss is called 'focall'\. Did you mean 'focal'\?"):
        find("focall")
    with pytest.raises(UsageError, match=r"No loss is called 'zzz'\. `losssearch losses` lists all \d+\."):
        find("zzz")
    with pytest.raises(SpaceError, match="'regression' has no loss 'focal'"):
        find("focal", "regression")
    with pytest.raises(SpaceError, match="Did you mean 'binary'"):
        find("focal", "binry")


def test_constants_are_set_and_the_others_kept():
    _, loss = find("focal")
    assert with_constants(loss, {"gamma": 3}).constant_values == {"alpha": 0.25, "gamma": 3.0}
    assert with_constants(loss, {}) == loss.program
    assert loss.program.constant_values["gamma"] == 2.0


def test_the_ends_of_a_range_belong_to_it():
    _, loss = find("focal")
    assert with_constants(loss, {"gamma": 0, "alpha": 1.0}).constant_values == {
        "alpha": 1,
        "gamma": 0,
    }


@pytest.mark.parametrize("value", [-0.1, 5.1, math.inf, -math.inf, math.nan, 10**400])
def test_a_constant_outside_its_range_is_refused(value):
    with pytest.raises(UsageError, match="focal") as caught:
        with_constants(find("focal")[1], {"gamma": value})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", ["2", None, True, [2.0], {"value": 2}])
def test_a_constant_that_is_no_number_is_refused(value):
    with pytest.raises(UsageError, match="'gamma' of 'focal' must be a number"):
        with_constants(find("focal")[1], {"gamma": value})


def test_an_unknown_constant_is_told_with_the_likely_one():
    with pytest.raises(UsageError, match=r"'focal' has no constant 'gama'\. Did you mean 'gamma'\?"):
        with_constants(find("focal")[1], {"gama": 2.0})
    with pytest.raises(UsageError, match=r"no constant 'x'\. It has none\."):
        with_constants(find("mse")[1], {"x": 2.0})
