"""How a training process uses its machine: threads, memory, prefetching, host reads, stopping."""
