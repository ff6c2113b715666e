"""The interface of OpenAI for programs: models, completions, chat completions, metrics."""
