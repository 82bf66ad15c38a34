"""A network's launches as one CUDA graph, so that the host does one launch a call and never waits.

There is a graph for each set of maskers whose decisions are given. What is given is copied to where the graph reads
it, so any values may be given to the same graph. The first call of a set is made launch by launch, which also loads
the kernels; then its graph is captured, and replayed from the next call on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Launch = Callable[[Mapping[str, Tensor]], None]


class Replays:
    """`launch` makes every call on torch's current stream. decided: where the decisions of each masker lie."""

    def __init__(self, launch: Launch, decided: Mapping[str, Tensor]) -> None:
        self._launch = launch
        self._given = {key: torch.zeros_like(mask) for key, mask in decided.items()}
        self._graphs: dict[frozenset[str], torch.cuda.CUDAGraph] = {}

    def __call__(self, masks: Mapping[str, Tensor]) -> None:
        """The network on torch's current stream; a caller that is capturing a graph gets the launches into its own."""
        given = {key: buffer for key, buffer in self._given.items() if key in masks}
        for key, buffer in given.items():
            buffer.copy_(masks[key], non_blocking=True)
        graph = self._graphs.get(frozenset(given))
        if torch.cuda.is_current_stream_capturing():
            self._launch(given)
        elif graph is None:
            self._launch(given)
            self._graphs[frozenset(given)] = self._captured(given)
        else:
            graph.replay()

    def _captured(self, given: Mapping[str, Tensor]) -> torch.cuda.CUDAGraph:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._launch(given)
            finally:
                graph.capture_end()
        return graph
