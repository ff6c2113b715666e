"""Studies of steering: several ways to steer, at equal cost, on the same prompts and seeds."""
