"""A space file that loads is right; one that does not says in one line where and what."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from losssearch.errors import SpaceError
from losssearch.language.program import program_of
from losssearch.language.sampling import Sampler
from losssearch.language.signature import Role
from losssearch.language.term import name as named
from losssearch.space_file import MAX_BYTES
from losssearch.spaces import load_space, space_names

SHIPPED = ["multiclass", "binary", "regression"]
FAMILIES = list(space_names())


def text_of(space: str) -> str:
    return load_space(space).path.read_text(encoding="utf-8")


@pytest.fixture
def write(tmp_path):
    """Writes a file and returns its path."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "mine.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def message(path) -> str:
    with pytest.raises(SpaceError) as caught:
        load_space(path)
    text = str(caught.value)
    assert text.isprintable(), "one line"
    assert text.endswith((".", "?")), text
    return text


# What is shipped.


def test_the_shipped_spaces_come_in_the_order_in_which_names_are_looked_up():
    assert list(space_names()[:3]) == SHIPPED


@pytest.mark.parametrize("name", space_names())
def test_every_shipped_space_loads_under_its_name(name):
    space = load_space(name)
    assert (space.name, space.path.name) == (name, f"{name}.toml")
    assert space.reference in space.losses
    assert space.losses[space.reference].seed
    assert space.signature.predictions


@pytest.mark.parametrize("name", FAMILIES)
def test_every_loss_is_one_number_with_a_title_and_a_source(name):
    for key, loss in load_space(name).losses.items():
        assert loss.name == key == key.lower()
        assert all(program.root.axes == 0 for program in loss.candidate.parts.values())
        assert len(loss.title) > 5
        assert len(loss.source) > 5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_seed_needs_nothing_that_a_search_does_not_have(name):
    space = load_space(name)
    reachable = program_inputs(space)
    for loss in space.seeds:
        assert loss.program.inputs <= reachable, loss.name


def program_inputs(space):
    """What the terminals and the head read."""
    found = set()
    known = {*space.signature.inputs, *space.signature.definitions}
    for terminal in {*space.search.terminals, *known & set(re.findall(r"\w+", space.head))}:
        found |= program_of(space.signature, named(terminal), scalar=False).inputs
    return found


@pytest.mark.parametrize("name", SHIPPED)
def test_a_search_can_sample_from_the_grammar(name):
    space = load_space(name)
    sampler = Sampler(space.grammar)
    assert space.signature.axes_names(sampler.body_axes) == ("n",)
    assert len(sampler.right) == len(space.search.rightness) > 0


def test_the_zoo_is_complete():
    owed = {
        "multiclass": """
            cross_entropy kl weighted_cross_entropy label_smoothing focal class_balanced
            class_balanced_focal distance_weighted poly1 gce sce nce nce_mae forward_corrected mae
            brier confidence_penalty ldam logit_adjusted balanced_softmax crammer_singer baikal
            baikal_cma ngl face_search sparse_lsr taylor_glo
        """,
        "binary": """
            bce weighted_bce hinge squared_hinge logistic exponential savage focal asymmetric
            class_balanced inverse_frequency distance_weighted
        """,
        "regression": """
            mse mae huber smooth_l1 pseudo_huber log_cosh pinball expectile cauchy student_t tukey
            welsch barron gaussian_nll poisson_nll msle l1_regulariser l2_regulariser
        """,
        "segmentation": """
            pixel_ce dice ce_dice iou tversky focal_tversky log_cosh_dice lovasz_softmax
        """,
        "boxes": "l1 smooth_l1 iou giou diou ciou focal_iou cse_a cse_b",
        "ranking": "pairwise_hinge pairwise_logistic margin_ranking list_net list_mle",
    }
    for space, names in owed.items():
        assert set(names.split()) <= set(load_space(space).losses)


def test_a_loss_tells_what_it_needs_beside_prediction_and_target():
    multiclass, binary, regression = map(load_space, SHIPPED)
    assert multiclass.loss("cross_entropy").requires == ()
    assert multiclass.loss("ldam").requires == ("prior",)
    assert multiclass.loss("class_balanced").requires == ("count",)
    assert multiclass.loss("forward_corrected").requires == ("transition",)
    assert binary.loss("class_balanced").requires == ("positives", "negatives")
    assert regression.loss("gaussian_nll").requires == ("log_var",)
    assert regression.loss("l2_regulariser").requires == ("params",)


def test_an_input_carries_axes_role_range_and_properties():
    logits = load_space("multiclass").signature.inputs["logits"]
    assert (logits.axes, logits.role) == (("n", "c"), Role.PREDICTION)
    assert (logits.low, logits.high) == (-30, 30)
    assert "simplex over c" in load_space("multiclass").signature.inputs["target"].properties


def test_constants_carry_their_ranges():
    gamma = load_space("multiclass").loss("focal").program.constant("gamma")
    assert (gamma.value, gamma.low, gamma.high, gamma.learnable) == (2, 0, 5, False)


def test_a_search_in_the_multiclass_space_stays_off_the_transition_axes():
    space = load_space("multiclass")
    names = {space.signature.axes_text(axes) for axes in space.search.sets}
    assert names == {"", "c", "n", "n c"}


def test_reading_spaces_loads_neither_torch_nor_numpy():
    code = (
        "import sys, losssearch.catalogue as c; list(c.everything())\n"
        "print({'torch', 'numpy', 'optuna', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_search_spaces_folder_of_the_user_hides_nothing(tmp_path):
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "multiclass.toml").write_text("title = 'mine'")
    code = "import losssearch.spaces as s; print(s.load_space('multiclass').title)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.strip() == "Multiclass classification"


# A file of one's own.


def test_a_copied_file_is_found_by_its_path_and_named_after_it(write):
    space = load_space(write(text_of("binary")))
    assert space.name == "mine"
    assert space.losses.keys() == load_space("binary").losses.keys()


def test_the_loss_that_the_readme_adds_loads(write):
    readme = (load_space("multiclass").path.parent / "README.md").read_text(encoding="utf-8")
    added = readme.split("```toml\n")[1].split("```")[0]
    space = load_space(write(text_of("multiclass") + added))
    assert list(space.losses)[-1] == "tempered"


def test_the_same_content_gives_the_same_object_and_an_edit_another(write):
    path = write(text_of("binary"))
    first = load_space(path)
    assert load_space(str(path)) is first
    write(text_of("binary").replace("value = 0.25", "value = 0.3"))
    assert load_space(path).loss("focal").program.constant("alpha").value == 0.3


def test_comments_and_layout_do_not_change_the_digest_and_all_else_does(write):
    plain = load_space("binary")
    commented = load_space(write("# mine\n\n" + text_of("binary")))
    edited = load_space(write(text_of("binary").replace("nodes      = 24", "nodes      = 25")))
    assert commented.digest == plain.digest != edited.digest
    assert edited.search.nodes == 25


def test_axes_may_be_a_list_or_a_table(write):
    table = text_of("binary")
    listed = table.replace('[axes]\nn = { about = "samples" }\n', "").replace(
        "sets ", 'axes = ["n"]\nsets ', 1
    )
    assert table != listed
    assert load_space(write(listed)).signature.axes == ("n",)
    assert load_space(write(listed)).digest == load_space("binary").digest


def test_primitives_may_carry_weights(write):
    text = text_of("binary")
    start = text.index("primitives = [")
    end = text.index("]", start) + 1
    space = load_space(write(text[:start] + "primitives = { add = 2.5, mul = 1 }" + text[end:]))
    assert dict(space.search.primitives) == {"add": 2.5, "mul": 1.0}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checked_space_cannot_be_changed(name):
    space = load_space(name)
    with pytest.raises(AttributeError):
        space.title = "mine"
    with pytest.raises(TypeError):
        space.losses["mine"] = space.loss(space.reference)
    with pytest.raises(TypeError):
        space.search.mix["role"] = 1.0


# What does not fit.

FAULTS = {
    "unknown key at the top": (
        "title ",
        "titel ",
        "There is no key 'titel'. Did you mean 'title'?",
    ),
    "unknown table": ("[define]", "[defined]", "There is no key 'defined'. Did you mean 'define'?"),
    "unknown key of a loss": (
        'title   = "Cross entropy"\nformula',
        'title   = "Cross entropy"\nformulae',
        "[losses.cross_entropy]: There is no key 'formulae'. Did you mean 'formula'?",
    ),
    "missing key": ('better    = "raise the true logit"\n', "", "The key 'better' is missing."),
    "wrong type": ("nodes      = 24", 'nodes      = "many"', "[search] nodes: "),
    "a truth value is no number": ("nodes      = 24", "nodes      = true", "[search] nodes: "),
    "a fraction is no count": ("nodes      = 24", "nodes      = 24.5", "[search] nodes: "),
    "unknown task": ('= "multiclass"', '= "multiclas"', "Did you mean 'multiclass'?"),
    "unknown axis of an input": (
        '"n c", role = "prediction"',
        '"n k", role = "prediction"',
        "[inputs] logits.axes: No axis is called 'k'. There are n, c, d.",
    ),
    "axes out of order": ('"n c", role = "prediction"', '"c n", role = "prediction"', "'n c'"),
    "unknown axis in sets": (
        '["", "c", "n", "n c", "c d", "n d"]',
        '["n q"]',
        "sets: No axis is called 'q'",
    ),
    "copy of a copy": (
        'd = { copy_of = "c"',
        'd = { copy_of = "e"',
        "[axes] d.copy_of: No axis is called 'e'",
    ),
    "an axis in capitals": ("n = { about", "N = { about", "[axes] N: Write an axis in small letters"),
    "unknown role": ('role = "schedule"', 'role = "schedul"', "Did you mean 'schedule'?"),
    "empty range": (
        "range = [-30, 30]",
        "range = [30, -30]",
        "[inputs] logits.range: `low < high` must hold",
    ),
    "range of nan": (
        "range = [-30, 30]",
        "range = [nan, 30]",
        "[inputs] logits.range: `low < high` must hold",
    ),
    "range of one": ("range = [-30, 30]", "range = [-30]", "[inputs] logits.range: "),
    "unknown property": (
        "simplex over c",
        "simplex over q",
        "[inputs] target.properties: There is no property",
    ),
    "two predictions": (
        'axes = "c d", role = "provided"',
        'axes = "c d", role = "prediction"',
        "logits over 'n c' of role prediction, but here is logits over 'n c', transition over 'c d'",
    ),
    "input named like a size": (
        "progress   =",
        "N   =",
        "[inputs] N: An input cannot be named like",
    ),
    "input named like a word of Python": (
        "progress   =",
        "lambda   =",
        "[inputs] lambda: 'lambda' is no name.",
    ),
    "input of a strange name": ("progress   =", '"a\\nb"   =', "is no name."),
    "definition that does not type": (
        "\"log_softmax(logits, 'c')\"",
        "\"log_softmax(logits, 'd')\"",
        "[define] log_p: log_softmax over 'd'",
    ),
    "definition of a taken name": (
        "p      =",
        "logits      =",
        "[define] logits: the name 'logits' is taken",
    ),
    "definition named like a size": ("p      =", "C      =", "[define] C: The name is taken"),
    "unknown primitive": (
        '"log", "tanh"',
        '"log", "tanhh"',
        "No primitive is called 'tanhh'. Did you mean 'tanh'?",
    ),
    "primitive twice": (
        '"log", "tanh"',
        '"log", "log"',
        "[search] primitives: A primitive is named twice.",
    ),
    "unknown terminal": (
        '"p_t", "log_pt", "margin", "prior"',
        '"p_y"',
        "[search] terminals: No input, definition",
    ),
    "rightness of no terminal": (
        "{ p_t = 1",
        "{ q_t = 1",
        "[search] rightness: No terminal is called 'q_t'",
    ),
    "strange rightness": ("{ p_t = 1", "{ p_t = 3", "[search] rightness.p_t: "),
    "search set outside the space's": (
        'sets       = ["", "c", "n", "n c"]',
        'sets       = ["c", "n c d"]',
        "[search] sets: 'n c d' is not among the `sets` of the space.",
    ),
    "shares that miss one": (
        "role = 0.5",
        "role = 0.6",
        "[search] mix: The shares must sum to 1, but sum to 1.1.",
    ),
    "negative share": ("role = 0.5", "role = -0.5", "[search] mix.role: "),
    "head without body": (
        "mean(body, 'n')",
        "mean(logits, 'n c')",
        "head: A head holds the name 'body' once",
    ),
    "head over no axis": ("mean(body, 'n')", "mean(body, 'q')", "head: no axis is called 'q'"),
    "head that leaves axes": (
        "mean(body, 'n')",
        "mean(body, 'n') * prior",
        "head: a loss is one number",
    ),
    "head with local names": (
        "mean(body, 'n')",
        "a = body; mean(a, 'n')",
        "head: A head has no local names.",
    ),
    "unknown reference": (
        '"cross_entropy"',
        '"cross_entrop"',
        "reference: No loss is called 'cross_entrop'. Did you",
    ),
    "screen twice": ('"facts", "probe"', '"facts", "facts"', "screens: 'facts' stands twice."),
    "formula that cannot be read": (
        "formula = \"mean(-log_pt, 'n')\"",
        "formula = \"mean(-log_pt, 'n'\"",
        "[losses.cross_entropy] formula: ",
    ),
    "formula of an unknown name": (
        "formula = \"mean(-log_pt, 'n')\"",
        "formula = \"mean(-log_pq, 'n')\"",
        "did you mean 'log_p'?",
    ),
    "formula of an unknown primitive": (
        "formula = \"mean(-log_pt, 'n')\"",
        "formula = \"mean(-sofplus(log_pt), 'n')\"",
        "did you mean 'softplus'?",
    ),
    "formula that is no number": (
        "formula = \"mean(-log_pt, 'n')\"",
        'formula = "-log_pt"',
        "a loss is one number, but this still has the axes 'n'",
    ),
    "formula over a forbidden set": (
        "formula = \"mean(-log_pt, 'n')\"",
        "formula = \"sum(logits * transition, 'n c d')\"",
        "which this space does not allow",
    ),
    "constant outside its range": (
        "value = 0.7, low",
        "value = 7, low",
        "[losses.gce] constants.q: constant 'q' = 7",
    ),
    "constant of infinite range": (
        "low = 0.001, high = 1 ",
        "low = 0, high = inf ",
        "must be finite",
    ),
    "constant that is nan": (
        "value = 0.7, low",
        "value = nan, low",
        "[losses.gce] constants.q: constant 'q' must be",
    ),
    "constant without a range": (
        "{ value = 0.7, low = 0.001, high = 1 }",
        "{ value = 0.7 }",
        "constants.q",
    ),
    "constant that is plain": (
        "{ value = 0.7, low = 0.001, high = 1 }",
        "0.7",
        "[losses.gce] constants.q: ",
    ),
    "unknown key of a constant": ("value = 0.7, low", "valeu = 0.7, low", "Did you mean 'value'?"),
    "constant that is not used": (
        "constants = { q =",
        "constants = { q1 =",
        "[losses.gce] formula: ",
    ),
    "constant named like a definition": (
        "constants = { q =",
        "constants = { p_t =",
        "has the name of an input",
    ),
    "constant named like a size": (
        "constants = { q =",
        "constants = { C =",
        "constants.C: The name is taken.",
    ),
    "loss of a strange name": ("[losses.gce]", '[losses."g ce"]', "is no name."),
    "seed that is a word": (
        "seed    = false",
        'seed    = "no"',
        "[losses.forward_corrected] seed: ",
    ),
    "no TOML": ("[inputs]", "[inputs", "at line"),
    "a key twice": ("[define]", "[inputs]\n[define]", "Cannot declare"),
    "a date": ("nodes      = 24", "nodes      = 2026-11-20", "[search] nodes: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_file_section_and_key(write, fault):
    old, new, expected = FAULTS[fault]
    text = text_of("multiclass")
    assert old in text, "the shipped file has changed; change the test"
    path = write(text.replace(old, new, 1))
    told = message(path)
    assert told.startswith(f"{path}: ")
    assert expected in told, told


def test_an_unknown_space_is_told_with_the_likely_one():
    assert "Did you mean 'multiclass'?" in message("multi_class")
    assert "There are multiclass, binary, regression" in message("zzz")
    assert "given by its path" in message("zzz")


def test_a_name_cannot_leave_the_folder():
    assert "no such file" in message("../search_spaces/nothing")
    assert "There are multiclass" in message("..")


def test_a_missing_loss_is_told_with_the_likely_one():
    with pytest.raises(SpaceError, match=r"'multiclass' has no loss 'focl'\. Did you mean 'focal'\?"):
        load_space("multiclass").loss("focl")


# What is hostile.


def test_a_missing_file_a_folder_and_a_null_byte_are_told(tmp_path):
    assert "There is no such file." in message(tmp_path / "none.toml")
    assert "There is no such file." in message(tmp_path)
    assert message("a\0b.toml")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    told = []
    reader = threading.Thread(target=lambda: told.append(message(tmp_path / "pipe.toml")), daemon=True)
    reader.start()
    reader.join(10)
    assert told


@pytest.mark.parametrize(
    "content",
    [
        b"#" * (MAX_BYTES + 1),
        b"x = " + b"[" * 60_000,
        b"x = " + b"{a = " * 20_000,
        b"a" + b".a" * 60_000 + b" = 1",
        b"[" + b"a." * 60_000 + b"a]",
        b"[[a]]\n" * 20_000,
        b"x = " + b"9" * 100_000,
        b"x = 1e999",
        b"\xff\xfe\x00",
        b'"\\u0000\\n\\u2028" = 1',
        b'title = "' + b"long " * 10_000 + b'"',
        b"axes = [[[]]]",
        b"axes = []",
        b"",
    ],
    ids=range(14),
)
def test_hostile_content_is_refused_in_one_line(write, content):
    assert len(message(write(content))) < 700


def test_a_head_that_doubles_itself_is_refused(write):
    doubling = "; ".join(["a = body + body", *["a = a + a"] * 80, "mean(a, 'n')"])
    text = text_of("binary").replace("\"mean(body, 'n')\"", f'"{doubling}"')
    assert "local names" in message(write(text))


def test_a_formula_that_doubles_itself_is_refused(write):
    doubling = "; ".join(["a = logit + target", *["a = a + a"] * 80, "mean(a, 'n')"])
    text = text_of("binary").replace("mean(-log_pt, 'n')", doubling, 1)
    assert "[losses.bce] formula: the formula has over 10^9 nodes" in message(write(text))
