"""MTCNN (Zhang et al., IEEE SPL 2016), as facenet-pytorch ships it."""

from __future__ import annotations

import numpy as np
import torch
from facenet_pytorch import MTCNN
from PIL import Image

from fergeneral.types import Detection

# facenet-pytorch's default, 20, takes about twice the time and adds false boxes on large photos; 40 found the same
# faces.
MIN_FACE_SIZE = 40


class MTCNNDetector:
    """MTCNN with five landmarks. `min_face_size`: the shorter side, in pixels, of the smallest face looked for."""

    def __init__(self, *, min_face_size: int = MIN_FACE_SIZE, device: str | torch.device = "cpu") -> None:
        if min_face_size < 12:
            raise ValueError(
                f"min_face_size must be at least 12 pixels (what MTCNN's first network sees), got {min_face_size}"
            )
        self.min_face_size = min_face_size
        # MTCNN resizes by adaptive pooling to sizes that MPS does not support; there it runs on the CPU.
        place = "cpu" if torch.device(device).type == "mps" else device
        self._mtcnn = MTCNN(keep_all=True, min_face_size=min_face_size, device=place)

    def detect(self, image: Image.Image) -> list[Detection]:
        """All faces in an upright PIL image of mode RGB. Boxes are clipped to the image."""
        # One image at a time: facenet-pytorch 2.5.3 takes no list of images of different sizes, and ...
        if min(image.size) < self.min_face_size:
            return []  # ... finds no pyramid level for one smaller than the smallest face, and raises.
        boxes, scores, landmarks = self._mtcnn.detect(image, landmarks=True)
        if boxes is None:
            return []
        limits = np.array([image.width, image.height] * 2, dtype=np.float32)
        clipped = np.clip(np.asarray(boxes, dtype=np.float32), 0, limits)  # they come as arrays of dtype object
        points = np.asarray(landmarks, dtype=np.float32)
        return [
            Detection(box, point, min(1.0, float(score)))
            for box, point, score in zip(clipped, points, scores, strict=True)
            if box[2] > box[0] and box[3] > box[1]
        ]
