"""How training uses its machine: threads, memory, copies to and from a GPU, stopping."""
