"""The activations: which latents of a row are kept. One file each, chosen by name."""
