"""Features, interventions, detoxification and data selection with a trained autoencoder."""
