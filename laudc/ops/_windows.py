"""Windows that slide over a map: what the two poolings share."""

from __future__ import annotations

from typing import Protocol, cast

from laudc.ops.base import Call
from laudc.types import TensorType


class Window(Protocol):
    @property
    def kernel(self) -> tuple[int, int]: ...
    @property
    def stride(self) -> tuple[int, int]: ...
    @property
    def padding(self) -> tuple[int, int]: ...
    @property
    def dilation(self) -> tuple[int, int]: ...
    @property
    def ceil_mode(self) -> bool: ...


def window_size(window: Window, x: TensorType) -> TensorType:
    """The type of the map that the window makes of x (torch's rule for `ceil_mode` included)."""
    sizes = []
    for axis in range(2):
        extent, padding = x.shape[2 + axis], window.padding[axis]
        room = extent + 2 * padding - window.dilation[axis] * (window.kernel[axis] - 1) - 1
        stride = window.stride[axis]
        count = (room + stride - 1 if window.ceil_mode else room) // stride + 1
        if window.ceil_mode and (count - 1) * stride >= extent + padding:
            count -= 1  # the last window must begin inside the map or its left padding
        sizes.append(count)
    return TensorType(shape=(*x.shape[:2], *sizes), dtype=x.dtype)


def pair(value: object) -> tuple[int, int]:
    """An int, or a pair of ints, as a pair."""
    if isinstance(value, int):
        return (value, value)
    first, *rest = cast(tuple[int, ...], value)
    return (first, rest[0] if rest else first)


def import_window(call: Call) -> dict[str, object] | None:
    """The fields of a torch pooling, by our names; extra ones (return_indices, ...) by torch's."""
    source = vars(call.module) if call.module is not None else call.arguments
    if source.get("kernel_size") is None:
        return None
    kernel = pair(source["kernel_size"])
    stride = source.get("stride")
    found: dict[str, object] = {
        "kernel": kernel,
        "stride": kernel if stride is None or stride == [] else pair(stride),
        "padding": pair(source.get("padding") or 0),
        "ceil_mode": bool(source.get("ceil_mode", False)),
    }
    if "dilation" in source:
        found["dilation"] = pair(source["dilation"])
    extras = ("count_include_pad", "return_indices", "divisor_override")
    return found | {name: source[name] for name in extras if name in source}
