"""Whether asking for a value makes the host wait.

A GPU works through what the host queues. Python can only branch on a value of a tensor, index by
where a mask is true, or copy a list to the device, once the GPU has done all that was queued
before; between two tokens of a text that leaves it idle. On a CPU such a value is there at once,
and looking first saves work.
"""

import torch


def is_queued(device: torch.device) -> bool:
    """Whether the host would wait for a value on this device: on all but the CPU."""
    return device.type != "cpu"
