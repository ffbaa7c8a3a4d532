"""Several processes that train as one: the same batches, the same BatchNorm statistics, the same gates."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as collective
from torch.nn.parallel import DistributedDataParallel

from ...errors import InputError


@dataclass(frozen=True)
class Ranks:
    """This process among all: `rank` in [0, world)."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.world > 1:
            tensor = tensor.clone()
            distributed.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        return self.total(tensor) / self.world

    def shard(self, batch: int) -> int:
        """How many examples of a batch are this process's.

        Raises:
            InputError: the batch cannot be dealt out equally.
        """
        if batch % self.world:
            raise InputError(f"a batch of {batch} cannot be dealt out to {self.world} processes")
        return batch // self.world

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with gradients that are means over all processes."""
        return network if self.world == 1 else DistributedDataParallel(network, broadcast_buffers=False)


def join(device: str) -> Ranks:
    """Join the group that torchrun announced in the environment, or be alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks()
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Ranks(distributed.get_rank(), distributed.get_world_size())


class _Synchronized(nn.modules.batchnorm._BatchNorm):
    """BatchNorm whose statistics in training are those of the whole batch, on any device."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or torch.compiler.is_exporting() or distributed.get_world_size() == 1:
            return super().forward(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(input.dim())]
        x = input.float()
        count = x.numel() / x.shape[1] * distributed.get_world_size()
        # two passes: the difference of large squares would lose digits
        mean = collective.all_reduce(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = collective.all_reduce(centred.square().sum(axes)) / count
        self._keep(mean, variance * count / (count - 1))
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        found = centred * scale.view(shape)
        if self.bias is not None:
            found = found + self.bias.view(shape)
        return found.to(input.dtype)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        """Take the statistics of a batch into the running ones, if any are kept: without a momentum, as their mean."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def synchronize(network: nn.Module, ranks: Ranks) -> None:
    """Let every BatchNorm of the network take the statistics of the whole batch. Changes the network.

    torch.nn.SyncBatchNorm does the same on GPUs only.
    """
    if ranks.world > 1:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.__class__ = _Synchronized
