"""The pages and what they ask for, a file for each."""
