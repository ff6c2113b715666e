"""What a training run will cost, said before it begins."""
