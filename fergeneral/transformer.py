"""A scikit-learn transformer: images in, one row of expression features each out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fergeneral.encoder import EncoderConfig
from fergeneral.errors import DataError, ImageError, MissingExtraError, positive_integer
from fergeneral.extractor import ExpressionExtractor, shared_extractor
from fergeneral.types import Detector, Face

try:
    from sklearn.base import BaseEstimator, TransformerMixin
except ImportError as error:
    raise MissingExtraError("ExpressionFeatures", "scikit-learn", "eval") from error


class ExpressionFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Expression embeddings as a stateless transformer, for pipelines, grid searches and cross-validation.

    Parameters
    ----------
    face : {"largest", "best"}, default "largest"
        Which face of a photo counts: the one with the largest box, or with the best detection score.
    aligned : bool, default False
        The images already are face crops (as RAF-DB's aligned ones) and go to the encoder as they are.
    on_missing : {"raise", "nan"}, default "raise"
        A photo without a face raises DataError, or gives a row of NaN. So does one that cannot be read: ImageError
        by default, else a row of NaN and a warning that counts them.
    model : str or None, default None
        As `ExpressionExtractor.from_pretrained`'s `name_or_path`.
    device : str or None, default None
        As there.
    detector : Detector, str or None, default None
        As there.
    batch_size : int, default 32
        How many images go through the encoder at once.
    """

    def __init__(
        self,
        face: str = "largest",
        *,
        aligned: bool = False,
        on_missing: str = "raise",
        model: str | None = None,
        device: str | None = None,
        detector: Detector | str | None = None,
        batch_size: int = 32,
    ) -> None:
        self.face = face
        self.aligned = aligned
        self.on_missing = on_missing
        self.model = model
        self.device = device
        self.detector = detector
        self.batch_size = batch_size

    def fit(self, X: Sequence[Any], y: Any = None) -> ExpressionFeatures:  # noqa: N803 - scikit-learn's name
        """Check the parameters; nothing is learnt."""
        self._check_parameters()
        return self

    def transform(self, X: Sequence[Any]) -> np.ndarray:  # noqa: N803
        """(N, D) float32, row i from image i. `X`: N images in any form `load_image` takes, or (N, H, W, 3) uint8."""
        self._check_parameters()
        if isinstance(X, (str, bytes)) or not hasattr(X, "__len__"):
            raise DataError(
                f"X must be a sequence of images, got one {type(X).__name__}; put a single image into a list"
            )
        images = list(X)
        if self.aligned:
            return self._shared().encode(images, batch_size=self.batch_size, show_progress=False)
        rows = np.full((len(images), self._config().embedding_size), np.nan, dtype=np.float32)
        for row, faces in zip(rows, self._faces(images), strict=True):
            if faces:
                row[:] = self._choose(faces).embedding
        return rows

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the columns: embedding_0 ... embedding_511, as in the tables of faces."""
        return np.array([f"embedding_{i}" for i in range(self._config().embedding_size)], dtype=object)

    def _faces(self, images: list[Any]) -> Iterator[list[Face]]:
        unreadable: list[str] = []
        position = -1

        def note(number: int, error: ImageError) -> None:
            unreadable.append(f"image {number}: {error}")

        skip = note if self.on_missing == "nan" else None
        found = self._extractor().extract_many(images, batch_size=self.batch_size, on_error=skip)
        for position, faces in enumerate(found):
            if not faces and self.on_missing == "raise":
                raise DataError(
                    f"no face found in image {position}; on_missing='nan' gives a row of NaN for such images"
                )
            yield faces
        if unreadable:
            warnings.warn(
                f"{len(unreadable)} of {position + 1} images could not be read; {unreadable[0]}", stacklevel=3
            )

    def _choose(self, faces: list[Face]) -> Face:
        return faces[0] if self.face == "largest" else max(faces, key=lambda face: face.score)

    def _extractor(self) -> ExpressionExtractor:
        shared = self._shared()
        return shared if self.detector is None else ExpressionExtractor(shared.encoder, self.detector)

    def _shared(self) -> ExpressionExtractor:
        return shared_extractor(self.model, self.device)

    def _config(self) -> EncoderConfig:
        return self._shared().config

    def _check_parameters(self) -> None:
        for name, allowed in (
            ("face", ("largest", "best")),
            ("on_missing", ("raise", "nan")),
            ("aligned", (True, False)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        positive_integer(self.batch_size, "batch_size")

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        return tags
