"""Files of rows and texts: which there are, reading them in every format, and a row's text."""
