"""Whether a reader recognizes a feature: a quiz on its examples, and how answers are scored."""
