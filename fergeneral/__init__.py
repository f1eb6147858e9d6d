"""General embeddings of facial expressions: `extract(image)` gives one 512-d vector for every face in a photo, and
`classify(image)` its expression.

Importing this package is cheap: a name, or a module such as `fergeneral.jobs`, is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fergeneral import datasets as datasets
    from fergeneral import demo as demo
    from fergeneral import distributed as distributed
    from fergeneral import drawing as drawing
    from fergeneral import encoder as encoder
    from fergeneral import errors as errors
    from fergeneral import evaluate as evaluate
    from fergeneral import export as export
    from fergeneral import heads as heads
    from fergeneral import images as images
    from fergeneral import int8 as int8
    from fergeneral import jobs as jobs
    from fergeneral import similar as similar
    from fergeneral import sources as sources
    from fergeneral import storage as storage
    from fergeneral import terms as terms
    from fergeneral import train as train
    from fergeneral import types as types
    from fergeneral import video as video
    from fergeneral.alignment import align_face
    from fergeneral.classifier import ExpressionClassifier, classify
    from fergeneral.errors import (
        DataError,
        FergeneralError,
        ImageError,
        MissingExtraError,
        ModelError,
        TrainingError,
    )
    from fergeneral.extractor import ExpressionExtractor, extract, extract_video
    from fergeneral.heads.head import Head, list_heads
    from fergeneral.hub import list_models
    from fergeneral.images import load_image
    from fergeneral.similar import Neighbour, find_similar
    from fergeneral.transformer import ExpressionFeatures
    from fergeneral.types import (
        ClassifiedFace,
        ClassifiedTrackedFace,
        Detection,
        Detector,
        Face,
        TrackedFace,
        VideoFrame,
    )

__version__ = "0.6.0"

__all__ = [
    "ClassifiedFace",
    "ClassifiedTrackedFace",
    "DataError",
    "Detection",
    "Detector",
    "ExpressionClassifier",
    "ExpressionExtractor",
    "ExpressionFeatures",
    "Face",
    "FergeneralError",
    "Head",
    "ImageError",
    "MissingExtraError",
    "ModelError",
    "Neighbour",
    "TrackedFace",
    "TrainingError",
    "VideoFrame",
    "align_face",
    "classify",
    "extract",
    "extract_video",
    "find_similar",
    "list_heads",
    "list_models",
    "load_image",
]

_HOME = {
    **dict.fromkeys(("ClassifiedFace", "ClassifiedTrackedFace", "Detection", "Detector"), "types"),
    **dict.fromkeys(("Face", "TrackedFace", "VideoFrame"), "types"),
    **dict.fromkeys(("ExpressionClassifier", "classify"), "classifier"),
    **dict.fromkeys(("Head", "list_heads"), "heads.head"),
    **dict.fromkeys(("Neighbour", "find_similar"), "similar"),
    **dict.fromkeys(("ExpressionExtractor", "extract", "extract_video"), "extractor"),
    "ExpressionFeatures": "transformer",
    "align_face": "alignment",
    "list_models": "hub",
    "load_image": "images",
}
# That the documentation names; as attributes, so that `import fergeneral` is enough to use them.
_MODULES = (
    *("datasets", "demo", "distributed", "drawing", "encoder", "errors", "evaluate", "export", "heads", "images"),
    *("int8", "jobs", "similar", "sources", "storage", "terms", "train", "transformer", "types", "video"),
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fergeneral.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'fergeneral' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fergeneral.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])
