"""Losses of many numbers are shown along lines of their space: slopes, tables, pictures, mistakes."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from losssearch.catalogue import everything
from losssearch.errors import SpaceError
from losssearch.execution.module import MODULES
from losssearch.insight.along import along, lines_of, positions
from losssearch.lines import Line
from losssearch.spaces import ClassicalLoss, Space, load_space

PAIRS = [(space, loss) for space, loss in everything() if space.task not in MODULES and loss.candidate.is_one]
DETACHED = {"ciou", "cse_a", "circle"}  # their slope is not that of their value


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].name}-{pair[1].name}")
def test_the_slope_is_that_of_the_value_and_no_loss_is_flat_everywhere(
    pair: tuple[Space, ClassicalLoss],
) -> None:
    space, loss = pair
    lines = lines_of(loss.program, space.lines)
    assert lines
    steep = False
    for line in lines.values():
        step = (line.high - line.low) * 1e-6
        for x in positions(line, 12)[1:-1]:
            left, here, right = along(loss.program, line, [x - step, x, x + step]), *_at(loss, line, x, step)
            measured = (right.value[0] - left.value[0]) / (2 * step)
            steep |= abs(measured) > 1e-3
            kink = abs(right.slope[0] - left.slope[0]) > 0.01 * max(1, abs(here.slope[0]))
            if loss.name not in DETACHED and not kink:
                assert here.slope[0] == pytest.approx(measured, rel=1e-4, abs=1e-4)
    assert steep


def _at(loss: ClassicalLoss, line: Line, x: float, step: float):
    return along(loss.program, line, [x]), along(loss.program, line, [x + step])


def test_known_places_along_the_lines() -> None:
    boxes, gan = load_space("boxes"), load_space("gan")
    apart = along(boxes.loss("iou").program, boxes.lines["shift"], [3.0])
    assert (apart.value, apart.slope) == ((1.0,), (0.0,))  # IoU teaches nothing once they are apart
    assert along(boxes.loss("giou").program, boxes.lines["shift"], [3.0]).slope[0] == pytest.approx(0.16)
    for name, slope in (("gan_minimax", -0.0025), ("gan_non_saturating", -0.9975)):  # Goodfellow's remark
        bad = along(gan.loss(name).program, gan.lines["maker"], [-6.0])
        assert bad.slope[0] == pytest.approx(slope, abs=1e-4)


def test_ratios_are_to_the_reference_where_it_reads_what_moves(explain) -> None:
    tables = explain("boxes/giou").tables
    apart, near = tables["shift"][1], tables["shift"][3]
    assert apart["value_ratio"] == pytest.approx(1.2)
    assert math.isnan(apart["gradient_ratio"])  # IoU is flat there
    assert near["gradient_ratio"] == pytest.approx(1.0)
    [row, *_] = explain("total_variation").tables["pixel"]  # which `perceptual` does not read
    assert math.isnan(row["value_ratio"])
    assert row["value"] > 0


def test_curvature_is_the_slope_of_the_slope() -> None:
    space = load_space("vae")
    found = along(space.loss("elbo").program, space.lines["pixel"], [0.0])
    assert found.curvature[0] == pytest.approx(0.25)


@pytest.mark.parametrize("space", sorted({pair[0].name for pair in PAIRS}))
def test_every_space_has_tables_and_a_picture(explain, space: str, tmp_path: Path) -> None:
    losses = [loss.name for s, loss in PAIRS if s.name == space][:3]
    found = explain(f"{space}/{losses[0]}", against=[f"{space}/{name}" for name in losses[1:]])
    told = found.to_dict()["lines"]
    assert set(told) == set(found.lines)
    assert all(len(line["rows"]) == 9 for line in told.values())
    assert "gradient" in str(found)
    assert found.no_profile not in str(found)
    picture = found.plot(tmp_path / "loss.svg")
    paths = list(ET.parse(picture).getroot().iter("{http://www.w3.org/2000/svg}path"))
    own = [e for e in paths if "stroke: #2f4fd0" in e.get("style", "")]
    assert len(own) == 3 * len(found.lines)
    assert found.plot(tmp_path / "again.svg").read_bytes() == picture.read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('score = [["x"]]', "s has two sizes"),
        ('score = [["x", 0], [1]]', "different lengths"),
        ('score = ["x", 0]', "lists are wanted"),
        ('score = [["y", 0]]', "y"),
        ("score = [[1, 0]]", "no entry speaks of x"),
        ('scores = [["x", 0]]', "no input is called 'scores'"),
        ('score = [["x", true]]', "no number"),
        ('score = [["__import__(1)", 0]]', "__import__"),
    ],
)
def test_a_wrong_line_is_told_with_its_section(change: str, words: str, tmp_path: Path) -> None:
    text = Path(load_space("ranking").path).read_text()
    wrong = text.replace('inputs = { score = [["x", 0]], rel', f"inputs = {{ {change}, rel")
    assert wrong != text
    file = tmp_path / "mine.toml"
    file.write_text(wrong)
    with pytest.raises(SpaceError, match=words) as error:
        load_space(file)
    assert "[lines.gap]" in str(error.value)


def test_a_line_has_two_ends(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(Path(load_space("ranking").path).read_text().replace("[-6, 6]", "[-inf, 6]", 1))
    with pytest.raises(SpaceError, match="must be finite"):
        load_space(file)


def test_lines_are_no_part_of_what_makes_a_space(tmp_path: Path) -> None:
    shipped = load_space("ranking")
    text = shipped.path.read_text()
    file = tmp_path / "ranking.toml"
    file.write_text(text[: text.index("[lines.gap]")])
    assert load_space(file).digest == shipped.digest
    assert not load_space(file).lines
