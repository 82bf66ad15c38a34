"""An executable on a device: its buffers allocated once, its kernels loaded, its calls made in order.

The caller's tensors are only read: the input is copied into a buffer of ours, the output out of one. One call runs
at a time (a lock); work goes to torch's current stream.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from laudc.errors import BuildError, InputError
from laudc.kernels.build import Binary
from laudc.kernels.executable import Executable, Step, Value
from laudc.kernels.kernel import Kernel
from laudc.kernels.overlap import FIRST_ARCH
from laudc.kernels.replay import Replay

Function = Callable[..., object]

_TORCH = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
}
_LOADING = threading.Lock()
NOT_GIVEN = -1.0
"""Where a masker finds this in place of a decision, it decides itself."""
_POISON_BYTE = 0xFF
"""A float of such bytes is NaN."""

Watch = Callable[[Step, tuple[Tensor, ...], tuple[Tensor, ...]], None]
Visit = Callable[[Step, Callable[[], object]], None]


class Runner:
    """Runs an executable. `device` is "cpu" or a CUDA device."""

    def __init__(self, executable: Executable, binaries: Mapping[str, Binary], *, device: str) -> None:
        self.executable = executable
        self._lock = threading.Lock()
        self._device = _one_device(device)
        self._done: torch.cuda.Event | None = None
        functions, on_gpu = load_functions(binaries, device=device), self._device.type == "cuda"
        with torch.inference_mode(False):  # else the buffers could not be written outside of it
            self._arena = torch.zeros(executable.arena_bytes, dtype=torch.uint8, device=self._device)
            self._given = {
                key: torch.full(mask.type.shape, NOT_GIVEN, device=self._device)
                for key, (mask, _) in executable.decided.items()
            }
            self._calls = [
                self._bind(step, functions[step.kernel.key], [self._view(space) for space in step.workspaces])
                for step in executable.steps
            ]
            self._image = self._view(executable.image)
            self._output = self._view(executable.output)
        self._forced: frozenset[str] = frozenset()
        self._replay = Replay(self._launch, overlapping=overlapping(executable)) if on_gpu else None

    def __call__(self, x: Tensor, masks: Mapping[str, Tensor] | None) -> tuple[Tensor, Decided]:
        """The output, fresh, and by masker the decisions that were obeyed and the masker's own keep logits.

        masks: the decisions that are forced; None for those of the call before, which are not copied again.
        """
        if x.device != self._device:
            raise InputError(
                f"the input is on {x.device}, the network on {self._device}",
                f"move it with x.to({str(self._device)!r})",
            )
        with self._lock, self._in_turn():
            self._take(x, masks)
            if self._replay is None:
                self._launch()
            else:
                self._replay()
            decided = Decided(self._arena[: self.executable.decided_bytes].clone(), self.executable.decided)
            return _logical(self._output).clone(memory_format=torch.contiguous_format), decided

    def _launch(self) -> None:
        """Every call, one after another."""
        for call in self._calls:
            call()

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """On a GPU the lock only orders the launches: the buffers are free when the last call's work is done."""
        if self._device.type != "cuda":
            yield
            return
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            if self._done is not None:
                stream.wait_event(self._done)
            yield
            self._done = torch.cuda.Event()
            self._done.record(stream)

    def trace(self, x: Tensor, masks: Mapping[str, Tensor], watch: Watch) -> None:
        """A run in which every call writes over poison, and `watch` sees its operands and results (copies on the
        CPU, in their logical shape; an operand that is updated in place as it was before)."""
        with self.held(x, masks) as calls:
            for step, call in calls:
                watch(step, *self.watched(step, call))

    def walk(self, x: Tensor, masks: Mapping[str, Tensor], visit: Visit) -> None:
        """A run in which `visit` makes every call itself, once or more often, such as to time it."""
        with self.held(x, masks) as calls:
            for step, call in calls:
                visit(step, call)

    @contextmanager
    def held(self, x: Tensor, masks: Mapping[str, Tensor]) -> Iterator[Sequence[tuple[Step, Callable[[], object]]]]:
        """Every call in order, to be made inside, once or more often; nobody else runs the network meanwhile."""
        with self._lock, self._in_turn():
            self._take(x, masks)
            yield list(zip(self.executable.steps, self._calls, strict=True))

    def watched(self, step: Step, call: Callable[[], object]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Make a call of the step over poison: its operands and its results, as `trace` has them."""
        spec, passed = step.op.spec, iter(step.operands)
        updated = {name: step.results[index] for name, index in spec.in_place.items()}
        read = (updated[name] if name in updated else next(passed) for name in spec.operands)
        operands = tuple(self.value(value) for value in read)
        for index, value in enumerate(step.results):
            if index not in spec.in_place.values():
                self._bytes(value).fill_(_POISON_BYTE)
        call()
        return operands, tuple(self.value(value) for value in step.results)

    def instead(self, step: Step, kernel: Kernel, function: Function) -> Callable[[], object]:
        """The call of another kernel for the step's work: the same operands and results, its own scratch buffers."""
        types = kernel.plan.workspace(kernel.work, kernel.choice)
        spaces = [torch.zeros(one.stored, dtype=_TORCH[one.dtype], device=self._device) for one in types]
        return self._bind(replace(step, kernel=kernel), function, spaces)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Afterwards every buffer holds what it held before, whatever was written inside."""
        before = self._arena.clone()
        try:
            yield
        finally:
            self._arena.copy_(before)

    def _take(self, x: Tensor, masks: Mapping[str, Tensor] | None) -> None:
        """Copy the input in, and the decisions that are given to where their maskers look for them.

        On a CPU the image without torch's threads: they would spin for milliseconds beside TVM's.
        """
        if masks is not None:
            self._force(masks)
        image = _logical(self._image)
        if self._device.type == "cpu":
            np.copyto(image.numpy(), x.numpy(), casting="same_kind")
        else:
            image.copy_(x)

    def _force(self, masks: Mapping[str, Tensor]) -> None:
        for key in self._forced - masks.keys():
            self._given[key].fill_(NOT_GIVEN)
        for key, mask in masks.items():
            self._given[key].copy_(mask)
        self._forced = frozenset(masks)

    def poison(self) -> None:
        """Fill every buffer with NaN, so that a value nobody computed shows."""
        self._arena.fill_(_POISON_BYTE)

    def value(self, value: Value) -> Tensor:
        """A copy on the CPU of a value as it stands, in its logical shape."""
        return _logical(self._view(value)).to("cpu", copy=True)

    def _bind(self, step: Step, function: Function, spaces: Sequence[Tensor]) -> Callable[[], object]:
        kernel = step.kernel
        weights = {name: _as_plain(tensor) for name, tensor in named_weights(step).items()}
        packed = kernel.plan.pack(kernel.work, kernel.choice, weights)
        # clones, because kernels load whole vectors: what is read from a file may lie anywhere
        constants = tuple(tensor.clone(memory_format=torch.contiguous_format).to(self._device) for tensor in packed)
        views = [self._view(value) for value in step.operands]
        given = [self._given[step.masker]] if step.masker else []
        results = [self._view(value) for value in step.results]
        return partial(function, *views, *given, *constants, *spaces, *results)

    def _view(self, value: Value) -> Tensor:
        """A value, in the shape that kernels see: a map is channels-last."""
        return view_of(self._arena, value)

    def _bytes(self, value: Value) -> Tensor:
        return _bytes(self._arena, value)


class Decided(Mapping[str, tuple[Tensor, Tensor]]):
    """By masker the decisions and the keep logits, in a copy of the bytes they lie in."""

    def __init__(self, copy: Tensor, values: Mapping[str, tuple[Value, Value]]) -> None:
        self._copy, self._values = copy, values

    def __getitem__(self, key: str) -> tuple[Tensor, Tensor]:
        mask, logits = self._values[key]
        return view_of(self._copy, mask), view_of(self._copy, logits)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def view_of(arena: Tensor, value: Value) -> Tensor:
    return _bytes(arena, value).view(_TORCH[value.type.dtype]).view(value.type.stored)


def _bytes(arena: Tensor, value: Value) -> Tensor:
    return arena[value.offset : value.offset + value.type.nbytes]


def overlapping(executable: Executable) -> bool:
    """Whether its kernels are written to be placed before the one ahead of them is done."""
    return min(step.kernel.target.capability for step in executable.steps) >= FIRST_ARCH


def _one_device(device: str) -> torch.device:
    """The device, and on a machine with several GPUs which."""
    return torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device(device)


def named_weights(step: Step) -> dict[str, Tensor]:
    """The weights of a step's op, in the spec's order."""
    names = [*step.op.spec.weights(), *step.op.spec.buffers()]
    return {name: cast(Tensor, getattr(step.op, name)) for name in names}


def _as_plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()


def _logical(stored: Tensor) -> Tensor:
    return stored.permute(0, 3, 1, 2) if stored.ndim == 4 else stored


def load_functions(binaries: Mapping[str, Binary], *, device: str) -> dict[str, Function]:
    """The kernels as callables that take torch tensors."""
    import tvm_ffi

    on_gpu = torch.device(device).type == "cuda"
    _load_runtime(on_gpu=on_gpu)
    functions: dict[str, Function] = {}
    with _LOADING, tempfile.TemporaryDirectory() as folder:
        for key, binary in binaries.items():
            if on_gpu and not binary.cubin:
                raise BuildError(
                    binary.note or "a kernel has no device code", "compile it again where a CUDA compiler is"
                )
            path = Path(folder) / f"{key}.so"
            path.write_bytes(binary.library)
            with _offering(binary.cubin) if on_gpu else nullcontext():
                functions[key] = cast(Function, tvm_ffi.load_module(str(path))["kernel"])
    return functions


@contextmanager
def _offering(cubin: bytes) -> Iterator[None]:
    """Inside, TVM takes this device code when it asks for the compiled form of a kernel's source."""
    import tvm_ffi

    name = "tvm_callback_cuda_compile"
    theirs = tvm_ffi.get_global_func(name, allow_missing=True)
    tvm_ffi.register_global_func(name, lambda *_: cubin, override=True)
    try:
        yield
    finally:
        if theirs is None:
            tvm_ffi.registry.remove_global_func(name)
        else:
            tvm_ffi.register_global_func(name, theirs, override=True)


def _load_runtime(*, on_gpu: bool) -> None:
    _settle_threads()
    import tvm

    if on_gpu and not tvm.runtime.enabled("cuda"):
        import ctypes

        library = next(Path(tvm.__file__).parent.rglob("libtvm_runtime_cuda.so"))
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def _settle_threads() -> None:
    """TVM reads these once, when its first parallel kernel runs; what the user has set stays.

    As many threads as torch has, so that neither crowds out the other; none tied to a core (TVM would tie the
    caller's too); and a worker that has nothing to do sleeps soon.
    """
    os.environ.setdefault("TVM_NUM_THREADS", str(torch.get_num_threads()))
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "2000")
