"""How does a formula look on a page? As SVG, drawn by ziamath from our LaTeX, without a script.

Some 10 ms for a short formula and up to a second for a long one, so tables ask for each formula
as a picture of its own, which the browser loads while the page is already there. Of one that is
longer still, whose nested brackets would take many seconds, the text is shown. What
ziamath gives is taken apart and only shapes are put together again: no text of a formula reaches
the page as markup.
"""

from __future__ import annotations

import math
import re
import threading
from functools import lru_cache
from xml.etree import ElementTree

from markupsafe import Markup

SIZE = 20  # pixels
LONGEST = 500  # characters of LaTeX that are drawn
_SVG = "{http://www.w3.org/2000/svg}"
_KEPT = {
    "svg": ("width", "height", "viewBox"),
    "g": (),
    "symbol": ("id", "viewBox"),
    "path": ("d",),
    "use": ("href", "x", "y", "width", "height"),
    "rect": ("x", "y", "width", "height"),
    "line": ("x1", "y1", "x2", "y2", "stroke-width"),
}
# Where ziamath differs from TeX: the space after a word and after a parenthesis; and a sum between
# stretched parentheses stretches them to a thousand points, unless its limits are asked for.
_MENDED = (
    (re.compile(r"\\sum_"), r"\\sum\\limits_"),
    (re.compile(r"(\\operatorname\{\w+\}_\{[^{}]*\}) "), r"\1\\, "),
    (re.compile(r"\\left\(-"), r"\\left({-}"),
    (re.compile(r"\\operatorname\{log\\,softmax\}"), r"\\operatorname{logsoftmax}"),
)
_ONE = threading.Lock()  # ziamath seeks in one open font file: two at once draw each other's letters
_PLAIN = re.compile(r"[\w#. ,+\-]*")
_THEME = "<style>svg{color:#1c2230}@media(prefers-color-scheme:dark){svg{color:#e6e9f0}}</style>"


@lru_cache(maxsize=512)
def svg(latex: str, label: str = "") -> Markup | None:
    """A formula as an inline picture in the colour of the text; None where it cannot be drawn.

    Args:
        latex: In math mode, as `losssearch.language.latex` writes it.
        label: What a screen reader says.
    """
    from ziamath.zmath import Latex

    if len(latex) > LONGEST:
        return None
    for pattern, mended in _MENDED:
        latex = pattern.sub(mended, latex)
    try:
        with _ONE:
            drawn = Latex(latex, size=SIZE).svg()
        root = ElementTree.fromstring(drawn)
        inner = "".join(_shape(child) for child in root)
        frame = _attributes(root, "svg")
    except Exception:  # a third party's typesetter met something new: the text is shown instead
        return None
    name = Markup(' role="img" aria-label="{}"').format(label) if label else ""
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" class="formula"{name}{frame} '
        f'fill="currentColor" stroke="none">{inner}</svg>'
    )


def picture(latex: str) -> bytes | None:
    """The same as a file for `<img>`; it follows the colour scheme by itself."""
    drawn = svg(latex)
    if drawn is None:
        return None
    head, _, rest = drawn.partition(">")
    return f"{head}>{_THEME}{rest}".encode()


def _shape(element: ElementTree.Element) -> str:
    tag = element.tag.removeprefix(_SVG)
    if tag not in _KEPT:
        raise ValueError(f"ziamath drew a {tag!r}.")
    stroke = ' stroke="currentColor"' if tag == "line" else ""
    inner = "".join(_shape(child) for child in element)
    return f"<{tag}{_attributes(element, tag)}{stroke}>{inner}</{tag}>"


def _attributes(element: ElementTree.Element, tag: str) -> str:
    """The kept attributes; numbers in paths are short enough already."""
    kept = []
    for name in _KEPT[tag]:
        value = element.get(name)
        if value is None:
            continue
        if not _PLAIN.fullmatch(value):
            raise ValueError(f"ziamath gave {name}={value!r}.")
        kept.append(f' {name}="{value}"')
    return "".join(kept)


def number(value: object, digits: int = 4) -> str:
    """A number for a table: `0.4307`, `1.2e-05`, `–` for none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or math.isnan(value):
        return "–"
    if isinstance(value, int) or math.isinf(value):
        return f"{value:,}".replace("inf", "∞").replace("-", "−")
    small = value and not 1e-3 <= abs(value) < 1e5
    return (f"{value:.{digits - 1}g}" if small else f"{value:.{digits}f}").replace("-", "−")


def short(value: object) -> str:
    """A constant: `0.25`, `3`, `∞`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return str(value)
    return f"{value:.4g}".replace("inf", "∞").replace("-", "−")


def signed(value: object) -> str:
    """A difference: `+0.0013`."""
    if not isinstance(value, (int, float)) or math.isnan(value):
        return "–"
    return f"{value:+.4f}".replace("-", "−")
