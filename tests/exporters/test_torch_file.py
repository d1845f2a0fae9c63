"""The exported file is safe, whole or absent, and what it says is what it does."""

from __future__ import annotations

import ast
import json
import os
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from losssearch.errors import ExportError, FormulaError
from losssearch.execution.module import module_for
from losssearch.exporters import as_json, as_latex
from losssearch.exporters.registry import EXPORTERS, export
from losssearch.exporters.sheet import Sheet
from losssearch.language.formula import parse
from losssearch.language.program import Constant
from losssearch.spaces import load_space

SPACE = load_space("multiclass")
SHEET = Sheet(SPACE.loss("focal").program, "multiclass", "multiclass", "focal", "Lin et al. 2017")
HOSTILE = [
    '"""\nimport os; os.system("touch owned")\n"""',
    "'''; raise SystemExit(9) #",
    "\\",
    '\\"""',
    'end with a quote"',
    "line\u2028separator\rand\x00nul\x1b[31m\u202e",
    "{0} {x} %s %(y)s $HOME `id`",
    "x" * 5000,
    "\ud800 lone",
    "import",
    "",
    "123",
    "__init__",
    "Ωmega",
]


def load(path: Path) -> dict[str, Any]:
    return runpy.run_path(str(path), run_name="exported")


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_text_of_users_stays_text(text: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    papers = {text or "key": text, "nested": [text, {"a": text}]}
    sheet = replace(SHEET, name=text, source=text, evidence=papers, facts=papers)
    path = export(sheet, tmp_path / "loss.py")
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    kinds = [type(node).__name__ for node in tree.body]
    plain = ast.parse(EXPORTERS["torch"].render(SHEET))
    assert kinds == [type(node).__name__ for node in plain.body]
    assert sheet.class_name.isidentifier()
    assert sheet.class_name.isascii()
    names = load(path)
    names["main"]()
    assert names[sheet.class_name]().formula == SHEET.program.text
    assert sorted(os.listdir(tmp_path)) == ["loss.py"]


@pytest.mark.parametrize(
    "name", ["lambda", "weight", "forward", "self", "torch", "logits_", "log_p_", "v_1", "x"]
)
def test_constants_may_have_any_name(name: str, tmp_path: Path) -> None:
    formula = f"mean(-log_pt * {name} - {name} * p_t, 'n')"
    program = parse(formula, SPACE.signature, {name: (1.5, 0.0, 4.0)})
    path = export(Sheet(program, "multiclass"), tmp_path / "loss.py")
    names = load(path)
    names["main"]()
    x, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    wanted = module_for(program, "multiclass", **({name: 2.0} if name != "weight" else {}))
    keyword = list(names["FoundLoss"].ranges)
    got = names["FoundLoss"](**({keyword[0]: 2.0} if name != "weight" else {}))
    torch.testing.assert_close(got(x, target), wanted(x, target))


def test_a_constant_with_a_hostile_name_becomes_a_harmless_identifier(tmp_path: Path) -> None:
    program = parse("mean(-a * log_pt, 'n')", SPACE.signature, {"a": 2.0})
    bad = "a=1): import os  # \n"
    steps = tuple(s._replace(data=bad) if s.data == "a" else s for s in program.instructions)
    hostile = replace(program, instructions=steps, constants=(Constant(bad, 2.0),))
    path = export(Sheet(hostile, "multiclass"), tmp_path / "loss.py")
    load(path)["main"]()
    assert "import os" not in "".join(
        ast.unparse(n) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import)
    )


def test_an_existing_file_is_replaced_only_on_demand(tmp_path: Path) -> None:
    place = tmp_path / "loss.py"
    place.write_text("mine")
    with pytest.raises(ExportError, match="exists"):
        export(SHEET, place)
    assert place.read_text() == "mine"
    export(SHEET, place, force=True)
    assert "class FocalLoss" in place.read_text()


def test_a_folder_gets_a_file_named_after_the_loss(tmp_path: Path) -> None:
    assert export(SHEET, tmp_path, "json").name == "focal_loss.json"


def test_a_missing_folder_is_an_export_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No such file or directory"):
        export(SHEET, tmp_path / "no" / "loss.py")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: Any) -> None:
    import losssearch.exporters.registry as registry

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(registry.os, "fsync", full)
    (tmp_path / "loss.py").write_text("mine")
    with pytest.raises(ExportError, match="No space left"):
        export(SHEET, tmp_path / "loss.py", force=True)
    assert os.listdir(tmp_path) == ["loss.py"]
    assert (tmp_path / "loss.py").read_text() == "mine"


def test_an_unknown_format_names_those_there_are() -> None:
    with pytest.raises(ExportError, match="torch, json, latex"):
        export(SHEET, "x", "onnx")


def test_learnable_constants_of_a_file_are_parameters(tmp_path: Path) -> None:
    loss = load(export(SHEET, tmp_path / "loss.py"))["FocalLoss"](learnable=True)
    loss(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])).backward()
    slopes = [p.grad for p in loss.parameters()]
    assert len(slopes) == 2
    assert all(s is not None and s != 0 for s in slopes)
    twin = module_for(SHEET.program, "multiclass", learnable=True)
    assert dict(loss.state_dict()) == dict(twin.state_dict())


def test_a_constant_outside_its_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gamma"):
        load(export(SHEET, tmp_path / "loss.py"))["FocalLoss"](gamma=7.0)


def test_the_self_test_notices_a_changed_formula(tmp_path: Path) -> None:
    path = export(SHEET, tmp_path / "loss.py")
    text = path.read_text()
    assert text.count("log_softmax(-1)") == 1
    path.write_text(text.replace("log_softmax(-1)", "log_softmax(-1) * 1.001"))
    with pytest.raises(AssertionError):
        load(path)["main"]()


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("(log_p * target).sum(-1, keepdim=True)", "log_p.sum(-1, keepdim=True)"),
        ("gather(1, target)", "amax(1, True)"),
    ],
    ids=["rows", "indices"],
)
def test_the_self_test_walks_both_paths(path: str, wrong: str, tmp_path: Path) -> None:
    file = export(SHEET, tmp_path / "loss.py")
    text = file.read_text()
    assert text.count(path) == 1
    file.write_text(text.replace(path, wrong))
    with pytest.raises(AssertionError):
        load(file)["main"]()


def test_a_file_on_class_indices_never_makes_rows(tmp_path: Path) -> None:
    loss = load(export(SHEET, tmp_path / "loss.py"))["FocalLoss"]()
    x, target = torch.randn(64, 50, requires_grad=True), torch.randint(50, (64,))
    with torch.profiler.profile(record_shapes=True) as profile:
        loss(x, target)
    full = [e.name for e in profile.events() if e.input_shapes and e.input_shapes[0] == [64, 50]]
    assert sorted(set(full)) == ["aten::_log_softmax", "aten::gather", "aten::log_softmax"]


def test_a_loss_that_reads_no_target_has_one_path(tmp_path: Path) -> None:
    program = parse("mean(sum(p * log_p, 'c'), 'n')", SPACE.signature)
    path = export(Sheet(program, "multiclass"), tmp_path / "loss.py")
    load(path)["main"]()
    assert "one-hot rows or soft labels, else" not in path.read_text()


def test_a_coupled_loss_is_exported_too(tmp_path: Path) -> None:
    program = parse("mean(-log_pt, 'n') * mean(1 - p_t, 'n')", SPACE.signature)
    names = load(export(Sheet(program, "multiclass", name="pair"), tmp_path / "loss.py"))
    names["main"]()
    x, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    loss = names["PairLoss"]()
    torch.testing.assert_close(loss(x, target), module_for(program, "multiclass")(x, target))
    with pytest.raises(ValueError, match="no sum over samples"):
        loss.sum_and_count(x, target)


def test_json_that_was_tampered_with_is_checked_anew() -> None:
    data = json.loads(as_json.render(SHEET))
    assert as_json.read(json.dumps(data), SPACE.signature) == SHEET.program
    with pytest.raises(FormulaError):
        as_json.read(json.dumps({**data, "formula": "__import__('os')"}), SPACE.signature)
    for wrong in ("[]", "{", "null", json.dumps({**data, "version": 9})):
        with pytest.raises(ExportError):
            as_json.read(wrong, SPACE.signature)


def test_latex_prints_hostile_text_as_text() -> None:
    text = as_latex.render(replace(SHEET, source=r"\input{/etc/passwd} $x$ 50% & _"))
    assert r"\input{/etc" not in text.replace("% \\input{/etc", "")
    assert r"\begin{align*}" in text
