"""How many threads to use, the settings of torch and numpy to compute under, and calls that run ahead in threads."""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

MAX_WORKERS = (
    8  # each holds one photo; beyond some threads Python's interpreter lock, not the cores, is what they share
)

_PROCESS = os.getpid()  # that imported this; a forked child has its parent's memory, but none of its threads

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """The cores this process may use: its affinity, and the CPU quota of its control groups (rounded up).

    `os.cpu_count` and torch know nothing of a quota: in a container held to 2 of 64 cores they see 64.
    """
    if hasattr(os, "process_cpu_count"):  # Python 3.13; also follows PYTHON_CPU_COUNT
        cores = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count()
    return max(1, min(cores or 1, math.ceil(min(cpu_quota(), 1e6))))


def cpu_quota(root: Path = Path("/")) -> float:
    """Seconds of CPU time a second that Linux's control groups (version 1 or 2) allow this process; else infinity.

    A group's parents limit it too. `root`: where proc/ and sys/ are.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    limits = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = Path(path.lstrip("/"))
        limits += [_group_quota(mount / part) for part in (group, *group.parents)]
    return min(limits)


def _group_quota(group: Path) -> float:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else math.inf  # -1: no limit
    except (OSError, ValueError, ZeroDivisionError):  # no such group here, or the quota "max"
        return math.inf


@contextmanager
def thread_limit(most: int | None = None) -> Iterator[None]:
    """In the block, keep torch from using more threads than `most` (None: than there are cores).

    Other threads keep their count. So do products of float32 matrices, which torch leaves to MKL, with a count of its
    own; convolutions, which it leaves to oneDNN, heed this one. In a forked child it is one thread: OpenMP would wait
    without end for threads that only the parent has.
    """
    before = torch.get_num_threads()
    if os.getpid() != _PROCESS:
        most = 1
    limit = min(before, available_cores() if most is None else most)
    if limit == before:
        yield
        return
    with _openmp().limit(limits=limit):
        yield


@contextmanager
def inference(device: torch.device) -> Iterator[None]:
    """In the block, networks on `device` compute in float32 without gradients, whatever the process has set.

    What may be set: gradients, autocast, numpy's treatment of floating-point errors. All of it is the thread's own, and
    is after the block as it was before.
    """
    with torch.inference_mode(), torch.autocast(device.type, enabled=False), np.errstate(all="ignore"):
        yield


@functools.cache
def _openmp() -> ThreadpoolController:
    """OpenMP, whose count of threads is each thread's own; torch.set_num_threads sets that of threads to come, too, and
    MKL's.
    """
    return ThreadpoolController().select(user_api="openmp")


def worker_count() -> int:
    """One for each core, at most MAX_WORKERS, and no more than torch's threads (torch.set_num_threads).

    In a forked child it is one, as in a DataLoader's workers: there is one such child for each core, as a rule.
    """
    if os.getpid() != _PROCESS:
        return 1
    return min(torch.get_num_threads(), available_cores(), MAX_WORKERS)


@contextmanager
def worker_pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `count` threads, in each of which torch uses one thread: work is shared out by calls, not inside them.

    At the end of the block, calls not yet begun are dropped and those under way are waited for.
    """
    members: set[int] = set()

    def begin() -> None:
        members.add(threading.get_ident())
        torch.get_num_threads()  # gives this thread the count of all, which the next line then changes
        _openmp().limit(limits=1)

    pool = ThreadPoolExecutor(count, "fergeneral", initializer=begin)
    try:
        yield pool
    finally:
        # An iterator that was left is closed by whichever thread collects garbage. That may be one of the pool's, which
        # cannot wait for itself; or it is closed when the interpreter ends, which has waited for the threads itself.
        if not sys.is_finalizing():
            pool.shutdown(wait=threading.get_ident() not in members, cancel_futures=True)


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """`map(function, items)` with the calls made in a pool, at most `ahead` of them before they are asked for.

    Results keep the order of the items, which are taken in the caller's thread. An error of a call, or of `items`
    itself, is raised after the results before it.
    """
    waiting: deque[Future[Result]] = deque()
    source = iter(items)
    failure: Exception | None = None
    process = os.getpid()
    while failure is None:
        try:
            waiting.append(pool.submit(function, next(source)))
        except StopIteration:
            break
        except Exception as error:
            failure = error
        if len(waiting) > ahead:
            yield waiting.popleft().result()
            _check_process(process)
    while waiting:
        yield waiting.popleft().result()
        _check_process(process)
    if failure is not None:
        raise failure


def _check_process(process: int) -> None:
    if os.getpid() != process:
        raise RuntimeError(
            "these results were begun before this process was forked, and its parent's threads, which make them, are "
            "not here: begin anew, by another call of extract_many"
        )
