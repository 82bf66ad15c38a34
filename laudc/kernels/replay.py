"""A network's launches as one CUDA graph, so that the host does one launch a call and never waits.

The first call is made launch by launch, which also loads the kernels; then the graph is captured, and replayed from
the next call on.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from laudc.kernels.overlap import overlap_launches


class Replay:
    """`launch` makes every call on torch's current stream, always the same ones on the same buffers. overlapping:
    whether its kernels are written to be placed before the one ahead of them is done."""

    def __init__(self, launch: Callable[[], None], *, overlapping: bool) -> None:
        self._launch = launch
        self._overlapping = overlapping and hasattr(torch.cuda.CUDAGraph, "raw_cuda_graph")
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """The network on torch's current stream; a caller that is capturing a graph gets the launches into its own."""
        if torch.cuda.is_current_stream_capturing():
            self._launch()
        elif self.graph is None:
            self._launch()
            self.graph = self._captured()
        else:
            self.graph.replay()

    def _captured(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph(keep_graph=True) if self._overlapping else torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._launch()
            finally:
                graph.capture_end()
        if self._overlapping:
            overlap_launches(graph.raw_cuda_graph())
            graph.instantiate()
        return graph
