"""When the work ahead of a place in a stream was done, by the GPU's own clock.

A mark is a kernel of one thread that waits for what is ahead of it and writes the time. In a graph whose launches
overlap it takes part in that: it lets the kernel behind it be placed at once, so that one still overlaps with those
ahead.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch

from laudc.errors import ToolchainError
from laudc.kernels.driver import checked, cuda_driver
from laudc.kernels.overlap import FIRST_ARCH

_PTX = """.version {version}
.target sm_{arch}
.address_size 64
.visible .entry mark(.param .u64 at)
{{
  .reg .u64 %rd<3>;
  ld.param.u64 %rd1, [at];
  cvta.to.global.u64 %rd1, %rd1;
{begin}  mov.u64 %rd2, %globaltimer;
  st.global.u64 [%rd1], %rd2;
  ret;
}}
"""
_BEGIN = "  griddepcontrol.launch_dependents;\n  griddepcontrol.wait;\n"


def mark_ptx(*, overlapping: bool) -> str:
    """The kernel, in the driver's own language."""
    if overlapping:
        return _PTX.format(version="7.8", arch=FIRST_ARCH, begin=_BEGIN)
    return _PTX.format(version="6.0", arch=50, begin="")


class Marks:
    """Places for so many times. ToolchainError without a CUDA driver."""

    def __init__(self, count: int, *, overlapping: bool) -> None:
        self.ns = torch.zeros(count, dtype=torch.int64, device="cuda")
        """The times that the marks wrote last, nanoseconds of the GPU's clock."""
        self._function = _function(torch.cuda.current_device(), overlapping)

    def __call__(self, index: int) -> None:
        """A mark on torch's current stream, behind all that is there."""
        driver = cuda_driver()
        assert driver is not None
        at = ctypes.c_uint64(self.ns.data_ptr() + self.ns.element_size() * index)
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(at))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        one = [ctypes.c_uint(1)] * 6
        checked(driver.cuLaunchKernel(self._function, *one, ctypes.c_uint(0), stream, arguments, None), "marking")


@cache
def _function(device: int, overlapping: bool) -> ctypes.c_void_p:
    """The kernel, loaded on that device, which is the current one."""
    driver = cuda_driver()
    if driver is None:
        raise ToolchainError("libcuda.so.1 is not here, so no kernel can be timed", "install the NVIDIA driver")
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    text = mark_ptx(overlapping=overlapping).encode()
    checked(driver.cuModuleLoadData(ctypes.byref(module), text), "a mark was loaded")
    checked(driver.cuModuleGetFunction(ctypes.byref(function), module, b"mark"), "a mark was loaded")
    return function
