"""How much memory a training step really takes on a CPU."""

from collections.abc import Callable
from typing import Any

import torch


def most_allocated(run: Callable[[], Any]) -> int:
    """The most bytes that tensors made within `run` held at once."""
    profiler: Any = torch.profiler  # untyped
    activities = [profiler.ProfilerActivity.CPU]
    with profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
