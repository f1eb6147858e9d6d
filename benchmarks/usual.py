"""What a face-embedding script usually is: facenet-pytorch's MTCNN with its defaults and a timm network at 224 pixels,
one photo at a time, in eager mode. The yardstick of speed.py; it needs nothing of fergeneral.

    python benchmarks/usual.py PHOTO
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import timm
import torch
from facenet_pytorch import MTCNN
from PIL import Image

SIZE = 224
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


class Usual:
    def __init__(self) -> None:
        self.mtcnn = MTCNN(keep_all=True, device="cpu")
        self.network = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()

    def __call__(self, data: bytes) -> int:
        """The number of faces that were embedded."""
        image = Image.open(io.BytesIO(data)).convert("RGB")
        boxes, _ = self.mtcnn.detect(image)
        crops = [] if boxes is None else [self.crop(image, box) for box in boxes.astype(np.float32).tolist()]
        if not crops:
            return 0
        with torch.no_grad():
            return len(self.network(torch.stack(crops)))

    @staticmethod
    def crop(image: Image.Image, box: list[float]) -> torch.Tensor:
        pixels = np.asarray(image.crop([round(v) for v in box]).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        return (torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255 - MEAN) / STD


if __name__ == "__main__":
    print(Usual()(Path(sys.argv[1]).read_bytes()), "faces")
