"""The few calls of the CUDA driver that torch has no words for."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def cuda_driver() -> ctypes.CDLL | None:
    """The driver, where there is one."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def checked(status: int, doing: str) -> None:
    """RuntimeError unless a call of the driver returned success. doing: what the call was for."""
    if status:
        raise RuntimeError(f"the CUDA driver returned {status} while {doing}")
