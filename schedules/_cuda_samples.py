# mypy: allow-untyped-defs, allow-untyped-calls
"""Decisions on whole samples, read by the kernels themselves: a warp looks at 32 samples at a time."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

_COUNT = """
__device__ __forceinline__ int samples_on(const float* on, int batch) {
  int found = 0;
#pragma unroll 4
  for (int first = 0; first < batch; first += 32) {
    int sample = first + (threadIdx.x & 31);
    found += __popc(__ballot_sync(0xffffffffu, sample < batch && __ldcg(on + sample) != 0.0f));
  }
  return found;
}
"""

_SCAN = """
__device__ __forceinline__ long long scan_samples(const float* on, int batch, int n) {
  int found = 0, before = 0;
#pragma unroll 4
  for (int first = 0; first < batch; first += 32) {
    int sample = first + (threadIdx.x & 31);
    unsigned bits = __ballot_sync(0xffffffffu, sample < batch && __ldcg(on + sample) != 0.0f);
    int here = __popc(bits), rest = n - before;
    if (rest >= 0 && rest < here) {
      int at = 0;
#pragma unroll
      for (int half = 16; half; half >>= 1) {
        int below = __popc((bits >> at) & ((1u << half) - 1u));
        if (rest >= below) { rest -= below; at += half; }
      }
      found = first + at;
    }
    before += here;
  }
  return ((long long)before << 32) | found;
}
"""


def samples_on(decisions: tirx.Buffer, batch: Any) -> Any:
    """How many are on. Every thread of a warp has to ask, and gets the same answer."""
    return T.cuda.func_call("samples_on", decisions.ptr_to([0, 0, 0]), batch, source_code=_COUNT, return_type="int32")


def scan_samples(decisions: tirx.Buffer, batch: Any, n: Any) -> Any:
    """How many are on, times 2^32, and the number of the n-th of them, 0 past the last. Every thread of a warp has to
    ask, each for its own n."""
    return T.cuda.func_call(
        "scan_samples", decisions.ptr_to([0, 0, 0]), batch, n, source_code=_SCAN, return_type="int64"
    )


def found_on(scanned: Any) -> Any:
    return T.Cast("int32", T.shift_right(scanned, T.int64(32)))


def nth_on(scanned: Any) -> Any:
    return T.Cast("int32", T.bitwise_and(scanned, T.int64(0x7FFFFFFF)))
