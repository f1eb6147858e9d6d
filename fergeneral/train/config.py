"""Training recipes: every number of a run, frozen, with its source."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any, get_origin, get_type_hints

from fergeneral.errors import DataError


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the schedule at one input size: `pixels` a side, for `share` of the whole schedule (0..1]."""

    pixels: int
    share: float


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One way to pretrain an encoder. Lengths are in epochs over all its data, sizes in pixels.

    Examples
    --------
    >>> from fergeneral.train.config import Recipe
    >>> recipe = Recipe("mine", datasets=("my-data",), crop_size=96, epochs=12)
    >>> recipe.objective, recipe.architecture
    ('crs-cont', 'resnet18')
    """

    name: str
    datasets: tuple[str, ...] = ("rafdb", "affectnet")  # folders below --data; their train splits
    repeats: tuple[int, ...] = ()  # how often an epoch goes through each of them; once where empty
    expression_repeats: tuple[int, ...] = ()  # times those of each of EXPRESSIONS; once where empty
    # An encoder's name, folder or Hub repository to go on from, or the path of a .safetensors file of the
    # architecture's weights under timm's names; from scratch where empty.
    start_from: str = ""
    frozen: tuple[str, ...] = ()  # modules of the encoder, by timm's names, that stay as they start
    architecture: str = "resnet18"  # the plain name of one of timm's
    crop_size: int = 112  # of the encoder that is written
    embedding_size: int = 0  # of the encoder that is written, see narrow.py; 0: all features of the architecture
    stages: tuple[Stage, ...] = (Stage(112, 1.0),)  # progressive resolution where there are several
    epochs: float = 100
    batch_size: int = 128  # images, over all processes; each is seen in two views

    # The objective: 'crs-cont', 'simclr' or 'supcon' (on the fine labels), on projections of projection_size.
    objective: str = "crs-cont"
    temperature: float = 0.07
    class_weights: tuple[float, ...] = (1.0, 0.5, 1.0, 1.0)
    consistency_weight: float = 0.4
    projection_size: int = 128
    objective_weight: float = 1.0
    objective_ramp: tuple[float, float] = (0.0, 0.0)  # shares of the schedule between which its weight rises from 0
    fine_weight: float = 0.0  # cross-entropy of the fine labels on the embedding; 0: coarse labels only
    label_smoothing: float = 0.0  # of the fine term
    average_decay: float = 0.0  # of the exponential moving average of the weights that is written; 0: the last ones

    optimizer: str = "sgd"  # or 'adamw' (then momentum and nesterov play no part)
    learning_rate: float = 0.5
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    warmup_epochs: float = 0.0  # linear, from 0
    schedule: str = "halve"  # 'halve': x 0.5 at every fifth of the schedule; 'cosine': to 0

    # The augmentation (factors as in torchvision's transforms of the same names).
    crop_scale: tuple[float, float] = (0.5, 1.0)  # area; above 1 the image is shrunk and its edge pixels repeated
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    cutout_probability: float = 0.5  # outlines of cut-out faces laid on any image, see augment.py
    rotation: float = 0.0  # degrees, both ways
    low_resolution_probability: float = 0.0  # shrunk to low_resolution pixels a side and enlarged again
    low_resolution: tuple[int, int] = (16, 48)
    erase_probability: float = 0.0  # a rectangle of a single colour
    erase_side: tuple[float, float] = (0.1, 0.5)  # its sides, of the view's

    bf16: bool = True  # autocast, where the device computes it faster: CUDA, and CPUs with AVX512-BF16 or AMX
    compile: bool = False  # the network through torch.compile
    # Of a run on several processes (torchrun):
    gather_features: bool = True  # the losses see the whole batch, as on one process; else each process its own part
    synchronised_batchnorm: bool = True  # on CUDA only
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """Every field, as JSON gives it back: lists for tuples."""
        fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return fields

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Where `other`, the `as_json()` of a recipe that was stored, is not this one: "seed: 1 there, 0 here" each."""
        mine, absent = self.as_json(), "absent"
        return [
            f"{name}: {other.get(name, absent)} there, {mine.get(name, absent)} here"
            for name in {**mine, **other}
            if name not in mine or name not in other or other[name] != mine[name]
        ]

    def objective_weight_at(self, progress: float) -> float:
        """The weight of the objective beside the fine term at `progress` (0..1) of the schedule."""
        start, end = self.objective_ramp
        if progress >= end:
            return self.objective_weight
        return self.objective_weight * max(0.0, progress - start) / (end - start)

    def stage_at(self, progress: float) -> Stage:
        """The stage at `progress` (0..1) of the schedule."""
        end = 0.0
        for stage in self.stages:
            end += stage.share
            if progress < end - 1e-9:
                return stage
        return self.stages[-1]


# The paper and its released code (facts in the model card): 224 px, lr 0.5 halved every 20 of 100 epochs,
# batch 128, weight decay 1e-4. From scratch, lr 0.05 and more was seen to collapse without a warm-up in small
# trials, so ten epochs of it are added. Channels are RGB, the released code's are BGR.
_PAPER = Recipe("crs-cont-paper", crop_size=224, stages=(Stage(224, 1.0),), warmup_epochs=10)

# For a CPU and an hour or two: fine labels beside the coarse ones, growing images, a cosine schedule. In the
# first 300 steps at 48 px the fine term fell to 1.83 with AdamW at 1e-3, to 1.93 with SGD at 0.05, to 1.94 at
# 0.02. The objective comes in once there are features for it: at full weight after 50 steps it collapsed.
_CRS_CONT_CPU = Recipe(
    "crs-cont-cpu",
    crop_size=96,
    stages=(Stage(48, 0.30), Stage(64, 0.35), Stage(96, 0.35)),
    epochs=20,
    batch_size=64,
    objective_weight=0.5,
    objective_ramp=(0.25, 0.40),
    fine_weight=1.0,
    label_smoothing=0.1,
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=0.05,
    warmup_epochs=0.2,
    schedule="cosine",
    grey_probability=0.1,
    cutout_probability=0.4,
)

# Goes on from crs-cont-cpu with all data, and with views that are turned, larger and smaller, blurred to 16-48 pixels
# and partly covered, since real crops are.
_GENERAL_CPU = dataclasses.replace(
    _CRS_CONT_CPU,
    name="general-r18-cpu",
    datasets=("rafdb", "affectnet", "ferplus", "contempt"),
    repeats=(2, 1, 1, 1),
    start_from="crs-cont-cpu",
    stages=(Stage(64, 0.40), Stage(80, 0.60)),
    epochs=12,
    batch_size=96,
    objective_ramp=(0.02, 0.10),
    average_decay=0.998,
    learning_rate=8e-4,
    warmup_epochs=0.3,
    crop_scale=(0.5, 1.25),
    grey_probability=0.15,
    cutout_probability=0.3,
    rotation=12.0,
    low_resolution_probability=0.25,
    erase_probability=0.2,
)

# A further cycle on a CPU, from the packaged default: more light and colour, more of what is around a face, and
# AffectNet8, whose faces keep their background.
_CYCLE = dataclasses.replace(
    _GENERAL_CPU,
    name="general-r18-cycle",
    datasets=("rafdb", "affectnet", "affectnet8", "ferplus", "contempt"),
    repeats=(2, 1, 2, 1, 1),
    start_from="general-r18-cpu",
    stages=(Stage(80, 0.50), Stage(96, 0.50)),
    average_decay=0.999,
    learning_rate=7e-4,
    warmup_epochs=0.1,
    crop_scale=(0.5, 1.4),
    jitter=(0.5, 0.5, 0.4, 0.1),
    rotation=15.0,
    erase_probability=0.25,
)

# The cycle after it: rare expressions, whose recall it had lowered on FER+, are seen twice as often.
_CYCLE_2 = dataclasses.replace(
    _CYCLE,
    name="general-r18-cycle2",
    expression_repeats=(1, 1, 1, 1, 1, 2, 2, 2),
    start_from="general-r18-cycle",
    stages=(Stage(80, 0.35), Stage(96, 0.65)),
)

# From ImageNet instead of from scratch: EfficientNet-Lite0 as scripts/imagenet_start.py writes it.
_LITE0 = dataclasses.replace(
    _CYCLE_2,
    name="general-lite0",
    architecture="efficientnet_lite0",
    start_from="efficientnet_lite0.safetensors",
    frozen=("conv_stem", "bn1", "blocks.0", "blocks.1"),
    crop_size=112,
    embedding_size=512,
    stages=(Stage(80, 0.45), Stage(112, 0.55)),
    average_decay=0.998,
    learning_rate=1e-3,
    warmup_epochs=0.05,
    objective_ramp=(0.03, 0.12),
)

# The same two on a GPU: from scratch, at 112 px throughout, longer, with larger batches and a higher rate. Not yet run
# on one.
_ON_GPU: dict[str, Any] = {
    "crop_size": 112,
    "stages": (Stage(112, 1.0),),
    "epochs": 120,
    "batch_size": 256,
    "start_from": "",
    "objective_ramp": (0.10, 0.20),
    "average_decay": 0.999,
    "learning_rate": 2e-3,
    "warmup_epochs": 3.0,
}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        _PAPER,
        _CRS_CONT_CPU,
        _GENERAL_CPU,
        _CYCLE,
        _CYCLE_2,
        _LITE0,
        dataclasses.replace(_CRS_CONT_CPU, name="crs-cont-r18", **_ON_GPU),
        dataclasses.replace(_GENERAL_CPU, name="general-r18", **_ON_GPU),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of this name. Raises DataError for one that is not there.

    Examples
    --------
    >>> from fergeneral.train.config import find_recipe
    >>> find_recipe("general-r18-cycle").datasets
    ('rafdb', 'affectnet', 'affectnet8', 'ferplus', 'contempt')
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise DataError(f"unknown recipe {name!r}; there is: {', '.join(RECIPES)}") from None


def change_recipe(recipe: Recipe, changes: Iterable[str]) -> Recipe:
    """The recipe with other values, each given as "field=value"; numbers, lists and booleans as in JSON.

    Raises DataError for a field that is not there and a value of another type.
    """
    values: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in recipe.as_json():
            raise DataError(f"{change!r} is not FIELD=VALUE with a field of a recipe: {', '.join(recipe.as_json())}")
        try:
            values[name] = _parsed(text, get_type_hints(Recipe)[name])
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{name} is {json.dumps(recipe.as_json()[name])} in the recipe; {text!r} is no such value"
            ) from error
    return dataclasses.replace(recipe, **values)


def _parsed(text: str, kind: Any) -> Any:
    """Raises ValueError or TypeError for what is not of the type `kind`."""
    if kind is str:
        return text
    value = json.loads(text)
    if kind == tuple[Stage, ...]:
        return tuple(Stage(int(pixels), float(share)) for pixels, share in value)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise TypeError
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise TypeError
    return value
