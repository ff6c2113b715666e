"""What runs look like: plots, measures in words, and the page of a run."""
