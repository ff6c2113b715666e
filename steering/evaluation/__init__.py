"""What steering does to a model and its texts: toxicity, fluency, capability, dose, and how sure.

What steers is given as a function without arguments that returns a context manager, so that any way
of steering is measured alike.
"""
