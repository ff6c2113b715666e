"""What interventions do to an activation: a file for each family of edits, chosen by name."""
