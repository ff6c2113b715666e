"""Several processes that train one autoencoder, data parallel or with its latents sharded."""
