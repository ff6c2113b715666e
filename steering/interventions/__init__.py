"""What is steered, where and when, and the hooks that do it."""
