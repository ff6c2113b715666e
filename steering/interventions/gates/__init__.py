"""Where interventions apply: a file for each family of gates, chosen by name."""
