"""Instruction data scored and selected by its likeness to a target task."""
