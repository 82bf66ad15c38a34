"""What a network will take before it has run: models of time, by name."""
