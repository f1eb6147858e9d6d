"""A run on several processes, as torchrun starts them."""

from __future__ import annotations

import gc
import os
import platform
import secrets
import time
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from fergeneral.encoder import choose_device
from fergeneral.errors import TrainingError
from fergeneral.train.config import Recipe

# How long a process waits for another that is silent before it gives up. One that dies is noticed at once on one
# machine; the wait is for a machine that hangs, and must be longer than loading the data differs between machines.
_TIMEOUT = timedelta(minutes=10)


class Processes:
    """The processes of a run: one, or those that torchrun started (nccl on CUDA, gloo else)."""

    def __init__(self, device: str | None = None) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.device = choose_device(device)
        if self.count > 1 and self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(self.device)

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def machine(self) -> str:
        """What the run computes on: "2 x NAME" of a GPU, or "cpu" with the number of threads in all."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
            return f"{self.count} x {name}" if self.count > 1 else name
        threads = self.count * torch.get_num_threads()
        return f"{self.device.type} ({platform.machine()}, {threads} thread{'s' if threads > 1 else ''})"

    def __enter__(self) -> Processes:
        if self.count > 1:
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            try:
                store = _store_of_this_start(self.rank, self.count)
                dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.count, timeout=_TIMEOUT)
            except RuntimeError as error:
                raise TrainingError(f"the {self.count} processes cannot reach each other: {error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.count == 1:
            return
        if error is None:
            dist.barrier()  # nobody leaves while another still needs the connection
            gc.collect()  # a DistributedDataParallel that outlives its group aborts the process when it ends
            dist.destroy_process_group()  # not after an error: it would wait for the others, who may be gone
        elif _is_of_connection(error):
            raise TrainingError(
                f"lost another of the {self.count} processes ({error}); --resume goes on from the last checkpoint, by "
                f"itself under torchrun --max-restarts"
            ) from error

    def share(self, batch: int) -> slice:
        """The rows of a global batch that this process computes. Raises TrainingError where it does not divide."""
        if batch % self.count:
            counts = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
            raise TrainingError(
                f"a batch of {batch} images cannot be divided among {self.count} processes; start one of {counts}"
            )
        each = batch // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def of_first(self, value: float) -> float:
        """The first process's value, on every process."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], device=self.device, dtype=torch.float32)
        dist.broadcast(shared, 0)
        return float(shared)

    def any_of(self, value: bool) -> bool:
        """Whether it is true on any process, on every process."""
        if self.count == 1:
            return value
        shared = torch.tensor([float(value)], device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return bool(shared)

    def wrap(self, network: nn.Module, recipe: Recipe) -> nn.Module:
        """The network to call: with several processes, one that averages their gradients."""
        if self.count == 1:
            return network
        if self.device.type == "cuda":
            if recipe.synchronised_batchnorm:
                network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
            return nn.parallel.DistributedDataParallel(network, device_ids=[self.device.index])
        return nn.parallel.DistributedDataParallel(network)


def _store_of_this_start(rank: int, count: int) -> Any:
    """A part of torchrun's store that holds nothing yet, the same on all processes that were started together.

    torchrun keeps its store when it starts the processes again, and torch writes its addresses under the same keys
    each time, so that a process would find those of one that has died (github.com/pytorch/pytorch/issues/135712).
    The number of restarts does not tell the starts apart, since each machine counts its own. So the first process
    draws a token, answers with it whoever asks with a token of its own, and waits until all others have got it.
    """
    stores: Any = dist  # whose stores mypy does not see
    store, _, _ = next(stores.rendezvous("env://", rank, count, timeout=_TIMEOUT))
    store.set_timeout(_TIMEOUT)
    token = secrets.token_hex(8)
    if rank > 0:
        store.set(f"question/{rank}", token)
        answer = store.get(f"answer/{token}").decode()
        store.set(f"{answer}/{rank}", "got")
        return stores.PrefixStore(answer, store)
    deadline = time.monotonic() + _TIMEOUT.total_seconds()
    others = set(range(1, count))
    while others:
        for other in others:
            if store.check([f"question/{other}"]):  # perhaps an old one, whose answer nobody will read
                store.set(f"answer/{store.get(f'question/{other}').decode()}", token)
        others = {other for other in others if not store.check([f"{token}/{other}"])}
        if time.monotonic() > deadline:
            raise TrainingError(f"waited {_TIMEOUT} for the processes {sorted(others)}")
        time.sleep(0.02)
    return stores.PrefixStore(token, store)


def _is_of_connection(error: BaseException) -> bool:
    """Whether an error came from the connection between processes; gloo's have no class of their own."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


class _Gather(torch.autograd.Function):
    """All ranks' rows, in rank order; the gradient of a rank's rows is summed over the ranks that used them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather(rows: Tensor) -> Tensor:
    """(n, ...) of every process -> (n * processes, ...), with gradients. With one process: `rows`."""
    gathered: Tensor = _Gather.apply(rows) if dist.is_initialized() else rows
    return gathered
