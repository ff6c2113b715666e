"""How the vector of a feature is found, along which it is steered."""
