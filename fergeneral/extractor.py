"""The few lines that join the stages:

input -> load_image -> RGB image -> detect -> list[Detection] -> align -> uint8 (S, S, 3) -> float32 (N, 3, S, S)
-> encoder -> (N, D) -> list[Face]
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fergeneral import hub
from fergeneral.alignment import cut_face
from fergeneral.detection import MTCNNDetector
from fergeneral.encoder import Encoder, EncoderConfig
from fergeneral.errors import ImageError
from fergeneral.images import load_image
from fergeneral.threads import core_limit, map_ahead, worker_count, worker_pool
from fergeneral.types import Detection, Detector, Face

Found = tuple[list[Detection], list[np.ndarray]]  # a photo's faces, largest first, and their crops (S, S, 3) uint8

_loading = threading.Lock()


class ExpressionExtractor:
    """Photos -> faces with expression embeddings, by a detector and a frozen encoder. Safe between threads."""

    def __init__(self, encoder: Encoder, detector: Detector | None = None) -> None:
        if detector is not None and not callable(getattr(detector, "detect", None)):
            raise TypeError(
                f"detector must have a method detect(image) -> list[Detection], got {type(detector).__name__}"
            )
        self.encoder = encoder
        self.detector: Detector = MTCNNDetector(device=encoder.device) if detector is None else detector

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        revision: str | None = None,
        device: str | None = None,
        detector: Detector | None = None,
        local_files_only: bool = False,
    ) -> ExpressionExtractor:
        """Load an encoder and put a detector before it.

        `name_or_path`: None or a name of `list_models()` for packaged weights; a folder that holds
        model.safetensors and config.json; or the id of such a repository on the Hugging Face Hub ("owner/name"),
        then with `revision`, a commit, tag or branch (a commit is what keeps results the same), and
        `local_files_only` to use what has been downloaded before and nothing else (as HF_HUB_OFFLINE=1 does).
        `device`: "cpu", "cuda", "cuda:N" or "mps"; None takes CUDA, then MPS, then the CPU.
        `detector`: None for MTCNN, or an object with `detect(image) -> list[Detection]`.
        Raises ModelError for weights that are not there, damaged or not those that config.json describes, and for
        a device that is not there.
        """
        return cls(hub.load_encoder(name_or_path, revision, device, local_files_only), detector)

    @property
    def config(self) -> EncoderConfig:
        """What the weights say of themselves: crop size, template, model id and so on."""
        return self.encoder.config

    def extract(self, image: Any) -> list[Face]:
        """Find, align and embed every face in a photo (anything `load_image` takes).

        Largest face first; [] where there is none. Raises ImageError for an image that cannot be read.
        """
        with core_limit():
            detections, crops = self._find(image)
            return self._join(detections, self.encoder.encode(crops, show_progress=False))

    def extract_many(
        self,
        images: Iterable[Any],
        *,
        batch_size: int = 32,
        on_error: Callable[[int, ImageError], None] | None = None,
    ) -> Iterator[list[Face]]:
        """`extract` for any number of photos: one list per photo, in their order, computed as they are asked for.

        Photos are read and searched in as many threads as there are cores (at most 8, and no more than torch's
        threads: see torch.set_num_threads), each of which holds one photo, and faces of several photos are encoded
        together; at most two batches of `batch_size` photos, or about so many faces, and a few photos are held back.
        `images` is gone through, and `on_error` called, in the caller's thread.
        `on_error(position, error)` is called for a photo that cannot be read, which then gives []; without it the
        error is raised, after the results of all photos before it. So is an error that `images` raises.
        """
        if isinstance(images, (str, bytes)) or not isinstance(images, Iterable):
            raise TypeError(f"extract_many takes an iterable of photos, got one {type(images).__name__}; use extract")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        return self._extract_many(images, batch_size, on_error)

    def _extract_many(
        self, images: Iterable[Any], batch_size: int, on_error: Callable[[int, ImageError], None] | None
    ) -> Iterator[list[Face]]:
        workers = worker_count()
        with worker_pool(workers) as pool:
            found = map_ahead(pool, self._try_find, images, ahead=3 * workers)
            for faces in map_ahead(pool, self._encode_batch, _batches(found, batch_size, on_error), ahead=1):
                yield from faces

    def encode(
        self, crops: Any, *, batch_size: int = 64, show_progress: bool | None = None, normalize: bool = False
    ) -> np.ndarray:
        """Embed images that already are face crops, without detection: see `Encoder.encode`. (N, D) float32."""
        return self.encoder.encode(crops, batch_size=batch_size, show_progress=show_progress, normalize=normalize)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json, which `from_pretrained(folder)` reads."""
        hub.save_folder(folder, self.encoder.state_dict(), self.config)

    def push_to_hub(self, repo: str) -> str:
        """Upload the weights to a repository on the Hugging Face Hub, made if need be. Returns the commit's address."""
        return hub.push(repo, self.encoder.state_dict(), self.config)

    def _find(self, image: Any) -> Found:
        picture = load_image(image)
        detections = sorted(self.detector.detect(picture), key=lambda detection: -detection.area)
        size, template = self.config.crop_size, self.config.template
        return detections, [cut_face(picture, found.landmarks, size, template) for found in detections]

    def _try_find(self, image: Any) -> Found | ImageError:
        try:
            return self._find(image)
        except ImageError as error:
            return error

    def _encode_batch(self, batch: list[Found]) -> list[list[Face]]:
        embeddings = self.encoder.encode([crop for _, crops in batch for crop in crops], show_progress=False)
        starts = itertools.accumulate((len(detections) for detections, _ in batch), initial=0)
        return [
            self._join(detections, embeddings[start : start + len(detections)])
            for (detections, _), start in zip(batch, starts, strict=False)
        ]

    def _join(self, detections: list[Detection], embeddings: np.ndarray) -> list[Face]:
        return [
            Face(found.box, found.landmarks, found.score, embedding.copy(), self.config.model_id)
            for found, embedding in zip(detections, embeddings, strict=True)
        ]


def _batches(
    found: Iterable[Found | ImageError], size: int, on_error: Callable[[int, ImageError], None] | None
) -> Iterator[list[Found]]:
    """`size` photos, or about so many faces, at a time. Before an error is raised, what came before it is given."""
    batch: list[Found] = []
    try:
        for position, result in enumerate(found):
            if isinstance(result, ImageError):
                if on_error is None:
                    raise ImageError(f"image {position}: {result}") from result
                on_error(position, result)
                result = [], []
            batch.append(result)
            if max(len(batch), sum(len(crops) for _, crops in batch)) >= size:
                yield batch
                batch = []
    except Exception:
        yield batch
        raise
    yield batch


@functools.lru_cache(maxsize=4)
def _load_once(name: str | None, device: str | None) -> ExpressionExtractor:
    return ExpressionExtractor.from_pretrained(name, device=device)


def shared_extractor(name_or_path: str | Path | None = None, device: str | None = None) -> ExpressionExtractor:
    """One extractor per weights and device, loaded when first asked for and kept."""
    with _loading:
        return _load_once(None if name_or_path is None else str(name_or_path), device)


def extract(image: Any) -> list[Face]:
    """Find, align and embed every face in a photo, with the packaged weights on the best device there is.

    `image`: anything `load_image` takes. Largest face first; [] where there is none. The weights are loaded at the
    first call. Raises ImageError for an image that cannot be read.
    """
    return shared_extractor().extract(image)
