"""The quiz on features as a page that opens from disk."""
