"""Toxicity of generated text: prompts, scorer, measurements."""
