"""Pictures: real files that hold what they should, the same each time, with names that touch nothing."""

from __future__ import annotations

import itertools
import struct
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from losssearch.errors import ExportError, UsageError
from losssearch.insight.labels import label_curves
from losssearch.insight.picture import six_panels
from losssearch.insight.style import STYLE


def test_a_png_is_a_png_of_twice_800_pixels(explain, tmp_path) -> None:
    file = explain("focal", against=["mae"]).plot(tmp_path / "focal.png")
    data = file.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">I", data[16:20]) == (1600,)
    again = explain("focal", against=["mae"]).plot(tmp_path / "again.png")
    assert again.read_bytes() == data


def test_an_svg_is_xml_with_a_curve_a_loss_and_a_panel(explain, tmp_path) -> None:
    found = explain("huber", against=["cauchy", "tukey"])
    file = found.plot(tmp_path / "huber.svg")
    paths = list(ET.parse(file).getroot().iter("{http://www.w3.org/2000/svg}path"))
    for colour in ("#2f4fd0", "#6b7280", "#d9661f", "#128a74"):  # own, mse, cauchy, tukey
        curves = [e for e in paths if f"stroke: {colour}" in e.get("style", "")]
        assert len(curves) == 5
        assert all("nan" not in e.get("d", "") for e in curves)
    assert found.plot(tmp_path / "again.svg").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("loss", "against"),
    [
        ("focal", ["focal(gamma=5)", "mae", "gce"]),
        ("binary/hinge", ["savage", "exponential"]),
        ("huber", ["regression/mae", "cauchy", "tukey", "pinball(tau=0.9)"]),
        ("mse", []),
        ("baikal", []),
        ("mean(0 * p_t - log_pt, 'n')", ["kl"]),
    ],
)
def test_every_panel_names_its_curves_apart_from_each_other(explain, loss, against) -> None:
    with mpl.rc_context(STYLE):
        figure = six_panels(explain(loss, against=against))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        names = {line.get_label() for axes in figure.axes[:5] for line in axes.get_lines()}
        boxes = [t.get_window_extent(renderer) for t in figure.texts if t.get_text() in names]
    assert len(boxes) >= 5
    for a, b in itertools.combinations(boxes, 2):
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(width, height) <= 1, (loss, a, b)
    for box in boxes:
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_a_name_stands_beside_its_own_curve_and_on_no_other() -> None:
    figure = Figure(figsize=(4, 3), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label="rises")
    axes.plot([0, 1], [1, 0], label="falls")
    axes.plot([0, 1], [9, 9], label="is not in view")
    axes.set_ylim(0, 1)
    canvas.draw()
    renderer = canvas.get_renderer()
    label_curves(axes, renderer, 9)
    said = {t.get_text(): t.get_window_extent(renderer) for t in figure.texts}
    assert set(said) == {"rises", "falls"}
    frame = axes.get_window_extent(renderer)
    for name, other in (("rises", lambda x: 1 - x), ("falls", lambda x: x)):
        box = said[name]
        for i in range(101):  # the other curve
            x, y = axes.transData.transform((i / 100, other(i / 100)))
            assert not (box.x0 < x < box.x1 and box.y0 < y < box.y1)
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1


def test_a_picture_that_cannot_be_is_one_line(explain, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.png or \.svg"):
        explain("focal").plot(tmp_path / "focal.pdf")
    with pytest.raises(ExportError, match="No such file"):
        explain("focal").plot(tmp_path / "no" / "focal.png")
    with pytest.raises(UsageError, match="Nothing to draw"):
        explain("l1_regulariser").plot(tmp_path / "l1.png")
    assert not list(tmp_path.iterdir())
