"""What the README promises: its code runs as it stands, its tables are complete, its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import typer

import losssearch as ls
from losssearch import cli
from losssearch.proxies.registry import load_proxy
from losssearch.search import Search
from losssearch.spaces import load_space

HOUSE = Path(__file__).parents[1]
README = (HOUSE / "README.md").read_text(encoding="utf-8")
OWN_TASK = HOUSE / "examples" / "own_task.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def python(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the quick start was run, as a script and unguarded."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "quick.py").write_text(blocks("python")[0])
    done = python("quick.py", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stdout)
    return folder


def test_the_quick_start_is_ten_lines_and_prints_a_formula(quick: Path) -> None:
    lines = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(lines) <= 10
    formula, score = (quick / "said").read_text().strip().rsplit(" ", 1)
    assert "'n')" in formula
    assert 0 < float(score) < 1


def test_the_other_calls_work() -> None:
    assert ls.loss("focal", gamma=2.0).formula
    (call,) = re.findall(r"`(ls\.parse\([^`]*\))`", README.replace("\n", " "))
    assert call == """ls.parse("mean(-(1 - p_t)**g * log(p_t), 'n')", constants={"g": 2.0})"""
    assert ls.parse("mean(-(1 - p_t)**g * log(p_t), 'n')", constants={"g": 2.0}).size > 3


def test_the_table_of_commands_is_complete() -> None:
    if not any(c.name == "dashboard" for c in cli.app.registered_commands):
        cli._add_plugins()
    known = set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    table = README.partition("## At the terminal")[2].partition("## ")[0]
    assert set(re.findall(r"^\| `([a-z]+)", table, re.M)) - {"losssearch"} == known


def test_every_link_and_every_named_file_is_there() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (HOUSE / link).exists(), link
    for place in re.findall(r"`((?:losssearch|search_spaces|tests|examples)/[\w./]*)`", README):
        assert (HOUSE / place).exists(), place


def test_what_make_is_asked_for_is_in_the_makefile() -> None:
    makefile = (HOUSE / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_pinned_torch_is_the_one_named() -> None:
    pins = (HOUSE / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for named in set(re.findall(r"torch==[\d.]+\d", README)):
        assert named in pins


def test_a_copied_space_takes_the_new_loss(tmp_path: Path) -> None:
    (table,) = blocks("toml")
    assert tomllib.loads(table)
    mine = tmp_path / "mine.toml"
    mine.write_text((HOUSE / "search_spaces" / "multiclass.toml").read_text() + "\n" + table)
    assert load_space(mine).loss("tempered").program.constant_values == {"temperature": 2.0}


def test_the_lines_on_own_tasks_are_those_of_the_example() -> None:
    example = re.sub(r"\s+", "", OWN_TASK.read_text(encoding="utf-8"))
    for line in re.findall(r"^(?:@ls\.blackbox.*|def \w+\(.*?\):)", "\n".join(blocks("python")), re.M):
        assert re.sub(r"\s+", "", line) in example, line


@pytest.mark.parametrize(("task", "candidates"), [("wine", 12), ("loop", 3)])
def test_the_own_task_is_searched_and_audited(task: str, candidates: int, tmp_path: Path) -> None:
    from losssearch.audit.audit import Audit

    storage = f"sqlite:///{tmp_path}/losses.db"
    start = ["cross_entropy", "brier"]
    proxy = f"{OWN_TASK}:{task}"
    assert load_proxy(proxy).space == "multiclass"
    search = Search("multiclass", proxy, "random", start, storage, task, workers="inline")
    result = search.run(candidates=candidates)
    assert result.best.score is not None
    assert 0 < result.best.score < 0.6
    report = Audit(task, storage, splits=2, settings=1, workers="inline").run()
    assert {row.kind for row in report.rows} == {"found", "classical"}
    assert all(0 <= row.error <= 1 for row in report.rows)


def test_the_picture_is_drawn_from_a_search(quick: Path) -> None:
    words = ["quick/1", "--to", "curves.svg"]
    done = python(HOUSE / "examples" / "draw_curves.py", *words, cwd=quick)
    assert done.returncode == 0, done.stderr
    for file in (quick / "curves.svg", HOUSE / "docs" / "curves.svg"):
        root = ET.parse(file).getroot()
        curves = [e for e in root.iter("{http://www.w3.org/2000/svg}path") if "line" in e.get("class", "")]
        assert len(curves) >= 4
        assert all("nan" not in e.get("d", "") for e in curves)


def test_a_picture_of_nothing_is_one_line(quick: Path) -> None:
    done = python(HOUSE / "examples" / "draw_curves.py", "nothing/1", cwd=quick)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nothing" in done.stderr
