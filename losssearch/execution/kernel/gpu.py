"""How does a GPU run the same instruction table?

One block of threads a row at a time, a barrier after every instruction, samples over threads. Inputs,
constants, literals, results and one workspace a block lie in one stretch of memory, so that an operand is a
number and no address leaves its bounds. What an opcode computes comes from its row of the language, as on the
CPU; which body is meant is looked up in a tree of comparisons, the same for all threads of a block.
Reductions take the CPU's order, so that both differ by rounding in `exp` and its kin alone, and neither
neighbours nor the card's size change a bit.

`numba.cuda` and not Triton: there registers cannot be indexed at run time, so that a table of instructions
would have to become a program of its own for every candidate. Compiling takes some seconds a process.

numba's simulator (`NUMBA_ENABLE_CUDASIM=1`) runs this file without a GPU; tensors lie on the CPU then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import cuda as _cuda
from numpy.typing import NDArray
from torch import Tensor

from losssearch.errors import UsageError
from losssearch.execution.kernel.bound import Binding
from losssearch.execution.kernel.interpreter import LOOP, OUT, ROWS, SIZE, X_STEP, Y_STEP, Z_STEP, X, Y, Z
from losssearch.execution.kernel.loops import JOINS, OWN, in_single
from losssearch.execution.kernel.tape import OUTPUT, SCALE, Tape
from losssearch.language.primitives import PRIMITIVES
from losssearch.language.term import CONSTANT, INPUT

cuda: Any = _cuda  # without types
cuda.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # the last block of a search is small

NAMES = sorted([*OWN, *(name for name, row in PRIMITIVES.items() if row.scalar is not None)])
WAYS = ("", "spread", "down", "across")  # kinds of loops, see `loops`
WAY = 10  # the column after those of the CPU's table
ELEMENTWISE, SPREAD, DOWN = range(3)

THREADS = 128
BLOCKS_A_PROCESSOR = 7  # as many as the registers allow: compiled for an H200 a thread has 72
LINE = 32  # numbers in a line of the cache: regions begin with one


class GpuBound(Binding):
    """Rows that run on a GPU, in single precision; see `Binding`.

    Args:
        device: Where inputs come from and results stay.
        blocks, threads: Of a launch; results do not depend on them.
    """

    def __init__(
        self,
        tape: Tape,
        programs: NDArray[np.integer],
        *,
        device: torch.device,
        blocks: int | None = None,
        threads: int | None = None,
        **rows: Any,
    ) -> None:
        super().__init__(tape, programs, **rows)
        if tape.precision != "single":
            raise UsageError("On a GPU the kernel computes in single precision.")
        self.device = device
        self._threads = threads or THREADS
        self._blocks = max(1, min(blocks or _blocks(device), self.rows))
        self._inputs: dict[str, Tensor] = {}
        self._outputs: list[Tensor] = []
        self._arrays: list[Any] = []
        self._lengths: dict[str, int] | None = None

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """One tensor an output, (its rows, *inner axis, *samples); a buffer, valid until the next call.

        Args:
            inputs: By name, (its rows, *inner axis, *samples); what is the same for every row has one.

        Raises:
            UsageError: An input is missing, or has another shape than the tape was made for.
        """
        given = {name: self.given(inputs, name) for name in self.tape.inputs}
        lengths = {name: len(tensor) for name, tensor in given.items()}
        if lengths != self._lengths:
            self._lengths, self._arrays = lengths, self._lay(given)
        for name, tensor in given.items():
            self._inputs[name].copy_(tensor)
        _kernel()[self._blocks, self._threads, _stream(self.device)](*self._arrays)
        return self._outputs

    def _lay(self, inputs: Mapping[str, Tensor]) -> list[Any]:
        """Give everything its place; what the kernel is called with."""
        tape, operands = self.tape, self.tape.operands
        item = tape.dtype.itemsize
        base, apart, stride = (np.zeros(len(self.which), np.int64) for _ in range(3))
        filled: list[tuple[int, NDArray[np.floating]]] = []
        views: list[tuple[str, str | int, int, tuple[int, ...]]] = []
        size = 0

        def region(numbers: int) -> int:
            nonlocal size
            start, size = size, size + -(-numbers // LINE) * LINE
            return start

        def table(array: NDArray[np.floating]) -> int:
            filled.append((region(array.size), array.ravel()))
            return filled[-1][0]

        literals = table(np.array([*operands.literals, 0.0], tape.dtype))
        constants, scales = table(self.constants), table(self.scales)
        for kind, name, o in self.moving():
            if kind == CONSTANT:
                base[o], stride[o] = constants + int(name), self.constants.shape[1]
            elif kind == SCALE:
                base[o], stride[o] = scales, 1
            else:
                shape = self.shape(self.level(kind, name))
                rows = len(inputs[str(name)]) if kind == INPUT else self.height(-1)
                numbers = int(np.prod(shape))
                alone = self.alone(
                    o, kind, name, (rows, *shape) if kind == OUTPUT else inputs[str(name)].shape
                )
                base[o], stride[o] = region(rows * numbers), 0 if alone else numbers
                views.append((kind, name, int(base[o]), (rows, *shape)))
        width = -(-operands.size // item // LINE) * LINE
        start = region(self._blocks * width)
        base[: tape.fixed] = start + np.array(operands.offsets, np.int64) // item
        apart[: tape.fixed] = width
        for place, o in enumerate(operands.literals.values()):
            base[o], apart[o] = literals + place, 0

        memory = torch.zeros(size, dtype=torch.float32, device=self.device)
        for place, array in filled:
            memory[place : place + array.size] = torch.from_numpy(array)
        seen = {
            (kind, name): memory[place : place + int(np.prod(shape))].view(shape)
            for kind, name, place, shape in views
        }
        self._inputs = {str(name): view for (kind, name), view in seen.items() if kind == INPUT}
        self._outputs = [seen[OUTPUT, number] for number in range(len(tape.levels))]
        tables = (self.programs, tape.spans, _numbered(tape), base, apart, stride, self.maps, self.which)
        return [_seen(memory), *(_seen(torch.from_numpy(t).to(self.device)) for t in tables)]


def _blocks(device: torch.device) -> int:
    """As many as keep a card busy."""
    if device.type == "cpu":
        return 1
    processors: int = torch.cuda.get_device_properties(device).multi_processor_count
    return BLOCKS_A_PROCESSOR * processors


def _numbered(tape: Tape) -> NDArray[np.int64]:
    """The table with `NAMES` numbered in its first column, and the way of the loop in a further one."""
    ways, names = [], []
    for opcode in tape.opcodes:
        name, _, way = opcode.partition(":")
        ways.append(WAYS.index("spread" if name == "spread" else way))
        names.append(NAMES.index(JOINS.get(name, name) if way else "copy" if name == "spread" else name))
    code = np.column_stack([tape.code, np.array(ways, np.int64)[tape.code[:, LOOP]]])
    code[:, LOOP] = np.array(names, np.int64)[tape.code[:, LOOP]]
    return np.ascontiguousarray(code)


def _seen(tensor: Tensor) -> Any:
    """A tensor as numba takes it; the simulator takes arrays."""
    return tensor.numpy() if tensor.device.type == "cpu" else cuda.as_cuda_array(tensor, sync=False)


def _stream(device: torch.device) -> Any:
    if device.type == "cpu":
        return 0
    return _stream_at(torch.cuda.current_stream(device).cuda_stream)


@cache
def _stream_at(handle: int) -> Any:
    return cuda.external_stream(handle)


def _body(name: str) -> Any:
    """What an opcode computes, of three arguments."""
    scalar = OWN.get(name) or PRIMITIVES[name].scalar
    assert scalar is not None
    # numba's own drop nan on a GPU, and what is nan must stay so: that is how a divergence is seen.
    ran = in_single(scalar, max=_kept("larger"), min=_kept("smaller"))
    function = cuda.jit(device=True)(ran)
    single = np.float32
    count = scalar.__code__.co_argcount
    if count == 3:
        return cuda.jit(device=True)(lambda number, x, y, z: single(function(x, y, z)))
    if count == 2:
        return cuda.jit(device=True)(lambda number, x, y, z: single(function(x, y)))
    return cuda.jit(device=True)(lambda number, x, y, z: single(function(x)))


@cache
def _kept(which: str) -> Any:
    """The larger or smaller of two; nan if the first is, as on the CPU."""
    if which == "larger":
        return cuda.jit(device=True)(lambda x, y: y if y > x else x)
    return cuda.jit(device=True)(lambda x, y: y if y < x else x)


def _choice(names: Sequence[str], first: int = 0) -> Any:
    """The body of a number, found by halving."""
    if len(names) == 1:
        return _body(names[0])
    half = len(names) // 2
    middle = first + half
    left, right = _choice(names[:half], first), _choice(names[half:], middle)

    def choose(number, x, y, z):  # type: ignore[no-untyped-def]
        if number < middle:
            return left(number, x, y, z)
        return right(number, x, y, z)

    return cuda.jit(device=True)(choose)


@cache
def _kernel() -> Any:
    apply = _choice(NAMES)

    def place(o, row, base, apart, stride, maps, which):  # type: ignore[no-untyped-def]
        return base[o] + apart[o] * cuda.blockIdx.x + stride[o] * maps[which[o], row]

    where = cuda.jit(device=True)(place)

    def run(memory, programs, spans, code, base, apart, stride, maps, which):  # type: ignore[no-untyped-def]
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        for row in range(cuda.blockIdx.x, programs.shape[0], cuda.gridDim.x):
            program = programs[row]
            for i in range(spans[program, 0], spans[program, 1]):
                number, way = code[i, LOOP], code[i, WAY]
                rows, size = code[i, ROWS], code[i, SIZE]
                out = where(code[i, OUT], row, base, apart, stride, maps, which)
                x = where(code[i, X], row, base, apart, stride, maps, which)
                y = where(code[i, Y], row, base, apart, stride, maps, which)
                z = where(code[i, Z], row, base, apart, stride, maps, which)
                if way == ELEMENTWISE:
                    for r in range(rows):
                        a, b, c = x + r * code[i, X_STEP], y + r * code[i, Y_STEP], z + r * code[i, Z_STEP]
                        for j in range(thread, size, threads):
                            memory[out + r * size + j] = apply(
                                number, memory[a + j], memory[b + j], memory[c + j]
                            )
                elif way == SPREAD:
                    for r in range(rows):
                        value = memory[x + r * code[i, X_STEP]]
                        for j in range(thread, size, threads):
                            memory[out + r * size + j] = value
                elif way == DOWN:
                    for j in range(thread, size, threads):
                        value = memory[x + j]
                        for r in range(1, rows):
                            value = apply(number, value, memory[x + r * size + j], value)
                        memory[out + j] = value
                else:  # across: pairwise, in the scratch at y
                    for r in range(rows):
                        half = (size + 1) // 2
                        a = x + r * size
                        for j in range(thread, half, threads):
                            value = memory[a + j]
                            if half + j < size:
                                value = apply(number, value, memory[a + half + j], value)
                            memory[y + j] = value
                        cuda.syncthreads()
                        while half > 1:
                            before = half
                            half = (before + 1) // 2
                            for j in range(thread, before - half, threads):
                                value = memory[y + j]
                                memory[y + j] = apply(number, value, memory[y + half + j], value)
                            cuda.syncthreads()
                        if thread == 0:
                            memory[out + r] = memory[y]
                        cuda.syncthreads()
                cuda.syncthreads()

    return cuda.jit(run)
