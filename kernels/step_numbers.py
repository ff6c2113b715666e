"""The numbers of an Adam step, by value or in a device's memory.

A CUDA graph of a step repeats its launches with the arguments that they had. What is another number
in the next step must lie in memory, where the kernel reads it and the host writes it before.
"""

from typing import NamedTuple

import torch


class StepNumbers(NamedTuple):
    """What alone changes from one Adam step to the next."""

    lr: float
    correction1: float
    """1 - b1^t"""
    correction2: float
    """1 - b2^t"""


def step_numbers(step: int, lr: float, betas: tuple[float, float]) -> StepNumbers:
    """The numbers of a step, counted from 1. Raises ValueError if it is below 1."""
    if step < 1:
        raise ValueError(f"step is {step}, but steps count from 1")
    return StepNumbers(lr, 1 - betas[0] ** step, 1 - betas[1] ** step)


class NumbersInMemory:
    """The numbers of the next step where a recorded kernel reads them.

    Attributes:
        on_device: [3] float32, on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_host = torch.empty(3, pin_memory=device.type == "cuda")
        self.on_device = torch.empty(3, device=device)

    def send(self, numbers: StepNumbers) -> None:
        """Queue the copy to the device, for which nobody waits; the one before must have ended."""
        for place, number in enumerate(numbers):
            self._on_host[place] = number  # rounded to float32, as an argument of a launch is
        self.on_device.copy_(self._on_host, non_blocking=True)
