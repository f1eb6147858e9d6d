"""YuNet (Wu, Peng and Yu, Machine Intelligence Research 2023), a small face detector, run by ONNX Runtime.

It looks at a shrunk image and proposes boxes; the landmarks in them are O-Net's (mtcnn.py), seen in the image itself.
YuNet's own lie 0.11 distances between the eyes from facenet-pytorch's MTCNN, whose landmarks define the crops here;
O-Net's lie 0.035 from it, as good as our MTCNN's 0.027 (medians over 578 faces in 96 scenes). O-Net also tells faces
among what YuNet is unsure of: so YuNet looks at a third of the pixels and still finds more.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.ops import nms

from fergeneral.errors import ModelError
from fergeneral.mtcnn import LandmarkNetwork, check_min_face_size, smallest_face
from fergeneral.sessions import import_onnxruntime, open_session
from fergeneral.storage import read_weights
from fergeneral.threads import inference, thread_limit
from fergeneral.types import Detection

MODEL_FILE = "face_detection_yunet_2023mar.onnx"  # of the OpenCV Zoo, under the MIT licence; comes with this package
MODEL_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
_PACKAGED = Path(__file__).parent / "_detectors" / MODEL_FILE
_MOST_BYTES = 2**20  # it has 232,589

SCORE_THRESHOLD = 0.7  # of YuNet or of O-Net: one of the two must be so sure of a face
FACE_SIZE = 20  # pixels; an image is shrunk until the smallest face looked for is this large
LONGEST_SIDE = 320  # pixels; but not further than to this
_PROPOSED = 0.2  # YuNet's least score for a box that O-Net is shown
_SMALLEST_BOX = 2  # pixels
_NMS_THRESHOLD = 0.3  # as OpenCV's FaceDetectorYN has it, whose results these are, in a third of the time
_STRIDES = (8, 16, 32)  # pixels from cell to cell of YuNet's three maps
# The file states an input of 640 x 640, the network takes any multiple of 32: each is put in place of the other, in the
# protobuf encoding of a dimension that is a number, and of one that has a name.
_FIXED, _FREE = b"\x0a\x03\x08\x80\x05", (b"\x0a\x03\x12\x01h", b"\x0a\x03\x12\x01w")


class YuNetDetector:
    """YuNet with five landmarks: less time than MTCNN, on the CPU only. Needs the extra `yunet`. Safe between threads.

    Parameters
    ----------
    model : str or Path, optional
        Another copy of the file `face_detection_yunet_2023mar.onnx`. By default the one that comes with the package.
    min_face_size : int, optional
        The shorter side, in pixels of the image, of the smallest face looked for; 1 or more. By default 40, or
        sqrt(width * height) / 48 where that is more (above 3.7 megapixels): see MTCNNDetector.
    device : str or torch.device
        As other detectors take it; YuNet always runs on the CPU.
    score_threshold : float
        Faces that neither YuNet nor O-Net gives so high a score are left out; between 0 and 1.

    Raises
    ------
    MissingExtraError
        Without ONNX Runtime.
    ModelError
        For a file that cannot be read or whose SHA-256 is wrong.
    """

    name = "yunet"

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        min_face_size: int | None = None,
        device: str | torch.device = "cpu",
        score_threshold: float = SCORE_THRESHOLD,
    ) -> None:
        if not 0 < score_threshold < 1:
            raise ValueError(f"score_threshold must lie between 0 and 1, got {score_threshold}")
        self.min_face_size = check_min_face_size(min_face_size, 1)
        _runtime()
        self.score_threshold = score_threshold
        self._model = _verified(_PACKAGED if model is None else Path(model))
        self._landmarks = LandmarkNetwork()
        self._session = _session(self._model)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy, or another process, gets: not ONNX Runtime's object, which cannot be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._session = _session(self._model)

    def settings(self) -> dict[str, Any]:
        """What decides which faces are found."""
        return {"min_face_size": self.min_face_size, "score_threshold": self.score_threshold}

    @thread_limit(1)
    @inference(torch.device("cpu"))
    def detect(self, image: Image.Image) -> list[Detection]:
        """All faces in an upright PIL image of mode RGB, largest first. Boxes are clipped to the image.

        Landmarks and score are O-Net's, or, where it does not see the face, YuNet's.
        """
        proposed = self._propose(image)
        if not proposed:
            return []
        landmarks, scores = self._landmarks.mark(image, np.stack([face.box for face in proposed]))
        faces = [
            face if score < self.score_threshold else Detection(face.box, points, min(1.0, float(score)))
            for face, points, score in zip(proposed, landmarks, scores, strict=True)
        ]
        return sorted((face for face in faces if face.score >= self.score_threshold), key=lambda face: -face.area)

    def _propose(self, image: Image.Image) -> list[Detection]:
        small = _shrunk(image, smallest_face(image.size, self.min_face_size))
        rows = self._rows(_pixels(small))
        scale = np.array([image.width / small.width, image.height / small.height], dtype=np.float32)
        found = (_detection(row, scale, image.size) for row in rows if _mostly_inside(row, small.size))
        return [face for face in found if min(face.box[2:] - face.box[:2]) >= _SMALLEST_BOX]

    def _rows(self, pixels: np.ndarray) -> np.ndarray:
        """(N, 15): left, top, width, height, five points and score of each face, best first."""
        shape, least = pixels.shape[2:], min(_PROPOSED, self.score_threshold)
        maps = self._session.run(None, {"input": pixels})
        rows = np.concatenate([_decoded(maps[level::3], shape, stride, least) for level, stride in enumerate(_STRIDES)])
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return rows[nms(torch.from_numpy(corners), torch.from_numpy(rows[:, 14].copy()), _NMS_THRESHOLD).numpy()]


def _runtime() -> Any:
    return import_onnxruntime("the detector yunet", "yunet")


def _session(model: bytes) -> Any:
    return open_session(_runtime(), model.replace(_FIXED * 2, b"".join(_FREE)))


def _decoded(maps: list[np.ndarray], shape: tuple[int, ...], stride: int, least: float) -> np.ndarray:
    """The faces of one map with a score of at least `least`, in rows of 15; `maps`: class, object, box, points."""
    classes, objects, boxes, points = (part[0] for part in maps)
    scores = np.sqrt(np.clip(classes[:, 0], 0, 1) * np.clip(objects[:, 0], 0, 1))
    places = np.flatnonzero(scores >= least)
    cells = np.stack([places % (shape[1] // stride), places // (shape[1] // stride)], axis=1)
    middles, sizes = (cells + boxes[places, :2]) * stride, np.exp(boxes[places, 2:]) * stride
    marks = (np.tile(cells, 5) + points[places]) * stride
    return np.concatenate([middles - sizes / 2, sizes, marks, scores[places, None]], axis=1).astype(np.float32)


def _verified(path: Path) -> bytes:
    data = read_weights(path, _MOST_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    if digest != MODEL_SHA256:
        raise ModelError(
            f"{path} is not {MODEL_FILE} of the OpenCV Zoo: its SHA-256 is {digest}, not {MODEL_SHA256}; "
            f"leave `model` out to use the copy that comes with the package, or install the package again"
        )
    return data


def _shrunk(image: Image.Image, smallest: float) -> Image.Image:
    """The image, or a smaller one: `smallest` pixels have become FACE_SIZE, or its longest side LONGEST_SIDE."""
    scale = max(FACE_SIZE / smallest, LONGEST_SIDE / max(image.size))
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # A gap of 1 takes whole-number averages first, in a fraction of the time; YuNet finds the same.
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0)


def _pixels(image: Image.Image) -> np.ndarray:
    """(1, 3, H, W) float32 0..255 in the order BGR, with black to the right and below up to multiples of 32."""
    height, width = (-(-side // _STRIDES[-1]) * _STRIDES[-1] for side in (image.height, image.width))
    pixels = np.zeros((1, 3, height, width), dtype=np.float32)
    pixels[0, :, : image.height, : image.width] = np.asarray(image)[:, :, ::-1].transpose(2, 0, 1)
    return pixels


def _mostly_inside(row: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether at least half of the box is: in the black beside a tiny image, YuNet may see faces larger than it."""
    left, top, width, height = row[:4].tolist()
    across, down = min(left + width, size[0]) - max(left, 0), min(top + height, size[1]) - max(top, 0)
    return min(across, down) > 0 and 2 * across * down >= width * height


def _detection(row: np.ndarray, scale: np.ndarray, size: tuple[int, int]) -> Detection:
    """A row of `_rows`: left, top, width, height, five points, score.

    Its points come as the person's right eye, left eye, nose tip, right and left mouth corner: of an upright face
    that is left, right, nose, left, right as seen in the picture, the order of this package.
    """
    corners = np.stack([row[:2], row[:2] + row[2:4]]) * scale
    box = np.clip(corners, 0, size).astype(np.float32).ravel()
    return Detection(box, row[4:14].reshape(5, 2) * scale, min(1.0, float(row[14])))
