"""A look at a site before an autoencoder is trained there."""
