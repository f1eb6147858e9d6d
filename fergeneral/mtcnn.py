"""MTCNN (Zhang et al., IEEE SPL 2016) with the networks and weights of facenet-pytorch, and a faster way through them.

Three networks look at an image in turn. The first, P-Net, sees all of it at falling scales and proposes squares; the
second, R-Net, and the third, O-Net, see each square that is left at 24 and at 48 pixels, refine it or drop it, and
O-Net adds five landmarks. Thresholds, scales and the rounding of corners are facenet-pytorch's. At the edge of an
image, what O-Net says is taken for what it saw (see LandmarkNetwork). Else, what differs is the work:

- the networks run in channels-last order, a few squares or rows at a time, so that what lies between two layers stays
  in the processor's cache; the heads of each are one layer, dense layers are convolutions of the same numbers, and the
  scaling of pixels is in the first layer's weights;
- on a CPU they use one thread. Two would take 15 % less wall-clock time, for 80 % more CPU time, which other photos
  can have (`extract_many` searches several at once);
- the scales of P-Net and the squares of the others are cut from a chain of halved images, made once, in which they
  are a few times as large as wanted; facenet-pytorch reads the whole image, in float32, for each scale. How many times,
  and the weights of the shrinking, were chosen on 1,021 training images of RAF-DB with a black margin (facenet-pytorch
  sees a face in 91.7 %, this in 91.9 %) and on 96 scenes with 640 pasted faces (90.3 % and 89.5 %);
- of P-Net's squares, those that have become nearly the same by its own correction are one: a sixth less for R-Net. On
  300 scenes with 1,919 faces the detector so found 1,753, and 1,749 without it and with finer pixels for R-Net.

The faces are the same but for chance: a face moves by as much when the image is shifted by one pixel under
facenet-pytorch's own detector. benchmarks/detection.py measures both.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from PIL import Image
from torch import nn
from torch.nn.functional import interpolate
from torchvision.ops import nms

from fergeneral.threads import inference, thread_limit
from fergeneral.types import Detection

# The smallest face looked for: 40 pixels (facenet-pytorch's default, 20, takes about twice the time and adds false
# boxes), or this share of the side of a square of the image's area where that is more: above 3.7 megapixels, so that
# the time of the networks stays the same from there on, whatever the image's shape.
MIN_FACE_SIZE = 40
MIN_FACE_SHARE = 1 / 48

_FIELD = 12  # pixels: the square that P-Net sees; it moves in steps of _STRIDE
_STRIDE = 2
_FACTOR = 0.709  # from one scale to the next: a square then has half the area
_SMALL_SCALE = 1 / 4  # from here on, P-Net finds as much in pixels halved once more (443 and 444 of 480 faces)
_THRESHOLDS = (0.6, 0.7, 0.7)  # the least score that passes each network
_ROWS = 32  # of P-Net's output at once
_CPU = torch.device("cpu")

Layer = TypeVar("Layer", bound=nn.Module)
Network = TypeVar("Network", PNet, RNet, ONet)


class MTCNNDetector:
    """MTCNN with five landmarks. Safe between threads.

    Parameters
    ----------
    min_face_size : int, optional
        The shorter side, in pixels of the image, of the smallest face looked for; 12 or more. By default 40, or
        sqrt(width * height) / 48 where that is more (above 3.7 megapixels): 102 in a photo of 6000 x 4000 pixels. So
        the time of the networks does not grow further with the photo; half the size takes four times that time.
    device : str or torch.device
        Where the networks run.

    Raises
    ------
    TypeError, ValueError
        For a `min_face_size` that is not an integer, or is too small.
    """

    name = "mtcnn"

    def __init__(self, *, min_face_size: int | None = None, device: str | torch.device = "cpu") -> None:
        self.min_face_size = check_min_face_size(min_face_size, _FIELD)
        place = torch.device(device)
        self._device = torch.device("cpu") if place.type == "mps" else place  # these networks were not tried on MPS
        self._pnet = _prepared(_one_head_pnet(_loaded(PNet)), self._device)
        self._rnet = _prepared(_one_head_rnet(_loaded(RNet)), self._device)
        self._last = LandmarkNetwork(self._device)

    def __reduce__(self) -> tuple[Callable[[], MTCNNDetector], tuple[()]]:
        """A copy, or another process, makes its own. multiprocessing would move tensors into shared memory, from under
        the threads that use them.
        """
        return functools.partial(type(self), min_face_size=self.min_face_size, device=self._device), ()

    def settings(self) -> dict[str, Any]:
        """What decides which faces are found."""
        return {"min_face_size": self.min_face_size}

    @thread_limit(1)
    def detect(self, image: Image.Image) -> list[Detection]:
        """All faces in an upright PIL image of mode RGB, largest first. Boxes are clipped to the image."""
        with inference(self._device):
            return self._detect(image)

    def _detect(self, image: Image.Image) -> list[Detection]:
        halves = _Halves(image)
        squares = self._propose(halves)
        if len(squares):
            squares = self._refine(halves, squares)
        if not len(squares):
            return []
        boxes, landmarks, scores = self._finish(halves, squares)
        limits = np.array(image.size * 2, dtype=np.float32)
        found = [
            Detection(box, points, min(1.0, float(score)))
            for box, points, score in zip(np.clip(boxes, 0, limits), landmarks, scores, strict=True)
        ]
        return sorted((face for face in found if face.area > 0), key=lambda face: -face.area)

    def _propose(self, halves: _Halves) -> np.ndarray:
        """P-Net on all scales: (N, 4) squares."""
        size = halves.size
        scales = _scales(size, smallest_face(size, self.min_face_size))
        if not scales:
            return np.zeros((0, 4), dtype=np.float32)
        finer = 2 if scales[0] > _SMALL_SCALE else 1
        found = [self._propose_at(scale, halves.whole(halves.level(1 / scale, finer=finer)), size) for scale in scales]
        rows = np.concatenate(found)
        rows = rows[_distinct(rows[:, :4], rows[:, 4], 0.7)]
        sides = rows[:, 2:4] - rows[:, :2]
        squares = _squares(rows[:, :4] + rows[:, 5:] * np.tile(sides, 2))
        return squares[_distinct(squares, rows[:, 4], 0.65)]

    def _propose_at(self, scale: float, source: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        """P-Net on one scale: (N, 9) corners, score and the correction of the corners in fractions of the side."""
        shape = (int(size[1] * scale + 1), int(size[0] * scale + 1))
        pixels = _shrunk(source, shape).to(self._device)
        maps = _in_stripes(self._pnet, pixels)
        places = np.nonzero(maps[0] >= _logit(_THRESHOLDS[0]))
        first = _STRIDE * np.stack(places[::-1], axis=1)
        scores = _sigmoid(maps[0][places])
        corners = np.floor(np.concatenate([first + 1, first + _FIELD], axis=1) / scale)
        rows = np.column_stack([corners, scores, maps[1:][:, places[0], places[1]].T]).astype(np.float32)
        return rows[_distinct(rows[:, :4], rows[:, 4], 0.5)]

    def _refine(self, halves: _Halves, squares: np.ndarray) -> np.ndarray:
        """R-Net: the squares that pass, corrected."""
        squares, said = _look(self._rnet, self._device, halves, squares, side=24, finer=0, at_once=64)
        passed = said[:, 0] > _logit(_THRESHOLDS[1])
        squares, scores, shifts = squares[passed], said[passed, 0], said[passed, 1:]
        kept = _distinct(squares, scores, 0.65)  # facenet-pytorch: 0.7; this leaves a sixth less for O-Net
        return _squares(_corrected(squares[kept], shifts[kept]))

    def _finish(self, halves: _Halves, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """O-Net: boxes (N, 4), landmarks (N, 5, 2) and scores (N,)."""
        squares, shifts, landmarks, scores = self._last(halves, squares)
        passed = scores > _THRESHOLDS[2]
        boxes, landmarks, scores = _corrected(squares[passed], shifts[passed]), landmarks[passed], scores[passed]
        kept = _not_inside(boxes, scores, 0.7)
        return boxes[kept], landmarks[kept], scores[kept]


class LandmarkNetwork:
    """O-Net, the last network: five landmarks in squares that hold a face, and whether it sees one there."""

    def __init__(self, device: torch.device = _CPU) -> None:
        self._device = device
        self._network = _prepared(_one_head_onet(_loaded(ONet)), device)

    def __reduce__(self) -> tuple[type[LandmarkNetwork], tuple[torch.device]]:
        """As MTCNNDetector's."""
        return type(self), (self._device,)

    def __call__(self, halves: _Halves, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of squares (N, 4) in a chain of halved images: the visible parts (M, 4) of those that lie in the image at
        all, what moves their corners (M, 4), landmarks (M, 5, 2) in the image's pixels, and scores (M,).

        The network sees the visible part, so its answers are fractions of that. facenet-pytorch takes them for
        fractions of the square, so at the edge of an image its landmarks lie wrong, up to far outside the image. On 627
        photos of FairFace where the square is cut, they lay 0.13 sides of the box from YuNet's own, so 0.047, as in
        the others.
        """
        squares, said = _look(self._network, self._device, halves, squares, side=48, finer=1, at_once=16)
        parts = np.clip(squares, 1, np.array(halves.size * 2, dtype=np.float32))  # corners are counted from 1: _inside
        sides = parts[:, 2:] - parts[:, :2] + 1
        points = said[:, 5:].reshape(-1, 2, 5).transpose(0, 2, 1)
        return parts, said[:, 1:5], points * sides[:, None] + parts[:, None, :2] - 1, _sigmoid(said[:, 0])

    def mark(self, image: Image.Image, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks (N, 5, 2) and scores (N,) for boxes (N, 4), of any detector, that lie in the image."""
        with inference(self._device):
            _, _, landmarks, scores = self(_Halves(image), _squares(boxes))
        return landmarks, scores


def _look(
    network: nn.Module,
    device: torch.device,
    halves: _Halves,
    squares: np.ndarray,
    *,
    side: int,
    finer: int,
    at_once: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What a network says of each square at `side` pixels; squares outside the image are left out of both results.

    `finer`: see `_Halves.level`.
    """
    corners = _inside(squares, halves.size)
    visible = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    parts = [_shrunk(halves.part(corner, side, finer), (side, side)) for corner in corners[visible].tolist()]
    crops = torch.cat([torch.empty((0, 3, side, side), dtype=torch.uint8, device=_CPU), *parts])
    crops = crops.contiguous(memory_format=torch.channels_last).to(device)
    said = [network(batch.float()) for batch in crops.split(at_once)]
    return squares[visible], torch.cat(said)[:, :, 0, 0].cpu().numpy()


def _loaded(network: type[Network]) -> Network:
    """One of facenet-pytorch's networks with its weights, float32 on the CPU.

    The weights are put in place of parameters that have no memory ("meta"): so neither torch's default dtype and device
    nor its random numbers, with which parameters are filled else, play a part.
    """

    class WithWeights(network):  # type: ignore[misc, valid-type]
        def load_state_dict(self, state: dict[str, torch.Tensor]) -> Any:  # called by __init__
            return super().load_state_dict(state, assign=True)

    with torch.device("meta"):
        return WithWeights()


def _one_head_pnet(net: PNet) -> nn.Sequential:
    """P-Net with its heads in one. Its first layer has 16 channels instead of 10, the added ones all zero: the
    processor's vectors are then full.
    """
    return nn.Sequential(
        _filled(nn.Conv2d(3, 16, 3, device="meta"), net.conv1.weight, net.conv1.bias),
        _filled(nn.PReLU(16, device="meta"), net.prelu1.weight),
        net.pool1,
        _filled(nn.Conv2d(16, 16, 3, device="meta"), net.conv2.weight, net.conv2.bias),
        net.prelu2,
        net.conv3,
        net.prelu3,
        _head(net.conv4_1, net.conv4_2),
    )


def _one_head_rnet(net: RNet) -> nn.Sequential:
    """R-Net without dense layers, whose products torch leaves to MKL, which heeds no limit of one thread."""
    layers = [net.conv1, net.prelu1, net.pool1, net.conv2, net.prelu2, net.pool2, net.conv3, net.prelu3]
    return nn.Sequential(*layers, _over_map(net.dense4, 3), net.prelu4, _head(net.dense5_1, net.dense5_2))


def _one_head_onet(net: ONet) -> nn.Sequential:
    """O-Net, as R-Net; ten coordinates come after the shifts, first all x, then all y."""
    layers = [net.conv1, net.prelu1, net.pool1, net.conv2, net.prelu2, net.pool2, net.conv3, net.prelu3, net.pool3]
    layers += [net.conv4, net.prelu4, _over_map(net.dense5, 3), net.prelu5]
    return nn.Sequential(*layers, _head(net.dense6_1, net.dense6_2, net.dense6_3))


def _over_map(dense: nn.Linear, side: int) -> nn.Conv2d:
    """A dense layer that takes a map of `side` x `side`, column by column, as the convolution that it is."""
    weight = dense.weight.view(dense.out_features, side, side, -1).permute(0, 3, 2, 1)
    return _filled(nn.Conv2d(weight.shape[1], dense.out_features, side, device="meta"), weight, dense.bias)


def _head(classes: nn.Conv2d | nn.Linear, *others: nn.Conv2d | nn.Linear) -> nn.Conv2d:
    """Several heads in one: the score's logit (the difference of its two classes), then what the others give."""
    weight, bias = (
        torch.cat([first[1:] - first[:1], *rest])
        for first, *rest in zip(*(head.parameters() for head in (classes, *others)), strict=True)
    )
    return _filled(
        nn.Conv2d(weight.shape[1], len(weight), 1, device="meta"), weight.view(*weight.shape[:2], 1, 1), bias
    )


@torch.no_grad()
def _filled(layer: Layer, *values: torch.Tensor) -> Layer:
    """A layer with these values (weight, then bias) in its first channels, and zero in the others."""
    for (name, parameter), value in zip(list(layer.named_parameters()), values, strict=True):
        full = torch.zeros(parameter.shape, dtype=torch.float32, device=_CPU)
        full[tuple(slice(length) for length in value.shape)] = value
        setattr(layer, name, nn.Parameter(full))
    return layer


def _in_stripes(network: nn.Module, pixels: torch.Tensor) -> np.ndarray:
    """P-Net's maps (5, H, W) of an image (1, 3, .., ..), from stripes that overlap by what its field needs."""
    rows, overlap = pixels.shape[2], _FIELD - _STRIDE
    starts = range(0, (rows - overlap + 1) // _STRIDE, _ROWS) if pixels.device.type == "cpu" else range(1)
    ends = [*(_STRIDE * start + overlap for start in starts[1:]), rows]
    stripes = [network(pixels[:, :, _STRIDE * start : end].float()) for start, end in zip(starts, ends, strict=True)]
    return torch.cat(stripes, dim=2)[0].cpu().numpy()


class _Convolution(nn.Module):
    """A convolution by oneDNN, of inputs of any size: on one thread, torch has MKL make those of small ones."""

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return self.plain(x)
        return torch.mkldnn_convolution(x, self.plain.weight, self.plain.bias, [0, 0], [1, 1], [1, 1], 1)


def _prepared(network: nn.Sequential, device: torch.device) -> nn.Module:
    """Frozen, in channels-last order, and for pixels 0..255 where it was made for (pixel - 127.5) / 128."""
    network.eval().requires_grad_(False)
    weight, bias = list(network.parameters())[:2]  # of the first layer
    weight.div_(128)
    bias.sub_(127.5 * weight.sum(dim=(1, 2, 3)))
    network = nn.Sequential(*(_Convolution(layer) if isinstance(layer, nn.Conv2d) else layer for layer in network))
    return network.to(device).to(memory_format=torch.channels_last)


def _tensor(image: Image.Image) -> torch.Tensor:
    """(1, 3, H, W) uint8, channels last."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


def _shrunk(pixels: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """(1, 3, H, W) uint8 at another height and width.

    Averages as facenet-pytorch takes, but weighted by nearness: torch has them for bytes, in a fifth of the time.
    """
    return interpolate(pixels, size=shape, mode="bilinear", antialias=True)


def check_min_face_size(size: int | None, least: int) -> int | None:
    """The same as an int, or None. Raises TypeError for what is not an integer, ValueError for less than `least`."""
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, numbers.Integral):
        raise TypeError(f"min_face_size must be an integer (pixels) or None, got {size!r}")
    if size < least:
        raise ValueError(f"min_face_size must be at least {least} pixels, got {size}")
    return int(size)


def smallest_face(size: tuple[int, int], asked: int | None) -> float:
    """The shorter side, in pixels, of the smallest face looked for in an image of this size."""
    return asked or max(MIN_FACE_SIZE, MIN_FACE_SHARE * math.sqrt(size[0] * size[1]))


def _scales(size: tuple[int, int], min_face_size: float) -> list[float]:
    """The scales at which P-Net's field covers faces from `min_face_size` to the image's shorter side."""
    scale, scales = _FIELD / min_face_size, []
    while min(size) * scale >= _FIELD:
        scales.append(scale)
        scale *= _FACTOR
    return scales


class _Halves:
    """An image, halved again and again while P-Net's field fits into it; each is made when it is first asked for."""

    def __init__(self, image: Image.Image) -> None:
        self.size = image.size
        self._images = {0: image}
        self._count = 1 + ((min(image.size) - 1) // (2 * _FIELD - 1)).bit_length()
        self._tensors: dict[int, torch.Tensor] = {}

    def level(self, ratio: float, *, finer: int) -> int:
        """Which of them to shrink something from that is to be `ratio` times smaller than in the image itself.

        The one in which it is 1 to 2 times as large as wanted, or `finer` halvings before it.
        """
        return min(max(0, math.floor(math.log2(ratio) + 1e-6) - finer), self._count - 1)

    def whole(self, level: int) -> torch.Tensor:
        """All pixels of one of them, (1, 3, H, W) uint8."""
        if level not in self._tensors:
            self._tensors[level] = _tensor(self._image(level))
        return self._tensors[level]

    def part(self, corners: list[int], side: int, finer: int) -> torch.Tensor:
        """The pixels in a rectangle of the image itself, to be shrunk to `side`; `finer`: see `level`."""
        left, top, right, bottom = corners
        level = self.level(min(right - left, bottom - top) / side, finer=finer)
        left, top, right, bottom = (left >> level, top >> level, -(-right >> level), -(-bottom >> level))
        if level in self._tensors:
            return self._tensors[level][:, :, top:bottom, left:right]
        # For a few parts, as YuNet's are, not all pixels.
        ends = (min(right << level, self.size[0]), min(bottom << level, self.size[1]))
        return _tensor(self._images[0].reduce(1 << level, (left << level, top << level, *ends)))

    def _image(self, level: int) -> Image.Image:
        if level not in self._images:
            nearest = max(made for made in self._images if made < level)
            self._images[level] = self._images[nearest].reduce(1 << (level - nearest))
        return self._images[level]


def _inside(squares: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whole-pixel corners (N, 4) of the squares' visible part, counted as facenet-pytorch does: from 1."""
    corners = np.trunc(squares).astype(np.int64)
    corners[:, :2] = np.maximum(corners[:, :2], 1) - 1
    corners[:, 2:] = np.minimum(corners[:, 2:], size)
    return corners


def _squares(boxes: np.ndarray) -> np.ndarray:
    """The square around each box's centre, with its longer side."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longest = sides.max(axis=1, keepdims=True)
    first = boxes[:, :2] + sides / 2 - longest / 2
    return np.concatenate([first, first + longest], axis=1)


def _corrected(boxes: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Boxes with their corners moved by `shifts`, in fractions of their sides."""
    return boxes + shifts * np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)


def _distinct(boxes: np.ndarray, scores: np.ndarray, most: float) -> np.ndarray:
    """Non-maximum suppression: which boxes overlap no better one by more than `most` of their union; best first."""
    return nms(
        torch.from_numpy(np.ascontiguousarray(boxes)), torch.from_numpy(np.ascontiguousarray(scores)), most
    ).numpy()


def _not_inside(boxes: np.ndarray, scores: np.ndarray, most: float) -> list[int]:
    """As `_distinct`, but by the share of the smaller box, so that a box inside another one goes, too."""
    kept: list[int] = []
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    for i in np.argsort(-scores).tolist():
        low, high = np.maximum(boxes[i, :2], boxes[kept, :2]), np.minimum(boxes[i, 2:], boxes[kept, 2:])
        shared = np.prod(np.maximum(0, high - low + 1), axis=1)
        if (shared <= most * np.minimum(areas[i], areas[kept])).all():
            kept.append(i)
    return kept


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))
