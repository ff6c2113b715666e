"""One item of work ahead: the next is made in a thread while the last is in use."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def one_ahead(load: Callable[[T], R], items: Iterator[T]) -> Generator[R]:
    """`map(load, items)` with the next item loaded in a thread while the last one is in use.

    What `load` raises is raised here, in its turn. Closing the generator ends the thread.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as pool:
        item = next(items, None)
        waiting = pool.submit(load, item) if item is not None else None
        while waiting is not None:
            loaded = waiting.result()
            item = next(items, None)
            waiting = pool.submit(load, item) if item is not None else None
            yield loaded
            del loaded
