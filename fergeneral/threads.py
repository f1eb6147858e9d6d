"""How many threads there are to use, and calls that run ahead in them."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch

from fergeneral.forking import fork_safe_lock

MAX_WORKERS = (
    8  # each holds one photo; beyond some threads Python's interpreter lock, not the cores, is what they share
)

Item = TypeVar("Item")
Result = TypeVar("Result")

# Held where torch's count of threads is not what it is to be: a thread that is new to torch takes over the count of the
# moment, and keeps it.
_counting = fork_safe_lock()


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
def core_limit() -> Iterator[None]:
    """Keep torch from using more threads than there are cores, for the length of the block.

    Nothing happens where torch's count is right, which is everywhere but under a CPU quota.
    """
    before = torch_threads()
    limit = min(before, available_cores())
    if limit == before:
        yield
        return
    torch.set_num_threads(limit)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def torch_threads() -> int:
    """How many threads torch uses for a call from this thread."""
    with _counting:
        return torch.get_num_threads()


def worker_count() -> int:
    """One for each core, at most MAX_WORKERS, and no more than torch's threads (torch.set_num_threads)."""
    return min(torch_threads(), available_cores(), MAX_WORKERS)


@contextmanager
def worker_pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `count` threads, in each of which torch uses one thread: work is shared out by calls, not inside them.

    At the end of the block, calls not yet begun are dropped and those under way are waited for.
    """
    ready = threading.Barrier(count + 1)
    members: set[int] = set()

    def begin() -> None:
        members.add(threading.get_ident())
        torch.get_num_threads()  # makes this thread's own setting, which the next line then changes
        torch.set_num_threads(1)
        with suppress(threading.BrokenBarrierError):
            ready.wait()

    pool = ThreadPoolExecutor(count, "fergeneral", initializer=begin)
    try:
        with _counting:
            _start(pool, count, ready)
        yield pool
    finally:
        # An iterator that was left is closed by whichever thread collects garbage. That may be one of the pool's, which
        # cannot wait for itself.
        pool.shutdown(wait=threading.get_ident() not in members, cancel_futures=True)


def _start(pool: ThreadPoolExecutor, count: int, ready: threading.Barrier) -> None:
    """Have all threads begin, each with its own count of 1 for torch, which sets that of later threads, too."""
    before = torch.get_num_threads()
    try:
        for _ in range(count):
            pool.submit(int)  # a pool starts a thread when it is given work
        ready.wait()
    except BaseException:  # Ctrl-C, or the system gives no more threads: those that began must not wait for the others
        ready.abort()
        pool.shutdown(cancel_futures=True)
        raise
    finally:
        torch.set_num_threads(before)  # of this thread and those to come; the pool's threads keep their own


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
    while failure is None:
        try:
            waiting.append(pool.submit(function, next(source)))
        except StopIteration:
            break
        except Exception as error:
            failure = error
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
    if failure is not None:
        raise failure
