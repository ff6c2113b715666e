"""From a corpus to batches of activations: rows of files, the activation cache, the stream."""
