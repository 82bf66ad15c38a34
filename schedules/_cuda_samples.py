# mypy: allow-untyped-defs, allow-untyped-calls
"""Decisions on whole samples, read by the kernels themselves.

decisions   a warp looks at 32 samples at a time
list        how many are on, and the n-th of them, read at once
"""

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

NTH_BIT = """
__device__ __forceinline__ int nth_bit(unsigned bits, int rest) {
  int low = 0;
#pragma unroll
  for (int half = 16; half; half >>= 1) {
    int below = __popc((bits >> low) & ((1u << half) - 1u));
    bool above = rest >= below;
    rest -= above ? below : 0;
    low += above ? half : 0;
  }
  return low;
}
"""

_SCAN = """
__device__ __forceinline__ long long scan_samples(const float* on, int batch, int n) {
  int found = 0, before = 0;
  for (int first = 0; first < batch; first += 128) {
    bool is_on[4];
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      int sample = first + word * 32 + (threadIdx.x & 31);
      is_on[word] = sample < batch && __ldcg(on + sample) != 0.0f;
    }
    unsigned bits = 0;
    int rest = n - before, at = 0;
    bool here = false;
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      unsigned its = __ballot_sync(0xffffffffu, is_on[word]);
      int count = __popc(its), its_rest = n - before;
      bool in_it = its_rest >= 0 && its_rest < count;
      bits = in_it ? its : bits;
      rest = in_it ? its_rest : rest;
      at = in_it ? first + word * 32 : at;
      here = here || in_it;
      before += count;
    }
    int low = nth_bit(bits, rest);
    found = here ? at + low : found;
  }
  return ((long long)before << 32) | found;
}
"""


_LISTED = """
__device__ __forceinline__ long long listed_sample(const int* listed, int batch, int n) {
  int found = __ldcg(listed), nth = __ldcg(listed + 1 + (n < batch ? n : 0));
  return ((long long)found << 32) | (n < found ? nth : 0);
}
"""


def samples_on(decisions: tirx.Buffer, batch: Any) -> Any:
    """How many are on. Every thread of a warp has to ask, and gets the same answer."""
    return T.cuda.func_call("samples_on", decisions.ptr_to([0, 0, 0]), batch, source_code=_COUNT, return_type="int32")


def scan_samples(decisions: tirx.Buffer, batch: Any, n: Any) -> Any:
    """How many are on, times 2^32, and the number of the n-th of them, 0 past the last. Every thread of a warp has to
    ask, each for its own n."""
    return T.cuda.func_call(
        "scan_samples", decisions.ptr_to([0, 0, 0]), batch, n, source_code=NTH_BIT + _SCAN, return_type="int64"
    )


def listed_sample(listed: tirx.Buffer, batch: Any, n: Any) -> Any:
    """How many are on, times 2^32, and the number of the n-th of them, 0 past the last."""
    return T.cuda.func_call("listed_sample", listed.ptr_to([0]), batch, n, source_code=_LISTED, return_type="int64")


def found_on(scanned: Any) -> Any:
    return T.Cast("int32", T.shift_right(scanned, T.int64(32)))


def nth_on(scanned: Any) -> Any:
    return T.Cast("int32", T.bitwise_and(scanned, T.int64(0x7FFFFFFF)))
