"""A trained autoencoder for other people: a folder for the hub, and its model card."""
