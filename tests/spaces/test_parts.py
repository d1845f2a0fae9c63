"""A loss of several parts: a pair of losses trained each on its own, or one loss and what it is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from losssearch.catalogue import with_constants
from losssearch.errors import FormulaError, SpaceError, UsageError
from losssearch.execution.module import module_for
from losssearch.execution.reference import evaluate
from losssearch.language.candidate import Candidate
from losssearch.language.canonical import candidate_key, structure_key
from losssearch.records import candidate_of_row, candidate_row, program_of_row
from losssearch.search import Search
from losssearch.spaces import Space, load_space

GAN = """
title     = "Two players"
task      = "mine"
axes      = ["n", "m"]
sets      = ["", "n", "m"]
head      = "mean(body, 'm')"
better    = "tell real from made"
reference = "non_saturating"
screens   = ["facts"]

[inputs]
d_real = { axes = "n", role = "prediction", range = [-30, 30] }
d_fake = { axes = "m", role = "prediction", range = [-30, 30] }

[search]
primitives = ["add", "mul", "softplus"]
terminals  = ["d_fake"]
sets       = ["", "m"]
nodes      = 8
depth      = 4

[losses.non_saturating]
title  = "The generator raises what it is told is real"
source = "Goodfellow et al. 2014, arXiv:1406.2661"

[losses.non_saturating.parts]
discriminator = "mean(softplus(-d_real), 'n') + mean(softplus(d_fake), 'm')"
generator     = "mean(softplus(-d_fake), 'm')"

[losses.weighted]
title     = "Two summands"
constants = { weight = { value = 2, low = 0, high = 10 }, slope = { value = 1, low = 0, high = 2 } }
source    = "ours"

[losses.weighted.parts]
real = "mean(softplus(-d_real), 'n')"
fake = "mean(slope * softplus(d_fake), 'm')"
loss = "real + weight * fake"
"""


def written(folder: Path, text: str = GAN) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return load_space(written(tmp_path))


@pytest.fixture
def data() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {name: torch.randn(4, generator=g, dtype=torch.float64) for name in ("d_real", "d_fake")}


def test_a_gan_is_a_candidate_of_two_programs(space, data):
    loss = space.loss("non_saturating")
    assert list(loss.candidate.parts) == ["discriminator", "generator"]
    value = evaluate(loss.candidate.parts["generator"], data)
    torch.testing.assert_close(value, -torch.log(torch.sigmoid(data["d_fake"])).mean())
    assert loss.candidate.text == (
        "discriminator = mean(softplus(-d_real), 'n') + mean(softplus(d_fake), 'm')\n"
        "generator = mean(softplus(-d_fake), 'm')"
    )
    assert loss.candidate.inputs == {"d_real", "d_fake"}
    assert loss.requires == ()


def test_a_part_called_loss_speaks_of_the_others_and_is_what_is_trained(space, data):
    loss = space.loss("weighted")
    parts = loss.candidate.parts
    values = {name: evaluate(program, data) for name, program in parts.items()}
    torch.testing.assert_close(values["loss"], values["real"] + 2 * values["fake"])
    assert loss.program is parts["loss"]
    assert loss.candidate.key == candidate_key(loss.program)
    assert loss.candidate.structure_key == structure_key(loss.program)
    assert (loss.candidate.text, loss.candidate.size) == (loss.program.text, loss.program.size)
    assert loss.program.inputs == {"d_real", "d_fake"}


def test_constants_are_set_in_every_part(space, data):
    candidate = space.loss("weighted").candidate
    moved = candidate.with_constants({"weight": 5, "slope": 0.5})
    values = {name: evaluate(program, data) for name, program in moved.parts.items()}
    torch.testing.assert_close(values["loss"], values["real"] + 5 * values["fake"])
    assert moved.structure_key == candidate.structure_key
    assert moved.constant_values == {"weight": 5, "slope": 0.5}
    with pytest.raises(FormulaError, match="no part has a constant 'wight'"):
        candidate.with_constants({"wight": 1})


@pytest.mark.parametrize("name", ["non_saturating", "weighted"])
def test_it_comes_back_from_a_row_as_it_was(space, name):
    loss = space.loss(name)
    row = candidate_row(loss.candidate, space, name=name)
    assert row.key == loss.candidate.key
    assert set(row.parts) == set(loss.candidate.parts)
    again = candidate_of_row(row, space)
    assert again.key == loss.candidate.key
    assert {n: p.text for n, p in again.parts.items()} == row.parts
    assert candidate_row(again, space, name=name) == row


def test_a_row_of_parts_that_are_trained_apart_has_no_single_program(space):
    row = candidate_row(space.loss("non_saturating").candidate, space)
    with pytest.raises(FormulaError, match="the parts discriminator, generator, but no 'loss'"):
        program_of_row(row, space)
    one = space.loss("weighted")
    assert program_of_row(candidate_row(one.candidate, space), space) == one.program


def test_where_one_formula_is_wanted_a_pair_says_so_in_one_line(space):
    loss = space.loss("non_saturating")
    for attempt in (lambda: loss.program, lambda: with_constants(loss, {})):
        with pytest.raises(UsageError, match="'non_saturating' is no single formula: its parts"):
            attempt()


def test_a_search_starts_from_single_formulas_only(space):
    assert [loss.name for loss in space.seeds] == ["weighted"]


def test_a_search_without_a_single_formula_says_so(tmp_path):
    text = load_space("multiclass").path.read_text(encoding="utf-8")
    apart = (
        "[losses.cross_entropy]\ntitle = 'Apart'\nsource = 'ours'\n"
        "parts = { one = \"mean(-log_pt, 'n')\", other = \"mean(1 - p_t, 'n')\" }\n"
    )
    path = written(tmp_path, text[: text.index("[losses.cross_entropy]")] + apart)
    search = Search(path, "digits-noisy", storage=f"sqlite:///{tmp_path}/l.db", workers="inline")
    with pytest.raises(UsageError, match="has no loss of one formula to start from"):
        search.run(candidates=1)


def test_a_task_without_a_convention_is_no_module_and_says_what_to_do(space):
    with pytest.raises(UsageError, match=r"the task 'mine' is no module loss\(input, target\)"):
        module_for(space.loss("weighted").program, space.task)


FAULTS = {
    "neither": (
        GAN[GAN.index("[losses.weighted.parts]") :], "",
        "[losses.weighted]: A loss has a `formula`, or a table of `parts`.",
    ),
    "both": (
        'source    = "ours"', "source = 'ours'\nformula = \"mean(d_fake, 'm')\"",
        "[losses.weighted]: A loss has a `formula`, or a table of `parts`.",
    ),
    "a part that does not type": (
        "mean(softplus(-d_fake), 'm')", "mean(softplus(-d_fake), 'n')",
        "[losses.non_saturating] parts.generator: mean over 'n'",
    ),
    "a part that is no number": (
        "real = \"mean(softplus(-d_real), 'n')\"", 'real = "softplus(-d_real)"',
        "[losses.weighted] parts.real: a loss is one number",
    ),
    "an unknown part": ("real + weight", "reel + weight", "[losses.weighted] parts.loss: no input, def"),
    "a part named like an input": ("generator     =", "d_fake        =", "parts.d_fake: The name is taken."),
    "a part named like a word": ("generator     =", "softplus      =", "parts.softplus: The name is taken."),
    "a constant that no part uses": ("weight * fake", "fake", "constants.weight: The formula does not"),
    "nothing predicted": ('role = "prediction"', 'role = "target"', "One input at least has the role"),
    "an unknown task": (
        'task      = "mine"', 'task      = "main"', "task: No task is called 'main'. Did you mean 'mine'?",
    ),
    "a shipped task of other inputs": (
        'task      = "mine"', 'task      = "regression"',
        "'regression' has pred over 'n' of role prediction, but here is d_real over 'n', d_fake over 'm'.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_file_section_and_key(tmp_path, fault):
    old, new, expected = FAULTS[fault]
    assert old in GAN
    path = written(tmp_path, GAN.replace(old, new))
    with pytest.raises(SpaceError) as caught:
        load_space(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert told.isprintable()
    assert expected in told, told


def test_parts_with_two_meanings_of_a_constant_are_refused(space):
    part = space.loss("weighted").candidate.parts["loss"]
    with pytest.raises(FormulaError, match="the constant 'weight' must be the same in all parts"):
        Candidate({"a": part, "b": part.with_constants({"weight": 3})})
