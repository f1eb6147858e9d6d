"""General embeddings of facial expressions: `extract(image)` gives one 512-d vector for every face in a photo.

Importing this package is cheap: a name is loaded from its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fergeneral.alignment import align_face
    from fergeneral.errors import (
        DataError,
        FergeneralError,
        ImageError,
        MissingExtraError,
        ModelError,
        TrainingError,
    )
    from fergeneral.extractor import ExpressionExtractor, extract, extract_video
    from fergeneral.hub import list_models
    from fergeneral.images import load_image
    from fergeneral.transformer import ExpressionFeatures
    from fergeneral.types import Detection, Detector, Face, TrackedFace, VideoFrame

__version__ = "0.1.0"

__all__ = [
    "DataError",
    "Detection",
    "Detector",
    "ExpressionExtractor",
    "ExpressionFeatures",
    "Face",
    "FergeneralError",
    "ImageError",
    "MissingExtraError",
    "ModelError",
    "TrackedFace",
    "TrainingError",
    "VideoFrame",
    "align_face",
    "extract",
    "extract_video",
    "list_models",
    "load_image",
]

_HOME = {
    **dict.fromkeys(("Detection", "Detector", "Face", "TrackedFace", "VideoFrame"), "types"),
    **dict.fromkeys(("ExpressionExtractor", "extract", "extract_video"), "extractor"),
    "ExpressionFeatures": "transformer",
    "align_face": "alignment",
    "list_models": "hub",
    "load_image": "images",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fergeneral' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fergeneral.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
