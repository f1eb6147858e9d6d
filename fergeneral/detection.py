"""An upright RGB image -> the faces in it: the detectors this package has, and the names they go by."""

from __future__ import annotations

import torch

from fergeneral.mtcnn import MTCNNDetector
from fergeneral.types import Detector
from fergeneral.yunet import YuNetDetector

__all__ = ["MTCNNDetector", "YuNetDetector", "make_detector"]


def make_detector(
    detector: Detector | str | None, device: str | torch.device = "cpu", *, local_files_only: bool = False
) -> Detector:
    """A detector by its name; None is "mtcnn"; an object with `detect(image) -> list[Detection]` is given back.

    `device`: where MTCNN runs; YuNet always runs on the CPU. `local_files_only`: YuNet's file must be in the Hub's
    cache. Raises ValueError for another name, TypeError for an object that is no detector, and what YuNetDetector
    raises.
    """
    if detector is None or detector == "mtcnn":
        return MTCNNDetector(device=device)
    if detector == "yunet":
        return YuNetDetector(local_files_only=local_files_only)
    if isinstance(detector, str):
        raise ValueError(f"detector must be 'mtcnn', 'yunet' or an object with a method detect, got {detector!r}")
    if not callable(getattr(detector, "detect", None)):
        raise TypeError(f"detector must have a method detect(image) -> list[Detection], got {type(detector).__name__}")
    return detector
