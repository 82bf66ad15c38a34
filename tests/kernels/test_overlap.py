"""Launches that overlap: what is put into the source of a kernel, and that nothing else is."""

from __future__ import annotations

from laudc.kernels.overlap import beginning_early

TWO = """\
__device__ int other(int x) { return x; }
extern "C" __global__ void __launch_bounds__(128) first(float* y);
extern "C" __global__ void __launch_bounds__(128) first(float* y) {
  y[0] = 1.0f;
}
extern "C" __global__ void second(float* y) { y[1] = 2.0f; }
"""


def test_every_kernel_begins_with_both_words_in_this_order() -> None:
    source = beginning_early(TWO)
    assert source.count("griddepcontrol.launch_dependents") == source.count("griddepcontrol.wait") == 2
    for name in ("first(float* y) {", "second(float* y) {"):
        after = source.split(name)[1]
        assert after.index("launch_dependents") < after.index("wait") < after.index("y[")
    assert "other(int x) { return x; }" in source
    assert "first(float* y);" in source


def test_a_kernel_that_places_them_itself_stays() -> None:
    own = 'extern "C" __global__ void kernel() { asm volatile("griddepcontrol.wait;"); }'
    assert beginning_early(own) == own
