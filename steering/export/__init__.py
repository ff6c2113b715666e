"""Interventions for other tools: a file for each format, chosen by name in `STEERING_FORMATS`."""
