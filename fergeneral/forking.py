"""What lets a process that has used this package fork: os.fork, multiprocessing's "fork", a DataLoader's workers.

A forked child has one thread, the one that forked, and its parent's memory as it was at that moment. So the threads of
OpenMP, which torch shares work out to, are gone: it would wait for them without end. And a lock that another thread
held stays held: torch, oneDNN and ONNX Runtime have such locks, out of our reach. Hence torch uses one thread in a
child (as in a DataLoader's workers), and a fork waits until no other thread is inside these libraries for us.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_changed = threading.Condition()  # guards the next two
_inside: Counter[int] = Counter()  # native calls under way, by thread
_forks = 0  # that wait for those calls


@contextmanager
def native_call() -> Iterator[None]:
    """Around calls into torch or ONNX Runtime, or as a decorator: a fork in another thread waits for their end."""
    thread = threading.get_ident()
    with _changed:
        while _forks and thread not in _inside:
            _changed.wait()
        _inside[thread] += 1
    try:
        yield
    finally:
        with _changed:
            _inside[thread] -= 1
            if not _inside[thread]:
                del _inside[thread]
                _changed.notify_all()


def fork_safe_lock() -> threading.Lock:
    """A lock that nobody holds in a forked child."""
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
        os.register_at_fork(after_in_child=lock._at_fork_reinit)  # type: ignore[attr-defined]
    return lock


def _before_fork() -> None:
    global _forks
    _changed.acquire()  # until the fork is made
    _forks += 1
    while any(thread != threading.get_ident() for thread in _inside):
        _changed.wait()


def _after_fork() -> None:
    global _forks
    _forks -= 1
    _changed.notify_all()
    _changed.release()


def _begin_child() -> None:
    global _changed, _forks
    _changed, _forks = threading.Condition(), 0
    for thread in set(_inside) - {threading.get_ident()}:
        del _inside[thread]
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_begin_child)
