"""Many requests generated together, each steered in its own way."""
