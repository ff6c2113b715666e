"""Several processes under torchrun: their collectives, data parallel, and sharded latents."""
