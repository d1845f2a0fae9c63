"""A learned loss as one Python file that needs torch and nothing of ours.

The file holds the code of the network and of the calling convention as they stand here, and the weights
as text: base64 of little-endian float32, read without pickle. Run, it compares itself with numbers
computed when it was written.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from losssearch.errors import ExportError
from losssearch.execution.conventions import Convention, Labelled, Multiclass, Regression
from losssearch.exporters.sheet import clean
from losssearch.learned import network
from losssearch.learned.module import Holder, NetworkMulticlass, NetworkRegression, WeightedMulticlass
from losssearch.store.learned import Arrays, written

#: What each kind of module needs in its file, in order.
_NEEDS: dict[type[Holder], tuple[Any, ...]] = {
    NetworkMulticlass: (network.dense, network.multiclass_value, Convention, Labelled, Multiclass),
    NetworkRegression: (network.dense, network.regression_value, Convention, Regression),
    WeightedMulticlass: (network.dense, network.sample_weight, Convention, Labelled, Multiclass),
}
_ARGUMENTS = ("count", "reduction", "weight", "ignore_index", "label_smoothing")


def render(module: Holder, name: str, key: str, arrays: Arrays, evidence: Mapping[str, Any]) -> str:
    """The text of the file.

    Args:
        module: The loss, as it is called here.
        name: How people call it; any text.
        key: Its id.
        arrays: Its weights.
        evidence: How it was learned; shown in the docstring.

    Raises:
        ExportError: The code of the network cannot be read, or the loss is not finite.
    """
    kind = type(module)
    class_name = class_name_of(name)
    parts = [
        _head(name, key, evidence),
        f"UNIT = {network.UNIT!r}",
        *(_source(part) for part in (*_NEEDS[kind], Holder, kind)),
        _numbers(arrays),
        _class(kind, class_name, key),
        _main(module, class_name),
    ]
    return "\n\n\n".join(parts)


def class_name_of(name: str) -> str:
    """An identifier made from letters and digits: "few-shot-digits" gives FewShotDigitsLoss."""
    words = re.findall(r"[A-Za-z0-9]+", name)[:8]
    stem = "".join(word[0].upper() + word[1:] for word in words)[:48].removesuffix("Loss")
    # "Learned" keeps clear of the names of classes that stand in the file.
    return f"Learned{stem}Loss"


def _head(name: str, key: str, evidence: Mapping[str, Any]) -> str:
    lines = [f"{clean(name, 200) or 'A learned loss'}: a loss network, as a torch module.", ""]
    for title, value in evidence.items():
        text = clean(f"{title}: {json.dumps(value, default=str)}", 500)
        lines += textwrap.wrap(text, 92, subsequent_indent="    ")
    lines += ["", f"Written by losssearch, id {key}. Needs torch alone.", "Run this file to test it."]
    text = "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''")
    imports = [
        "import base64\nfrom collections.abc import Mapping\nfrom typing import Any",
        "import torch\nfrom torch import Tensor, nn\nfrom torch.nn import functional as F",
    ]
    alias = "Weights = Mapping[str, Tensor]"
    return "\n\n".join([f'"""{text}\n"""', "from __future__ import annotations", *imports, alias])


def _source(part: type | Callable[..., Any]) -> str:
    try:
        text = inspect.getsource(part).rstrip()
    except (OSError, TypeError) as error:
        raise ExportError(f"The source of {part.__name__} cannot be read: {error}.") from error
    if not re.match(rf"(def|class) {part.__name__}\b", text):
        raise ExportError("losssearch has changed on disk while it runs; start it anew.")
    return text


def _numbers(arrays: Arrays) -> str:
    lines = ["NUMBERS = {  # name: shape, and base64 of little-endian float32"]
    for name, one in written(arrays).items():
        pieces = textwrap.wrap(one["float32"], 88)
        shape = tuple(one["shape"])
        lines += [f"    {json.dumps(name)}: (", f"        {shape!r},"]
        lines += [f'        "{pieces[0]}"', *(f'        "{p}"' for p in pieces[1:]), "    ),"]
    lines += ["}", "", "", "def numbers() -> dict[str, Tensor]:", '    """The weights by name."""']
    lines += ["    found = {}", "    for name, (shape, text) in NUMBERS.items():"]
    lines += ["        raw = bytearray(base64.b64decode(text))"]
    lines += ["        found[name] = torch.frombuffer(raw, dtype=torch.float32).reshape(shape).clone()"]
    return "\n".join([*lines, "    return found"])


def _class(kind: type[Holder], class_name: str, key: str) -> str:
    parameters = inspect.signature(kind).parameters
    names = [name for name in _ARGUMENTS if name in parameters]
    takes = [
        f"        {name}: {parameters[name].annotation} = {parameters[name].default!r}," for name in names
    ]
    gives = [f"            {name}={name}," for name in names]
    lines = [
        f"class {class_name}({kind.__name__}):",
        f'    """The loss of this file. See {kind.__name__}."""',
    ]
    lines += ["", f'    key = "{key}"', "", "    def __init__(", "        self,", "        *,"]
    lines += [takes.replace("'", '"') for takes in takes]
    lines += [
        "    ) -> None:",
        "        super().__init__(",
        "            network=numbers(),",
        *gives,
        "        )",
    ]
    return "\n".join(lines)


def _main(module: Holder, class_name: str) -> str:
    x, target = example(isinstance(module, Multiclass))
    leaf = x.clone().requires_grad_()
    value = module(leaf, target)
    (slope,) = torch.autograd.grad(value, leaf)
    if not bool(torch.isfinite(value)) or not bool(torch.isfinite(slope).all()):
        raise ExportError("The loss is not finite on the example of its self-test.")
    lines = [
        "def main() -> None:",
        '    """Compare value and gradient with those when this file was written."""',
        f"    input = torch.tensor({x.tolist()}, dtype=torch.float64)",
        "    input.requires_grad_()",
        f"    target = torch.tensor({target.tolist()})",
        f"    wanted = torch.tensor({value.item()!r}, dtype=torch.float64)",
        f"    wanted_slope = torch.tensor({slope.tolist()}, dtype=torch.float64)",
        f"    value = {class_name}()(input, target)",
        "    (slope,) = torch.autograd.grad(value, input)",
        "    torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-12)",
        "    torch.testing.assert_close(slope, wanted_slope, rtol=1e-9, atol=1e-12)",
        f'    print("{class_name}: value and gradient are as when this file was written.")',
    ]
    return "\n".join([*lines, "", "", 'if __name__ == "__main__":', "    main()", ""])


def example(multiclass: bool) -> tuple[Tensor, Tensor]:
    """Input and target of the self-test: right and wrong, near and far."""
    if multiclass:
        rows = [[1.37, -0.46, 0.21], [-2.13, 0.84, 1.59], [0.33, 2.71, -1.18]]
        return torch.tensor(rows, dtype=torch.float64), torch.tensor([0, 1, 2])
    x = torch.tensor([1.37, -0.46, 2.21, -2.13], dtype=torch.float64)
    return x, torch.tensor([1.12, 0.35, 2.9, -4.7])
