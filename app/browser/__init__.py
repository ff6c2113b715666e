"""The feature browser, the playground and the endpoint, served to this machine alone."""
