"""Methods that are fitted to texts: a file for each, chosen by name in `FIT_METHODS`."""
