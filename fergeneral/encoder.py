"""Face crops -> expression embeddings: the network, and the configuration that travels with its weights."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import reprlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fergeneral.alignment import TEMPLATE, resize_crop
from fergeneral.errors import ModelError, positive_integer
from fergeneral.images import as_image_list, load_image
from fergeneral.threads import inference, thread_limit

FORMAT_VERSION = 2  # 1 lacks the fields of _TIMM_FIELDS, and is read too
_MAX_CROP_SIZE = 1024
# Through the network at once on a CPU. The activations of more (64 crops of 96 px) pass 32 MiB, which glibc maps afresh
# for every layer: a fifth more time a crop, on one thread.
_CPU_BATCH = 32
# Fewer crops go through on one thread: with three on two, `extract` gains a fifth of the wall-clock time for 60 % more
# CPU time, most of it spent on waiting.
_FEW = 4
# Architectures whose folding (see CropNetwork) the tests compare with the network as it is; others are compared when
# they are loaded.
_FOLDED = ("resnet18", "resnet34", "resnet50", "efficientnet_lite0")
_LONGEST_LINE = 1000  # characters
_NUMBERS = (("mean", (3,), 0, 1), ("std", (3,), 0.001, 1000), ("template", (5, 2), -1, 2))  # field, shape, range
_LEAST_EYE_DISTANCE = 0.05  # of the crop's side
_TIMM_FIELDS = ("num_classes", "num_features", "dtype", "pretrained_cfg")  # of config.json; see _timm_fields
_OF_ARCHITECTURE = ("fixed_input_size", "first_conv", "classifier")  # of pretrained_cfg: timm's own knowledge


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Everything about the weights that is not a number in them.

    `config.json` holds exactly these fields, and those by which timm and transformers read the same folder.

    Attributes
    ----------
    model_id : str
        The name of the weights.
    architecture : str
        The plain name of one of timm's.
    embedding_size : int
        D.
    crop_size : int
        Side of the square face crop, in pixels.
    template : tuple, shape (5, 2)
        The five landmarks (left eye, right eye, nose, left and right mouth corner) in the crop, as fractions of its
        side.
    mean, std : tuple of three floats
        Per channel, of values in 0..1.
    channel_order : str
        "RGB".
    weights_sha256 : str
        Of the bytes of model.safetensors, hexadecimal.
    training_data : tuple of str
        What they were trained on, "NAME (SPLIT)".
    license : str
        Terms of use.
    format_version : int
        Of these two files.

    Examples
    --------
    >>> from fergeneral import ExpressionExtractor
    >>> config = ExpressionExtractor.from_pretrained(device="cpu").config
    >>> config.architecture, config.crop_size, config.embedding_size
    ('resnet18', 96, 512)
    """

    model_id: str
    architecture: str = "resnet18"
    embedding_size: int = 512
    crop_size: int = 112
    template: tuple[tuple[float, float], ...] = TEMPLATE
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # ImageNet's
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channel_order: str = "RGB"
    weights_sha256: str = ""
    training_data: tuple[str, ...] = ()
    license: str = ""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """The text of config.json. Raises ModelError for an architecture that timm cannot build."""
        features = feature_size(empty_network(self))
        known = timm.models.get_pretrained_cfg(self.architecture)
        of_architecture = {name: getattr(known, name, None) for name in _OF_ARCHITECTURE}
        of_architecture["fixed_input_size"] = bool(of_architecture["fixed_input_size"])
        values = {**dataclasses.asdict(self), "format_version": FORMAT_VERSION}
        values.update(_timm_fields(self, features, of_architecture))
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EncoderConfig:
        """Parse and check a config.json. Raises ModelError that names the field at fault."""
        try:
            values = json.loads(text, object_pairs_hook=_each_once)
        except (ValueError, RecursionError) as error:  # RecursionError: brackets within brackets by the thousand
            raise ModelError(f"config.json is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ModelError("config.json does not hold an object")
        version: Any = values.get("format_version")
        if not _is_integer(version) or not 1 <= version <= FORMAT_VERSION:
            raise ModelError(
                f"config.json has format_version {reprlib.repr(version)}, this package reads 1 to {FORMAT_VERSION}: "
                f"for newer weights run: pip install --upgrade fergeneral"
            )
        fields = {field.name for field in dataclasses.fields(cls)}
        wanted = fields if version == 1 else fields.union(_TIMM_FIELDS)
        missing, unknown = sorted(wanted - set(values)), sorted(set(values) - wanted)
        if missing or unknown:
            raise ModelError(f"config.json lacks the fields {missing}, or has unknown ones: {reprlib.repr(unknown)}")
        config = cls(**{name: _tuples(values[name]) for name in fields - {"format_version"}})
        config._check()
        if version > 1:
            _check_timm_fields(config, values)
        return config

    def _check(self) -> None:
        def fail(field: str, wanted: str) -> None:
            raise ModelError(f"config.json: {field} is {reprlib.repr(getattr(self, field))}, wanted {wanted}")

        for field in ("model_id", "weights_sha256", "license"):
            if not _is_line(getattr(self, field)):
                fail(field, f"a string of at most {_LONGEST_LINE} printable characters")
        if not self.model_id:
            fail("model_id", "a name")
        if not is_architecture(self.architecture):
            fail("architecture", "the plain name of an architecture of timm, such as 'resnet18'")
        if self.channel_order != "RGB":
            fail("channel_order", "'RGB'")
        if not (_is_integer(self.crop_size) and 32 <= self.crop_size <= _MAX_CROP_SIZE):
            fail("crop_size", f"an integer number of pixels, 32..{_MAX_CROP_SIZE}")
        if not (_is_integer(self.embedding_size) and 1 <= self.embedding_size <= 65536):
            fail("embedding_size", "a positive integer")
        for field, shape, low, high in _NUMBERS:
            if not _are_numbers(getattr(self, field), shape, low, high):
                fail(field, f"numbers {low}..{high} of shape {shape}")
        if math.dist(*self.template[:2]) < _LEAST_EYE_DISTANCE:
            fail("template", f"eyes (the first two points) at least {_LEAST_EYE_DISTANCE} apart")
        if not (isinstance(self.training_data, tuple) and all(_is_line(name) for name in self.training_data)):
            fail("training_data", f"a list of strings of at most {_LONGEST_LINE} printable characters")


def _timm_fields(config: EncoderConfig, features: int, of_architecture: Mapping[str, Any]) -> dict[str, Any]:
    """What timm and transformers read in config.json, beside `architecture`.

    `features`: of the network without classifier. Where the embedding is of another size, timm's classifier gives it.
    """
    classes = 0 if features == config.embedding_size else config.embedding_size
    return {
        "num_classes": classes,
        "num_features": features,
        "dtype": "float32",  # which transformers would else take from the stored weights, float16
        "pretrained_cfg": {
            "input_size": (3, config.crop_size, config.crop_size),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",  # stretched to a square, as `resize_crop` does
            "mean": config.mean,
            "std": config.std,
            "num_classes": classes,
            "license": config.license,
            **of_architecture,
        },
    }


def _check_timm_fields(config: EncoderConfig, values: Mapping[str, Any]) -> None:
    """Raise ModelError where they contradict the fields of `config`, or would have timm read another file."""
    features, found = values["num_features"], values["pretrained_cfg"]
    if not (_is_integer(features) and 1 <= features <= 65536):
        raise ModelError(f"config.json: num_features is {reprlib.repr(features)}, wanted a positive integer")
    if not isinstance(found, dict):
        raise ModelError(f"config.json: pretrained_cfg is {reprlib.repr(found)}, wanted an object")
    of_architecture = {name: found.get(name) for name in _OF_ARCHITECTURE}
    for name, value in of_architecture.items():
        fits = isinstance(value, bool) if name == "fixed_input_size" else _are_module_names(value)
        if name not in found or not fits:
            raise ModelError(f"config.json: pretrained_cfg has the {name} {reprlib.repr(value)}, wanted timm's own")
    wanted = _timm_fields(config, features, of_architecture)
    if set(found) != set(wanted["pretrained_cfg"]):
        differ = sorted(set(found) ^ set(wanted["pretrained_cfg"]))
        raise ModelError(f"config.json: pretrained_cfg lacks fields, or has unknown ones: {reprlib.repr(differ)}")
    sizes = f"with embedding_size {config.embedding_size} and num_features {features}"
    pairs = [(f"{sizes}, num_classes", values["num_classes"], wanted["num_classes"])]
    pairs += [("dtype", values["dtype"], wanted["dtype"])]
    pairs += [(f"pretrained_cfg.{name}", found[name], value) for name, value in wanted["pretrained_cfg"].items()]
    for name, value, right in pairs:
        if _tuples(value) != _tuples(right):
            raise ModelError(
                f"config.json: {name} is {reprlib.repr(value)}, which contradicts its other fields; wanted {right!r}"
            )


def _are_module_names(value: Any) -> bool:
    """Whether this is None, the name of a module, or a list of such names."""
    names = value if isinstance(value, list) else [] if value is None else [value]
    return all(_is_line(name) for name in names)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a field is there twice")
    return values


def _tuples(value: Any) -> Any:
    """Lists as tuples, two deep, as deep as any field is."""
    if not isinstance(value, list):
        return value
    return tuple(tuple(item) if isinstance(item, list) else item for item in value)


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_LINE and value.isprintable()


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_numbers(value: Any, shape: tuple[int, ...], low: float, high: float) -> bool:
    """Whether `value` is tuples of that shape, of numbers low..high (which NaN and infinity are not)."""
    if not shape:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    return (
        isinstance(value, tuple)
        and len(value) == shape[0]
        and all(_are_numbers(item, shape[1:], low, high) for item in value)
    )


def is_architecture(name: object) -> bool:
    """Whether timm knows an architecture of this plain name.

    No other name is taken from a file: from one like "hf-hub:..." or "local-dir:..." timm loads what lies there.
    """
    return isinstance(name, str) and name.isidentifier() and timm.is_model(name)


def feature_size(network: torch.nn.Module) -> int:
    """How many numbers a timm network without classifier gives."""
    return int(getattr(network, "head_hidden_size", None) or network.num_features)  # type: ignore[arg-type]


def build_network(architecture: str, embedding_size: int | None = None) -> torch.nn.Module:
    """The timm network without classifier: (N, 3, S, S) -> (N, D). Never downloads weights.

    Where `embedding_size` is not the number of the network's own features, a linear layer brings them to it (timm's
    classifier, of as many "classes"). Its weights are float32, whatever torch's default dtype is, and random.

    Examples
    --------
    >>> import torch
    >>> from fergeneral.encoder import build_network
    >>> network = build_network("resnet18").eval()
    >>> network(torch.zeros(1, 3, 96, 96)).shape
    torch.Size([1, 512])
    """
    network = timm.create_model(architecture, pretrained=False, num_classes=0)
    if embedding_size not in (None, feature_size(network)):
        network.reset_classifier(embedding_size)
    return network.float()


def empty_network(config: EncoderConfig) -> torch.nn.Module:
    """`build_network` without memory for weights (on the device "meta"), which `fill_network` gives it.

    Raises ModelError where timm cannot build it.
    """
    try:
        with torch.device("meta"):
            return build_network(config.architecture, config.embedding_size)
    except Exception as error:  # each architecture has its own code, and its own errors
        raise ModelError(
            f"timm cannot build {config.architecture} with embedding_size {config.embedding_size}: {str(error)[:1000]}"
        ) from error


def fill_network(network: torch.nn.Module, tensors: dict[str, torch.Tensor], config: EncoderConfig) -> torch.nn.Module:
    """The network of `empty_network` with these weights. Raises RuntimeError unless names and shapes are its own."""
    network.load_state_dict(tensors, strict=True, assign=True)
    if any(buffer.is_meta for buffer in network.buffers()):  # tables that an architecture computes and does not store
        network = build_network(config.architecture, config.embedding_size)
        network.load_state_dict(tensors, strict=True)
    return network


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or else CUDA, then MPS, then CPU. Raises ModelError if what was asked for is not there."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device is None:
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"device {device!r} is not known; wanted 'cpu', 'cuda', 'cuda:N' or 'mps'") from error
    there = {"cpu": True, "cuda": cuda and (chosen.index or 0) < torch.cuda.device_count(), "mps": mps}
    if not there.get(chosen.type, False):
        available = [name for name, is_there in (("cpu", True), ("cuda", cuda), ("mps", mps)) if is_there]
        raise ModelError(
            f"device {str(device)!r} was asked for but is not available here; there is: {', '.join(available)}"
        )
    return chosen


def ramp_crop(size: int) -> np.ndarray:
    """(1, size, size, 3) uint8, always the same and of all brightnesses, to try a network on."""
    return np.resize(np.arange(256, dtype=np.uint8), (1, size, size, 3))


class CropNetwork(torch.nn.Module):
    """A frozen network with its preprocessing: (N, S, S, 3) uint8 RGB -> (N, D), as the network gives them.

    Batch normalisation is folded into the convolutions and `std` into the first of them, so that a pixel costs one
    subtraction. `mean` stays outside: folded into a bias, it would be wrong at the border, where the convolution pads
    with zeros. A network that gives other embeddings when folded stays unfolded. `network` itself is left as it is.
    """

    mean: torch.Tensor
    std: torch.Tensor | None

    def __init__(self, network: torch.nn.Module, config: EncoderConfig) -> None:
        super().__init__()
        device = next(network.parameters()).device
        mean, std = (
            255 * torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
            for values in (config.mean, config.std)
        )
        self.register_buffer("mean", mean)
        self.register_buffer("std", None)
        self.network = _folded(network, std)
        if config.architecture not in _FOLDED:
            plain = _same_tensors(network).eval()
            if not self._gives_the_same(plain, std, config.crop_size):
                self.network, self.std = plain, std
        self.requires_grad_(False)

    def _gives_the_same(self, plain: torch.nn.Module, std: torch.Tensor, size: int) -> bool:
        crops = torch.from_numpy(ramp_crop(size)).to(self.mean.device)
        try:
            with inference(self.mean.device):
                expected = plain((crops.permute(0, 3, 1, 2) - self.mean) / std)
                found = self(crops)
        except Exception:  # of a network that does not take this size, say, which is found out when it is used
            return False
        return bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """(N, S, S, 3) uint8 -> (N, D)."""
        pixels = crops.permute(0, 3, 1, 2) - self.mean  # by its strides this is in channels_last
        return self.network(pixels if self.std is None else pixels / self.std)


def _folded(network: torch.nn.Module, std: torch.Tensor) -> torch.nn.Module:
    folded: torch.nn.Module = _same_tensors(network).eval()
    _fold_batch_norm(folded)
    first = next((module for module in folded.modules() if isinstance(module, torch.nn.Conv2d)), None)
    if first is not None:
        first.weight = torch.nn.Parameter(first.weight.detach() / std)
    return folded


def _fold_batch_norm(module: torch.nn.Module) -> None:
    """In place; a batch normalisation belongs to the convolution that was registered just before it."""
    before: tuple[str, torch.nn.Module] = ("", module)
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.BatchNorm2d) and isinstance(before[1], torch.nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, getattr(child, "act", torch.nn.Identity()))  # timm's BatchNormAct2d goes on to one
        else:
            _fold_batch_norm(child)
        before = (name, child)


def _same_tensors(module: torch.nn.Module) -> Any:
    """A copy whose modules are its own and whose tensors are not."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in module.state_dict(keep_vars=True).values()})


class _PackedConvolution(torch.nn.Module):
    """A convolution on the CPU with its weights in oneDNN's own order, which torch else brings about at every call.

    These are the operators that torch.compile's code calls; torch has them since 2.0, but does not document them.
    """

    def __init__(self, plain: torch.nn.Conv2d) -> None:
        super().__init__()
        self._plain: torch.nn.Conv2d | None = plain
        self._bias = plain.bias
        self._geometry = (list(plain.padding), list(plain.stride), list(plain.dilation), plain.groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._plain is not None:  # the order depends on the size of the input, not on how many there are
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(
                self._plain.weight, *self._geometry, list(x.shape)
            )
            self._plain = None
        return torch.ops.mkldnn._convolution_pointwise(x, self._weight, self._bias, *self._geometry, "none", [], "")


def _packed(module: CropNetwork, size: int) -> CropNetwork:
    """The same with packed convolutions: half the time for one crop, a tenth less for 32. Where this torch cannot do
    it, or gets another result, `module` as it is.
    """
    crop = torch.from_numpy(ramp_crop(size))
    packed = _same_tensors(module)
    for parent in list(packed.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Conv2d):
                setattr(parent, name, _PackedConvolution(child))
    try:
        with inference(crop.device):
            fits = torch.allclose(packed(crop), module(crop), rtol=1e-4, atol=1e-4)
    except (AttributeError, RuntimeError):  # no such operators, no oneDNN, or none for this processor
        return module
    return packed if fits else module


class Encoder:
    """A frozen network with its preprocessing. Safe to call from several threads.

    Examples
    --------
    >>> import numpy as np
    >>> from fergeneral import ExpressionExtractor
    >>> encoder = ExpressionExtractor.from_pretrained(device="cpu").encoder
    >>> crops = np.zeros((2, 96, 96, 3), dtype=np.uint8)
    >>> encoder.encode(crops).shape
    (2, 512)
    """

    def __init__(
        self, network: torch.nn.Module, config: EncoderConfig, device: str | torch.device | None = None
    ) -> None:
        self.config = config
        self.device = choose_device(device)
        self._state = network.state_dict()
        module = CropNetwork(network, config).to(self.device).to(memory_format=torch.channels_last)
        if self.device.type == "cpu":
            module = _packed(module, config.crop_size)
        self._module: Callable[[torch.Tensor], torch.Tensor] = module  # (N, S, S, 3) uint8 -> (N, D)
        self._accelerator = threading.Lock()  # one batch at a time on a GPU, so that threads do not add up its memory

    def __reduce__(self) -> tuple[Callable[..., Encoder], tuple[Any, ...]]:
        """A copy, or another process, gets the weights as bytes, from which it makes its own network."""
        weights = {name: tensor.cpu().contiguous() for name, tensor in self._state.items()}
        return _unpickled, (save_tensors(weights), self.config, str(self.device))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights by name, float32, as they were before anything was folded."""
        return dict(self._state)

    def torch_module(self) -> torch.nn.Module:
        """The encoder with its preprocessing as a module of its own, for torch.export, torch.compile and the like.

        Returns
        -------
        torch.nn.Module
            Takes face crops (N, S, S, 3), uint8 RGB, S = `config.crop_size`, any N; gives embeddings (N, D), float32,
            those of `encode`. On the CPU, frozen, in evaluation mode; it shares no tensor with this encoder.

        Raises
        ------
        ModelError
            For int8-quantized weights, which torch does not run.

        Examples
        --------
        >>> import torch
        >>> from fergeneral import ExpressionExtractor
        >>> encoder = ExpressionExtractor.from_pretrained(device="cpu").encoder
        >>> crops = torch.zeros(2, encoder.config.crop_size, encoder.config.crop_size, 3, dtype=torch.uint8)
        >>> batch = {0: torch.export.Dim("N")}
        >>> program = torch.export.export(encoder.torch_module(), (crops,), dynamic_shapes=(batch,))
        """
        state = {name: tensor.detach().cpu().clone() for name, tensor in self.state_dict().items()}
        network = fill_network(empty_network(self.config), state, self.config)
        return CropNetwork(network, self.config).eval()

    def encode(
        self,
        crops: Any,
        *,
        batch_size: int = 64,
        show_progress: bool | None = None,
        normalize: bool = False,
        flip: bool = False,
    ) -> np.ndarray:
        """Embed images that already are face crops.

        Parameters
        ----------
        crops : iterable
            Many, as `images.as_images` says: a list, Series or iterator of anything `load_image` takes, a uint8 array
            (N, H, W, 3), or a uint8 tensor (N, 3, H, W). RGB. Other sizes than `config.crop_size` are resized, other
            shapes than squares stretched, down to a single pixel: whether there is a face in it is not asked.
        batch_size : int
            How many go through the network at once.
        show_progress : bool or None
            A progress bar on stderr; None shows one for more than one batch on a terminal.
        normalize : bool
            Scale each embedding to unit length.
        flip : bool
            Average the embeddings of each crop and its mirror image, for twice the time. With the packaged default,
            linear probes gained 1.1 points of accuracy on FER+ valid and 0.3 on AffectNet8's test split, and lost 0.1
            on a part of RAF-DB train (docs/results.md). Do not mix both kinds in one classifier.

        Returns
        -------
        ndarray
            (N, D) float32, one row a crop in their order; (0, D) for no crops.

        Raises
        ------
        TypeError
            For one image, a dict, a set, a table: what is not many images in an order.
        ImageError
            For a crop that cannot be read.
        """
        batch_size = positive_integer(batch_size, "batch_size")
        crops = as_image_list(crops, what="encode")
        embeddings = np.empty((len(crops), self.config.embedding_size), dtype=np.float32)
        with thread_limit(1 if min(batch_size, len(crops)) < _FEW else None):
            for start in _progress(range(0, len(crops), batch_size), show_progress):
                stop = min(start + batch_size, len(crops))
                whole = isinstance(crops, np.ndarray)  # other sequences need not take slices
                batch = self.to_crops(crops[start:stop] if whole else [crops[i] for i in range(start, stop)])
                rows = self._forward(batch)
                if flip:
                    rows = (rows + self._forward(np.ascontiguousarray(batch[:, :, ::-1]))) / 2
                embeddings[start : start + len(batch)] = rows
        if normalize:
            embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return embeddings

    def to_crops(self, images: Any) -> np.ndarray:
        """Images that already are face crops as one (N, S, S, 3) uint8 array; not a copy where they are that already.

        `images`: N > 0 of them, in any form that `encode` takes.
        """
        size = self.config.crop_size
        if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == (size, size, 3):
            return np.require(images, requirements=["C", "W"])  # W: torch warns of what it may not write to
        return np.stack([self._to_crop(image) for image in images])

    def _to_crop(self, image: Any) -> np.ndarray:
        size = self.config.crop_size
        if type(image) is np.ndarray and image.dtype == np.uint8 and image.shape == (size, size, 3):
            return image
        return resize_crop(load_image(image), size)

    def _forward(self, crops: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) uint8 -> (N, D) float32."""
        with inference(self.device):
            pixels = torch.from_numpy(crops)
            if self.device.type == "cpu":
                return torch.cat([self._module(part) for part in pixels.split(_CPU_BATCH)]).numpy()
            if self.device.type == "cuda":
                pixels = pixels.pin_memory()
            with self._accelerator:
                return self._module(pixels.to(self.device, non_blocking=True)).float().cpu().numpy()


def weights_sha256(encoder: Encoder) -> str:
    """Of the bytes of model.safetensors, where the weights came from one; else of the tensors, by their names.

    Examples
    --------
    >>> from fergeneral import ExpressionExtractor
    >>> from fergeneral.encoder import weights_sha256
    >>> weights_sha256(ExpressionExtractor.from_pretrained(device="cpu").encoder)[:8]
    'b1d6e756'
    """
    if encoder.config.weights_sha256:
        return encoder.config.weights_sha256
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        values = tensor.detach().cpu().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _unpickled(weights: bytes, config: EncoderConfig, device: str) -> Encoder:
    network = fill_network(empty_network(config), load_tensors(weights), config)
    return Encoder(network, config, device)


def _progress(steps: Sequence[int], show: bool | None) -> Iterator[int]:
    if show is False or (show is None and len(steps) <= 1):
        return iter(steps)
    from tqdm import tqdm

    disable = None if show is None else False  # None: tqdm looks whether stderr is a terminal
    return iter(tqdm(steps, desc="encode", unit="batch", disable=disable))


def check_network(network: torch.nn.Module) -> None:
    """Raise ModelError for weights that are not finite."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not math.isfinite(float(tensor.float().abs().sum())):
            raise ModelError(f"the weights hold values that are not finite, in {name}")
