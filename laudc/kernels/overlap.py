"""Launches that overlap: a kernel's blocks are placed while the one before it still runs, and wait on the device.

Two halves (programmatic dependent launch, sm_90 and later). Every kernel says at once that the next one may be placed,
and waits before it touches what another kernel made; so a kernel is done only after all those before it are. In a
captured graph, the edges from kernel to kernel then ask for the first word only.
"""

from __future__ import annotations

import ctypes
import re

from laudc.kernels.driver import checked, cuda_driver

FIRST_ARCH = 90

_ENTRY = re.compile(r'extern "C" __global__[^{;]*\{')
_WAIT = "griddepcontrol.wait"
_BEGIN = '\n  asm volatile("griddepcontrol.launch_dependents;");\n  asm volatile("griddepcontrol.wait;" ::: "memory");'

_KERNEL_NODE = 0
_PROGRAMMATIC = 1
"""Both the port and the type of an edge that waits for the word of the kernel before, not for its end."""


def beginning_early(source: str) -> str:
    """CUDA C++ whose every kernel begins with both instructions, unless the file places them itself."""
    return source if _WAIT in source else _ENTRY.sub(lambda entry: entry[0] + _BEGIN, source)


class _Edge(ctypes.Structure):
    """CUgraphEdgeData."""

    _fields_ = (
        ("from_port", ctypes.c_ubyte),
        ("to_port", ctypes.c_ubyte),
        ("type", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte * 5),
    )


def overlap_launches(graph: int) -> int:
    """Change the edges of a captured graph (a CUgraph) whose kernels all begin so; how many were changed.

    None of them where the driver cannot: the graph stays right, its launches follow each other.
    """
    driver = cuda_driver()
    if driver is None or not hasattr(driver, "cuGraphAddDependencies_v2"):
        return 0  # edges of several types came with 12.3
    count = ctypes.c_size_t(0)
    _checked(driver.cuGraphGetEdges_v2(ctypes.c_void_p(graph), None, None, None, ctypes.byref(count)))
    nodes, edges = ctypes.c_void_p * count.value, (_Edge * count.value)()
    begins, ends = nodes(), nodes()
    _checked(driver.cuGraphGetEdges_v2(ctypes.c_void_p(graph), begins, ends, edges, ctypes.byref(count)))
    changed = 0
    for begin, end, edge in zip(begins, ends, edges, strict=True):
        if edge.type or not (_is_kernel(driver, begin) and _is_kernel(driver, end)):
            continue
        pair = ctypes.byref(ctypes.c_void_p(begin)), ctypes.byref(ctypes.c_void_p(end))
        early = _Edge(from_port=_PROGRAMMATIC, to_port=0, type=_PROGRAMMATIC)
        one = ctypes.c_size_t(1)
        _checked(driver.cuGraphRemoveDependencies_v2(ctypes.c_void_p(graph), *pair, ctypes.byref(edge), one))
        _checked(driver.cuGraphAddDependencies_v2(ctypes.c_void_p(graph), *pair, ctypes.byref(early), one))
        changed += 1
    return changed


def _is_kernel(driver: ctypes.CDLL, node: int) -> bool:
    kind = ctypes.c_int(-1)
    _checked(driver.cuGraphNodeGetType(ctypes.c_void_p(node), ctypes.byref(kind)))
    return kind.value == _KERNEL_NODE


def _checked(status: int) -> None:
    checked(status, "a graph was changed")
