"""Both views of a batch made on the device, every sample with parameters of its own.

The transforms and their laws are torchvision's RandomResizedCrop, RandomHorizontalFlip, ColorJitter and
RandomGrayscale (as in the paper), so a view can be checked against torchvision's functions one image at a time.
ColorJitter's order is drawn once a batch. One transform is added for mixed data: AffectNet-part shows faces cut
out on black, and an encoder could read the data set from that. So, with `cutout_probability`, any image is cut to
the outline of some cut-out face, and whatever lies outside an outline is filled with a colour or with another image.

Not in the paper, and off unless a recipe asks for them: turning; boxes larger than the image, so that faces come
smaller too (its edge pixels are repeated, as at inference); low resolution, to a size drawn once a batch; a rectangle
erased by a colour (Zhong et al., AAAI 2020, arXiv 1708.04896).

Parameters are drawn on the CPU from (seed, step) alone, for the whole batch of all processes: a resumed run, and
a run on another number of processes, draw the same ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fergeneral.train.config import Recipe
from fergeneral.train.data import TrainingSet

_GREY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, as torchvision's rgb_to_grayscale
_CROP_TRIES = 10  # as torchvision's RandomResizedCrop


@dataclasses.dataclass(frozen=True)
class ViewParameters:
    """How to make n views. `index` (n,): of the image. `box` (n, 4): left, top, width, height as fractions of it.

    `flip`, `grey`, `jittered` (n,) bool. `factors` (n, 4): brightness, contrast, saturation, hue. `order`: of
    these four. `outline` (n,): of the image whose alpha is laid on, -1 for none. `fill` (n,): of the image that
    fills the outside, -1 for `colour` (n, 3) in 0..1. `angle` (n,): radians, clockwise turn of the box. `shrunk` (n,)
    bool: brought to `low_resolution` pixels a side and back. `erased` (n, 4): as `box`, of the view, in `colour`;
    without width where nothing is erased.
    """

    index: Tensor
    box: Tensor
    flip: Tensor
    grey: Tensor
    jittered: Tensor
    factors: Tensor
    outline: Tensor
    fill: Tensor
    colour: Tensor
    angle: Tensor
    shrunk: Tensor
    erased: Tensor
    order: tuple[int, ...]
    low_resolution: int

    def rows(self, chosen: slice) -> ViewParameters:
        """Some of the views."""
        return self._map(lambda tensor: tensor[chosen])

    def to(self, device: torch.device) -> ViewParameters:
        """The same parameters on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, function: Callable[[Tensor], Tensor]) -> ViewParameters:
        values: dict[str, Any] = {k: function(v) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return ViewParameters(**values)


def draw_parameters(index: Tensor, images: TrainingSet, recipe: Recipe, generator: torch.Generator) -> ViewParameters:
    """Parameters for one view of each image in `index` (n,)."""
    n = len(index)

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    def chosen(probability: float) -> Tensor:
        return uniform(n) < probability

    def some(count: int) -> Tensor:
        return torch.randint(max(1, count), (n,), generator=generator)

    if len(images.cut_out):
        outline = torch.where(chosen(recipe.cutout_probability), images.cut_out[some(len(images.cut_out))], -1)
    else:
        outline = torch.full((n,), -1)

    b, c, s, h = recipe.jitter
    bounds = ((1 - b, 1 + b), (1 - c, 1 + c), (1 - s, 1 + s), (-h, h))
    turn = math.radians(recipe.rotation)
    shortest, longest = recipe.erase_side
    erased_size = uniform(n, 2, low=shortest, high=longest) * chosen(recipe.erase_probability)[:, None]
    lowest, highest = recipe.low_resolution
    return ViewParameters(
        index=index,
        box=_draw_boxes(n, recipe, generator),
        flip=chosen(0.5),
        grey=chosen(recipe.grey_probability),
        jittered=chosen(recipe.jitter_probability),
        factors=torch.stack([uniform(n, low=low, high=high) for low, high in bounds], dim=1),
        outline=outline,
        fill=torch.where(chosen(0.5), some(len(images)), -1),
        colour=uniform(n, 3),
        angle=uniform(n, low=-turn, high=turn),
        shrunk=chosen(recipe.low_resolution_probability),
        erased=torch.cat([uniform(n, 2) * (1 - erased_size), erased_size], dim=1),
        order=tuple(torch.randperm(4, generator=generator).tolist()),
        low_resolution=int(torch.randint(lowest, highest + 1, (), generator=generator)),
    )


def _draw_boxes(n: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """RandomResizedCrop's law on a unit square: the first of ten (area, ratio) pairs that fits, else all of it.

    With areas above 1, a box fits a square of the largest area, and one larger than the image lies around it.
    """
    area = torch.rand(n, _CROP_TRIES, generator=generator)
    area = recipe.crop_scale[0] + area * (recipe.crop_scale[1] - recipe.crop_scale[0])
    low, high = (math.log(ratio) for ratio in recipe.crop_ratio)
    ratio = torch.exp(low + torch.rand(n, _CROP_TRIES, generator=generator) * (high - low))
    size = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=2)
    fits = (size <= max(1.0, recipe.crop_scale[1] ** 0.5)).all(dim=2)
    first = fits.int().argmax(dim=1)
    size = torch.where(fits.any(dim=1, keepdim=True), size[torch.arange(n), first], 1.0)
    corner = torch.rand(n, 2, generator=generator) * (1 - size)
    return torch.cat([corner, size], dim=1)


def make_views(images: TrainingSet, views: ViewParameters, size: int) -> Tensor:
    """(n, 3, size, size) float32 in 0..1, before normalisation."""
    grid = _sampling_grid(views, size)
    x = _sample(images.pixels[views.index], grid)
    rgb, alpha = x[:, :3], x[:, 3:]
    if len(images.cut_out):  # without cut-out faces in the data, alpha is 1 everywhere
        # An empty selection costs nothing; indices of -1 are replaced by the sample itself.
        laid_on = views.outline >= 0
        outline = torch.where(laid_on, views.outline, views.index)
        alpha = alpha * torch.where(laid_on.view(-1, 1, 1, 1), _sample(images.pixels[outline, 3:], grid), 1.0)
        filled = views.fill >= 0
        other = _sample(images.pixels[torch.where(filled, views.fill, views.index), :3], grid)
        outside = torch.where(filled.view(-1, 1, 1, 1), other, views.colour.view(-1, 3, 1, 1))
        rgb = rgb * alpha + outside * (1 - alpha)
    rgb = _jitter(rgb, views)
    rgb = torch.where(views.grey.view(-1, 1, 1, 1), _grey(rgb), rgb)
    return _erase(_shrink(rgb, views), views)


def _sampling_grid(views: ViewParameters, size: int) -> Tensor:
    """(n, size, size, 2) in grid_sample's coordinates, -1..1 from edge to edge."""
    centres = (torch.arange(size, device=views.box.device) + 0.5) / size
    left, top, width, height = (column[:, None] for column in views.box.unbind(dim=1))
    along = torch.where(views.flip[:, None], 1 - centres, centres)
    across = ((along - 0.5) * width)[:, None, :]  # from the box's centre
    down = ((centres - 0.5) * height)[:, :, None]
    cos, sin = views.angle.cos()[:, None, None], views.angle.sin()[:, None, None]
    x = (left + 0.5 * width)[:, :, None] + cos * across - sin * down
    y = (top + 0.5 * height)[:, :, None] + sin * across + cos * down
    return torch.stack([x, y], dim=3) * 2 - 1


def _sample(pixels: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(pixels.float() / 255, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _grey(rgb: Tensor) -> Tensor:
    weights = torch.tensor(_GREY, device=rgb.device, dtype=rgb.dtype).view(1, 3, 1, 1)
    return (rgb * weights).sum(dim=1, keepdim=True).expand_as(rgb)


def _shrink(rgb: Tensor, views: ViewParameters) -> Tensor:
    size, low = rgb.shape[-1], views.low_resolution
    if low >= size:
        return rgb
    small = F.interpolate(rgb, size=(low, low), mode="bilinear", antialias=True)
    back = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    return torch.where(views.shrunk.view(-1, 1, 1, 1), back, rgb)


def _erase(rgb: Tensor, views: ViewParameters) -> Tensor:
    centres = (torch.arange(rgb.shape[-1], device=rgb.device) + 0.5) / rgb.shape[-1]
    left, top, width, height = (column[:, None] for column in views.erased.unbind(dim=1))
    columns = (centres >= left) & (centres < left + width)
    rows = (centres >= top) & (centres < top + height)
    inside = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(inside, views.colour.view(-1, 3, 1, 1), rgb)


def _blend(a: Tensor, b: Tensor, factor: Tensor) -> Tensor:
    return (a * factor + b * (1 - factor)).clamp(0, 1)


def _jitter(rgb: Tensor, views: ViewParameters) -> Tensor:
    brightness, contrast, saturation, hue = (column.view(-1, 1, 1, 1) for column in views.factors.unbind(dim=1))
    steps = (
        lambda x: _blend(x, torch.zeros_like(x), brightness),
        lambda x: _blend(x, _grey(x).mean(dim=(1, 2, 3), keepdim=True), contrast),
        lambda x: _blend(x, _grey(x), saturation),
        lambda x: _turn_hue(x, hue),
    )
    jittered = rgb
    for step in views.order:
        jittered = steps[step](jittered)
    return torch.where(views.jittered.view(-1, 1, 1, 1), jittered, rgb)


def _turn_hue(rgb: Tensor, turn: Tensor) -> Tensor:
    """Add `turn` (fractions of the circle) to the hue in HSV; channels are v - c * max(0, min(m, 4 - m, 1))."""
    value, brightest = rgb.max(dim=1, keepdim=True)
    chroma = value - rgb.amin(dim=1, keepdim=True)
    r, g, b = rgb.split(1, dim=1)
    by = torch.where(chroma > 0, chroma, 1.0)
    sextant = torch.where(brightest == 0, (g - b) / by, torch.where(brightest == 1, (b - r) / by + 2, (r - g) / by + 4))
    offsets = torch.tensor([5.0, 3.0, 1.0], device=rgb.device).view(1, 3, 1, 1)
    m = (offsets + sextant + 6 * turn) % 6
    return value - chroma * torch.minimum(m, 4 - m).clamp(0, 1)
