"""Directions, maps and gates of steering, fitted to texts."""
