"""Depthwise convolutions whose gradients are computed in float32.

On a CPU, oneDNN has no fast bfloat16 kernel for some of them: for 144 channels of 28 x 28 pixels, 5 x 5 and stride 2,
the gradients took 4.1 ms an image, in float32 0.4 ms (torch 2.14, one core of a Xeon with AMX).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def compute_depthwise_gradients_in_float32(network: nn.Module) -> None:
    """Replace, in place, the depthwise convolutions of `network`; names and weights stay as they are."""
    for module in network.modules():
        if (
            type(module) is nn.Conv2d
            and module.groups == module.in_channels == module.out_channels > 1
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        ):
            module.__class__ = _DepthwiseConv2d  # a copy would need every parent's attribute set


class _DepthwiseConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        result: Tensor = _Convolution.apply(x, self.weight, self.stride, self.padding, self.dilation)
        return result if self.bias is None else result + self.bias.to(result.dtype).view(1, -1, 1, 1)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding, dilation)
        return F.conv2d(x, weight, None, stride, padding, dilation, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        with torch.autocast("cpu", enabled=False):
            of_x, of_weight, _ = torch.ops.aten.convolution_backward(
                *(tensor.float() for tensor in (gradient, x, weight)),
                None, stride, padding, dilation, False, (0, 0), len(weight), (ctx.needs_input_grad[0], True, False),
            )  # fmt: skip
        return None if of_x is None else of_x.to(x.dtype), of_weight.to(weight.dtype), None, None, None
