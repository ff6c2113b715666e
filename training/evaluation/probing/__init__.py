"""K-sparse probing: whether few latents of an autoencoder tell the label of a text."""
