# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# The functions below are TVMScript: TVM reads their text, Python never runs them.
"""A convolution on samples that decides itself which they are, on one of the running logits.

every block    takes all decisions, to know its own rows: a thread a sample, a word of shared memory a warp
one more       has no rows; it writes down what was decided, and lets the running logits of the maskers that come begin
               anew. Only then may the next kernel be placed, which reads that list before its own wait.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from laudc.ops._running import UNITS
from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_samples import NTH_BIT
from laudc.schedules._cuda_tiles import TensorTile

_DECIDE = f"""
__device__ __forceinline__ long long decide_samples(long long* running, int maskers, float bias, int turn,
    const float* given, int batch, int n, void* shared, float* mask, float* logits, int* listed, bool writes) {{
  unsigned* words = (unsigned*)shared;
  int found = 0, before = 0;
  for (int first = 0; first < batch; first += blockDim.x) {{
    int sample = first + threadIdx.x;
    float forced = -1.0f, logit = -1.0f;
    if (sample < batch) {{
      forced = __ldcg(given + sample);
      logit = __ll2float_rn(__ldcg(running + (long long)sample * maskers + turn)) * {1 / UNITS!r}f + bias;
    }}
    bool on = forced >= 0.0f ? forced != 0.0f : logit >= 0.0f;
    unsigned its = __ballot_sync(0xffffffffu, on && sample < batch);
    if (first) __syncthreads();
    if ((threadIdx.x & 31) == 0) words[threadIdx.x >> 5] = its;
    __syncthreads();
    int ahead = before + __popc(its & ((1u << (threadIdx.x & 31)) - 1u)), rest = 0, at = 0;
    unsigned bits = 0;
    for (int word = 0; word < (blockDim.x >> 5); ++word) {{
      unsigned here = words[word];
      int count = __popc(here), its_rest = n - before;
      bool in_it = its_rest >= 0 && its_rest < count;
      bits = in_it ? here : bits;
      rest = in_it ? its_rest : rest;
      at = in_it ? first + word * 32 : at;
      ahead += word < (threadIdx.x >> 5) ? count : 0;
      before += count;
    }}
    if (bits) found = at + nth_bit(bits, rest);
    if (writes && sample < batch) {{
      mask[sample] = forced >= 0.0f ? forced : on ? 1.0f : 0.0f;
      logits[sample] = logit;
      if (on) {{
        listed[1 + ahead] = sample;
        for (int next = turn + 1; next < maskers; ++next) running[(long long)sample * maskers + next] = 0;
      }}
    }}
  }}
  if (writes) {{
    if (threadIdx.x == 0) listed[0] = before;
    __threadfence();
    __syncthreads();
  }}
  return ((long long)before << 32) | found;
}}
"""


def decide(p: Problem, tile: TensorTile) -> Any:
    """The inline function that finds for every thread how many samples are on, times 2^32, and which is the n-th of
    them, as `scan_samples` does. own: the masker's bias, and which of the running logits is its."""
    maskers = p.deciding

    @T.inline
    def take(scanned, deciding, own, given, batch, n, words, mask, keep, listed, writes):
        if tile.overlapping and not writes:
            T.ptx.griddepcontrol.launch_dependents()
        scanned[0] = T.cuda.func_call(
            "decide_samples",
            deciding.ptr_to([0, 0]),
            maskers,
            own[0],
            T.Cast("int32", own[1]),
            given.ptr_to([0, 0, 0]),
            batch,
            n,
            words.ptr_to([0]),
            mask.ptr_to([0, 0, 0]),
            keep.ptr_to([0, 0, 0]),
            listed.ptr_to([0]),
            writes,
            source_code=NTH_BIT + _DECIDE,
            return_type="int64",
        )
        if tile.overlapping and writes:
            T.ptx.griddepcontrol.launch_dependents()

    return take
