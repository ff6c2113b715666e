"""The ways to steer that a study knows by name."""
