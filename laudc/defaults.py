"""What holds where nothing is said, for commands too that have not imported torch yet."""

DEFAULT_RATE = 0.5
"""What is expected to stay on where nobody says."""

DEFAULT_PARADIGM = "spatial"

AUTO = "auto"
"""In place of paradigms: the planner takes one for each block."""
