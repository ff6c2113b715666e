"""File layouts of autoencoders: this package's own and those of other libraries."""
