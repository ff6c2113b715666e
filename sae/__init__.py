"""The sparse autoencoder, its file format, and the site in a language model that it reads."""
