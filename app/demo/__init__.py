"""The whole chain on the default model, and the report that shows it."""
