"""The evaluation suite: parts that measure several autoencoders and baselines together."""
