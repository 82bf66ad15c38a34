"""Layer skipping: one decision a block and sample; a spatial patch as large as the map (LAUDNet, section 3.1)."""

from __future__ import annotations

from laudc.paradigms.spatial import Spatial
from laudc.program import Block


class Layer(Spatial):
    takes_granularity = False

    def default_granularity(self, block: Block) -> int:
        """0: the whole map, whatever its size."""
        return 0

    def whole(self, block: Block) -> int:
        """0, as any block."""
        return 0

    def granularities(self, block: Block) -> tuple[int, ...]:
        """The one there is."""
        return (0,)


PARADIGM = Layer()
