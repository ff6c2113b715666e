"""The `sparsteer` command."""
