"""The parts of the suite, one file each."""
