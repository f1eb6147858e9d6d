"""The packaged encoders for `torch.hub`.

    import torch
    network = torch.hub.load("PATH_OF_THIS_FOLDER", "general_r18_cycle", source="local")

The entry points are the functions below; those of encoders need timm 1.0.16 or later. The weights come with this folder
and are for research only, non-commercial: see weights/README.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module

    from fergeneral import ExpressionExtractor

dependencies = [
    "PIL",
    "huggingface_hub",
    "numpy",
    "safetensors",
    "threadpoolctl",
    "timm",
    "torch",
    "torchvision",
    "tqdm",
]


def general_r18_cycle() -> Module:
    """The default encoder, a ResNet-18 for aligned face crops of 96 x 96 pixels.

    Returns
    -------
    torch.nn.Module
        In evaluation mode. Takes (N, 3, 96, 96) float32: RGB, 0..1, less the mean (0.485, 0.456, 0.406), divided by the
        standard deviation (0.229, 0.224, 0.225). Returns (N, 512) float32, one embedding a crop.
        `timm.data.create_transform(**timm.data.resolve_model_data_config(network))` prepares a PIL image.
        The crops have to be aligned first: `extractor().align(photo, face.landmarks)` cuts them.

    Examples
    --------
    >>> network = torch.hub.load(".", "general_r18_cycle", source="local")
    >>> network(torch.zeros(2, 3, 96, 96)).shape
    torch.Size([2, 512])
    """
    return _network("general-r18-cycle")


def crs_cont_cpu() -> Module:
    """An encoder of less training data, for tests on data that neither was trained on; otherwise as general_r18_cycle.

    Returns
    -------
    torch.nn.Module
        As that of `general_r18_cycle`: (N, 3, 96, 96) float32 to (N, 512) float32, the same mean and deviation.
    """
    return _network("crs-cont-cpu")


def extractor(weights: str | None = None, device: str | None = None) -> ExpressionExtractor:
    """Detection, alignment and an encoder: from a photo to an embedding a face. Needs facenet-pytorch, too.

    Parameters
    ----------
    weights : str or None
        The name of packaged weights ("general-r18-cycle"), a folder of weights, or the id of a Hub repository of them;
        None for the default.
    device : str or None
        "cpu", "cuda" or "mps"; None for the best there is.

    Returns
    -------
    fergeneral.ExpressionExtractor
        `extract(photo)` gives the faces with their embeddings, `align(photo, landmarks)` a crop for the encoders above.
    """
    from fergeneral import ExpressionExtractor

    return ExpressionExtractor.from_pretrained(weights, device=device)


def _network(name: str) -> Module:
    """timm's network with packaged weights, after fergeneral has checked their SHA-256 and their values."""
    import timm

    from fergeneral.hub import load_folder, weights_folder

    folder = weights_folder() / name
    load_folder(folder, "cpu")
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
