"""A run on several processes, as torchrun starts them."""

from __future__ import annotations

import gc
import os
import platform
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from fergeneral.encoder import choose_device
from fergeneral.train.config import Recipe


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
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        return self

    def __exit__(self, *exc: object) -> None:
        if self.count > 1:
            if exc[0] is None:
                dist.barrier()  # nobody leaves while another still needs the connection
            gc.collect()  # a DistributedDataParallel that outlives its group aborts the process when it ends
            dist.destroy_process_group()

    def share(self, batch: int) -> slice:
        """The rows of a global batch that this process computes."""
        each = batch // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def of_first(self, value: float) -> float:
        """The first process's value, on every process."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], device=self.device, dtype=torch.float32)
        dist.broadcast(shared, 0)
        return float(shared)

    def wrap(self, network: nn.Module, recipe: Recipe) -> nn.Module:
        """The network to call: with several processes, one that averages their gradients."""
        if self.count == 1:
            return network
        if self.device.type == "cuda":
            if recipe.synchronised_batchnorm:
                network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
            return nn.parallel.DistributedDataParallel(network, device_ids=[self.device.index])
        return nn.parallel.DistributedDataParallel(network)


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
