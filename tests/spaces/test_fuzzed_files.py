"""No content of a space file ends in anything but a space or a SpaceError of one line."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from losssearch.errors import SpaceError
from losssearch.spaces import Space, load_space

BINARY = load_space("binary").path.read_text(encoding="utf-8")
LINES = BINARY.splitlines()
FEW = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])

values = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(max_size=8),
    st.sampled_from(["n", "", "mean(body, 'n')", "log_pt", "prediction", "add"]),
)
words = st.sampled_from(sorted({word for word in BINARY.split() if len(word) < 40}))


def outcome(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.toml"
        path.write_bytes(content)
        try:
            space = load_space(path)
        except SpaceError as error:
            told = str(error)
        else:
            assert isinstance(space, Space)
            return
    assert told.isprintable(), told
    assert told.startswith(str(path))
    assert len(told) < 1500


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        inner = "".join(c if c.isalnum() or c in " _'(),*" else f"\\U{ord(c):08x}" for c in value)
        return f'"{inner}"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
    return repr(value)


@FEW
@given(st.binary(max_size=200))
def test_any_bytes(content):
    outcome(content)


@FEW
@given(st.integers(0, len(BINARY) - 1), st.integers(0, 30), st.text(max_size=6))
def test_a_file_with_a_piece_replaced(start, length, piece):
    outcome((BINARY[:start] + piece + BINARY[start + length :]).encode("utf-8", "replace"))


@FEW
@given(st.integers(0, len(LINES) - 1), words, words)
def test_a_file_with_a_word_of_a_line_replaced_by_another(number, old, new):
    lines = list(LINES)
    lines[number] = lines[number].replace(old, new, 1)
    outcome("\n".join(lines).encode())


@FEW
@given(
    st.sampled_from([i for i, line in enumerate(LINES) if " = " in line and line[0] != "#"]),
    st.recursive(
        values,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
)
def test_a_file_with_a_value_of_another_type(number, value):
    lines = list(LINES)
    lines[number] = f"{lines[number].split('=')[0]}= {toml(value)}"
    outcome("\n".join(lines).encode("utf-8", "replace"))
