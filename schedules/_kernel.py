"""Writing a kernel in plain Python: what is written inside the `with` becomes its body.

    with Kernel(target) as kernel:
        x = kernel.operand("x", work.operands[0])
        made = kernel.operand("made", work.results[0])
        with spread(kernel, (height, width, channels), vector=4) as (b, i, j, c), kernel.vectorized(4) as lane:
            made[b, i, j, c + lane] = x[b, i, j, c + lane]
    return kernel.lowered()

Arguments are declared in the order in which they are passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from laudc.schedules._cuda_tiles import FIRST_HOPPER_ARCH
from laudc.schedules.base import Lowered
from laudc.types import TensorType

if TYPE_CHECKING:
    from types import TracebackType

    from tvm.tirx import Buffer, Expr, Var

    from laudc.targets import Target

Index = Any
"""An int, an expression, or a tuple of them."""


class Memory:
    """A buffer that is read and written by index."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer

    def __getitem__(self, at: Index) -> Any:
        return self.buffer[at]

    def __setitem__(self, at: Index, value: Expr) -> None:
        from tvm.script.ir_builder import tirx as T

        T.buffer_store(self.buffer, value, list(at) if isinstance(at, tuple) else [at])


class Kernel:
    """A function named `kernel`, under construction for one kind of target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.on_gpu = target.kind == "cuda"
        self._frames = ExitStack()

    def __enter__(self) -> Self:
        from tvm.script.ir_builder import IRBuilder
        from tvm.script.ir_builder import tirx as T

        self._builder = self._frames.enter_context(IRBuilder())
        self._frames.enter_context(T.prim_func(s_tir=True))
        T.func_name("kernel")
        T.func_attr({"global_symbol": "kernel", "tirx.noalias": True})
        self.batch: Var = IRBuilder.name("batch", T.int32())
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._frames.__exit__(*error)  # type: ignore[arg-type]  # handed on as they came

    def lowered(self) -> Lowered:
        """The finished kernel."""
        from tvm import IRModule

        return Lowered(module=IRModule({"kernel": self._builder.get()}))

    def argument(self, name: str, shape: tuple[Index, ...], dtype: str) -> Memory:
        """The next argument."""
        from tvm.script.ir_builder import IRBuilder
        from tvm.script.ir_builder import tirx as T

        handle = T.arg(f"{name}_handle", T.handle())
        return Memory(IRBuilder.name(name, T.match_buffer(handle, shape, dtype)))

    def operand(self, name: str, type_: TensorType) -> Memory:
        """The next argument: a value of that type, of any batch."""
        return self.argument(name, (self.batch, *type_.stored[1:]), type_.dtype)

    def flat(self, memory: Memory, *shape: Index) -> Memory:
        """The same bytes under another shape."""
        from tvm.script.ir_builder import IRBuilder
        from tvm.script.ir_builder import tirx as T

        buffer = memory.buffer
        view = T.decl_buffer(shape, buffer.dtype, data=buffer.data)
        return Memory(IRBuilder.name(f"{buffer.name}_flat", view))

    def local(self, name: str, size: int, dtype: str = "float32") -> Memory:
        """A few numbers of one thread's own."""
        return self._scratch(name, size, dtype, "local")

    def shared(self, name: str, size: int, dtype: str = "float32") -> Memory:
        """Numbers that the threads of a block share."""
        return self._scratch(name, size, dtype, "shared")

    def _scratch(self, name: str, size: int, dtype: str, scope: str) -> Memory:
        from tvm.script.ir_builder import IRBuilder
        from tvm.script.ir_builder import tirx as T

        return Memory(IRBuilder.name(name, T.alloc_buffer((size,), dtype, scope=scope)))

    def barrier(self) -> None:
        """Every thread of the block arrives before any goes on."""
        from tvm.script.ir_builder import tirx as T

        T.evaluate(T.tvm_storage_sync("shared"))

    def let_next_begin(self) -> None:
        """The next kernel may be placed, where launches overlap; `wait_for_ahead` has to follow."""
        self._overlap("launch_dependents")

    def wait_for_ahead(self) -> None:
        """What other kernels made is there from here on; before it only weights may be read. A kernel that leaves both
        out begins with them."""
        self._overlap("wait")

    def _overlap(self, word: str) -> None:
        from tvm.script import tirx
        from tvm.script.ir_builder import tirx as T

        if self.target.capability >= FIRST_HOPPER_ARCH:
            T.evaluate(getattr(tirx.ptx.griddepcontrol, word)())

    @contextmanager
    def when(self, *conditions: Expr) -> Iterator[None]:
        """Only where all of them hold."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        with T.If(tirx.all(*conditions)), T.Then():
            yield

    def serial(self, name: str, extent: Index) -> Any:
        return self._loop("serial", name, extent)

    def unroll(self, name: str, extent: int) -> Any:
        return self._loop("unroll", name, extent)

    def vectorized(self, extent: int) -> Any:
        """The loop whose turns are done at once, one a lane."""
        return self._loop("vectorized", "lane", extent)

    def parallel(self, name: str, extent: Index) -> Any:
        """The loop that is shared out over the cores of a CPU."""
        return self._loop("parallel", name, extent)

    def thread(self, tag: str, extent: Index) -> Any:
        """The loop whose turns are the blocks or threads of a launch: tag is blockIdx.x and so on."""
        from tvm.script.ir_builder import tirx as T

        return T.thread_binding(extent, thread=tag)

    @contextmanager
    def _loop(self, kind: str, name: str, extent: Index) -> Iterator[Any]:
        from tvm.script.ir_builder import IRBuilder
        from tvm.script.ir_builder import tirx as T

        with getattr(T, kind)(extent) as variable:
            yield IRBuilder.name(name, variable)
