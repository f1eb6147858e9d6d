"""A scikit-learn transformer: images in, one row of expression features each out."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from fergeneral import __version__
from fergeneral.crop_check import looked_at, warn_of_photos
from fergeneral.encoder import Encoder, EncoderConfig
from fergeneral.errors import DataError, ImageError, MissingExtraError, ModelError, positive_integer
from fergeneral.extractor import ExpressionExtractor, shared_extractor
from fergeneral.images import MAX_BYTES, as_image_list, as_images, load_image
from fergeneral.storage import whole_file
from fergeneral.types import Detector, Face

try:
    from joblib import hash as hash_of
    from sklearn.base import BaseEstimator, TransformerMixin
except ImportError as error:
    raise MissingExtraError("ExpressionFeatures", "scikit-learn", "eval") from error

_DIGEST = 32  # bytes of a SHA-256
_Row = np.ndarray | ImageError | None  # an image's embedding (D,); why it cannot be read; None where there is no face


class ExpressionFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Expression embeddings as a transformer, for pipelines, grid searches and cross-validation.

    The encoder is frozen: `fit` learns nothing from the images, but pins the weights. It stores no images and no
    weights, so that a saved pipeline is small; `transform` loads the weights by `model`, and refuses others than `fit`
    had. `transform` without `fit` works, too.

    Since nothing is learnt, images need to be embedded only once: search for the best classifier on
    ``ExpressionFeatures().fit_transform(photos)``, or give a `cache`.

    Parameters
    ----------
    face : {"largest", "best"}, default "largest"
        Which face of a photo counts: the one with the largest box, or with the best detection score.
    aligned : bool, default False
        The images already are face crops (as RAF-DB's aligned ones) and go to the encoder as they are. Whole photos
        would give embeddings that say next to nothing of the expression: where a few that are looked at seem to be
        photos, `transform` gives a UserWarning.
    on_missing : {"raise", "nan"}, default "raise"
        A photo without a face raises DataError, or gives a row of NaN. So does an image that cannot be read: ImageError
        by default, else a row of NaN and a UserWarning that counts them. A transformer cannot drop rows, so do that
        before the pipeline: see `has_face`.
    model : str or None, default None
        As `ExpressionExtractor.from_pretrained`'s `name_or_path`.
    device : str or None, default None
        As there.
    detector : Detector, str or None, default None
        As there.
    batch_size : int, default 32
        How many images go through the encoder at once.
    cache : str, path or None, default None
        A folder, made if need be, that keeps one small file for each image, so that each is embedded once: in a grid
        search, in all folds and candidates, also with `n_jobs`. A stored row is used for the same content (of the file,
        or of the pixels), weights, version of this package, `aligned`, `face` and `detector` alone; a detector of your
        own counts by its class's name and its attributes: clear the folder when you change its code. Nothing in it is
        unpickled; corrupt files are computed again. It is never cleared: delete it when you like.

    Attributes
    ----------
    model_id_ : str
        The name of the weights that `fit` had.
    weights_sha256_ : str
        Their SHA-256, hexadecimal.

    Examples
    --------
    A classifier on photos, those without a face left out:

    >>> import glob
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from fergeneral import ExpressionFeatures
    >>> photos = np.array(sorted(glob.glob("examples/london/*/*.jpg")) + ["examples/photos/coffee.png"])
    >>> labels = np.array(["neutral"] * 12 + ["smiling"] * 12 + ["neutral"])
    >>> features = ExpressionFeatures(cache="rows", device="cpu")
    >>> keep = features.has_face(photos)
    >>> model = make_pipeline(features, StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    >>> model.fit(photos[keep], labels[keep]).predict(photos[:2])
    array(['neutral', 'neutral'], dtype='<U7')

    The same with rows that are made once:

    >>> from sklearn.model_selection import GridSearchCV
    >>> rows = ExpressionFeatures(on_missing="nan", cache="rows", device="cpu").fit_transform(photos)
    >>> keep = ~np.isnan(rows).any(axis=1)
    >>> search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": [0.001, 0.01]})
    >>> bool(search.fit(rows[keep], labels[keep]).best_score_ > 0.7)
    True
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
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        self.face = face
        self.aligned = aligned
        self.on_missing = on_missing
        self.model = model
        self.device = device
        self.detector = detector
        self.batch_size = batch_size
        self.cache = cache

    def fit(self, X: Sequence[Any], y: Any = None) -> ExpressionFeatures:  # noqa: N803 - scikit-learn's name
        """Check the parameters and the form of `X`, and pin the weights; no image is read.

        Parameters
        ----------
        X : sequence of length N
            As for `transform`.
        y : ignored
            There for scikit-learn.

        Returns
        -------
        ExpressionFeatures
            Itself, with `model_id_` and `weights_sha256_`.

        Raises
        ------
        ValueError
            For a parameter with a wrong value. As DataError for a data frame of several columns.
        TypeError
            For an `X` that is not many images in an order, or a parameter of a wrong type.
        ModelError
            For weights that are not there or corrupt.
        """
        self._check_parameters()
        _many(X)
        config = shared_extractor(self.model, self.device).config
        self.model_id_, self.weights_sha256_ = config.model_id, config.weights_sha256
        return self

    def transform(self, X: Sequence[Any]) -> np.ndarray:  # noqa: N803
        """Embed one face of each image.

        Parameters
        ----------
        X : sequence of length N
            Images in any form that `load_image` takes (paths, bytes, PIL images, arrays, ...): a list, an array (N,) or
            (N, 1) of objects or strings, a pandas or polars Series, a data frame of one column, an array (N, H, W, 3)
            uint8 RGB.

        Returns
        -------
        ndarray
            (N, D) float32, row i from image i. By scikit-learn's `set_output`, a data frame.

        Raises
        ------
        DataError
            For a photo without a face, unless `on_missing` is "nan"; for a data frame of several columns; for a cache
            that cannot be written.
        ImageError
            For an image that cannot be read, unless `on_missing` is "nan".
        ModelError
            For other weights than those of `fit`.
        TypeError
            For an `X` that is not many images in an order.
        """
        self._check_parameters()
        return self._rows(_many(X), self.on_missing, stacklevel=4)

    def has_face(self, X: Sequence[Any]) -> np.ndarray:  # noqa: N803
        """Which images `transform` has features for: a mask to drop the others by, before fitting a pipeline.

        It does all the work of `transform`, so with many photos give a `cache`, or embed them with
        ``on_missing="nan"`` and drop the rows of NaN.

        Parameters
        ----------
        X : sequence of length N
            As for `transform`.

        Returns
        -------
        ndarray
            (N,) bool: False for a photo without a face, and for an image that cannot be read (of these, a UserWarning
            gives the number).

        Raises
        ------
        DataError, ModelError, TypeError
            As `transform`, but for photos without a face.
        """
        self._check_parameters()
        mask: np.ndarray = ~np.isnan(self._rows(_many(X), "nan", stacklevel=3)).any(axis=1)
        return mask

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns.

        Parameters
        ----------
        input_features : ignored
            There for scikit-learn.

        Returns
        -------
        ndarray
            (D,) object: embedding_0 ... embedding_511, as in the tables of faces.
        """
        return np.array([f"embedding_{i}" for i in range(self._config().embedding_size)], dtype=object)

    def _rows(self, images: Sequence[Any], on_missing: str, *, stacklevel: int) -> np.ndarray:
        """(N, D); NaN where there is no face or no readable image, unless these raise. `stacklevel`: of warnings."""
        if self.aligned:
            sample = (images[position] for position in looked_at(len(images)))  # read only as far as asked for
            what, advice = "aligned=True says that X holds face crops", "leave it out for photos"
            warn_of_photos(sample, len(images), self._config(), what=what, advice=advice, stacklevel=stacklevel)
        rows = np.full((len(images), self._config().embedding_size), np.nan, dtype=np.float32)
        unreadable: list[str] = []
        with closing(self._embed(images)) as embedded:
            for position, row in enumerate(embedded):
                if isinstance(row, np.ndarray):
                    rows[position] = row
                    continue
                message = _missing(position, images[position], row)
                if on_missing == "raise":
                    raise DataError(message) if row is None else ImageError(message)
                if row is not None:
                    unreadable.append(message)
        if unreadable:
            warnings.warn(
                f"{len(unreadable)} of {len(images)} images could not be read; {unreadable[0]}",
                stacklevel=stacklevel,
            )
        return rows

    def _embed(self, images: Sequence[Any]) -> Generator[_Row]:
        """What comes of each image, in order."""
        if self.cache is None:
            yield from self._compute(images)
            return
        cache = _Cache(self.cache, self._settings(), self._config().embedding_size)
        rows: dict[int, _Row] = {}  # known, but not yet given out
        new: deque[tuple[int, str]] = deque()  # on their way: position and key

        def not_known() -> Iterator[Any]:
            for position, image in enumerate(images):
                try:
                    content, key = cache.look(image)
                except ImageError as error:
                    rows[position] = error
                    continue
                row = cache.read(key)
                if row is None:
                    new.append((position, key))
                    yield content
                else:
                    rows[position] = row if len(row) else None

        given = 0
        for row in self._compute(not_known()):
            position, key = new.popleft()
            if not isinstance(row, ImageError):
                cache.write(key, row)
            rows[position] = row
            while given in rows:
                yield rows.pop(given)
                given += 1
        yield from (rows[position] for position in range(given, len(images)))

    def _compute(self, images: Iterable[Any]) -> Iterator[_Row]:
        extractor = self._extractor()
        if self.aligned:
            yield from encode_crops(extractor.encoder, images, int(self.batch_size))
            return
        errors: dict[int, ImageError] = {}
        found = extractor.extract_many(images, batch_size=int(self.batch_size), on_error=errors.__setitem__)
        for position, faces in enumerate(found):
            yield errors.pop(position, None) or (self._choose(faces).embedding if faces else None)

    def _choose(self, faces: list[Face]) -> Face:
        return faces[0] if self.face == "largest" else max(faces, key=lambda face: face.score)

    def _extractor(self) -> ExpressionExtractor:
        shared = self._shared()
        return shared if self.detector is None else ExpressionExtractor(shared.encoder, self.detector)

    def _shared(self) -> ExpressionExtractor:
        shared = shared_extractor(self.model, self.device)
        config, pinned = shared.config, getattr(self, "weights_sha256_", None)
        if pinned is not None and config.weights_sha256 != pinned:
            raise ModelError(
                f"fit had the weights {self.model_id_!r} (SHA-256 {pinned}), and model={self.model!r} now gives "
                f"{config.model_id!r} (SHA-256 {config.weights_sha256}), whose embeddings mean something else: set "
                f"model to the weights of fit, or fit again"
            )
        return shared

    def _config(self) -> EncoderConfig:
        return self._shared().config

    def _settings(self) -> str:
        """All that a row depends on beside the image, but for device and library versions, which round otherwise."""
        detector = "mtcnn" if self.detector is None else self.detector
        if not isinstance(detector, str):
            try:
                detector = f"{type(detector).__module__}.{type(detector).__qualname__} {hash_of(detector)}"
            except Exception as error:  # what cannot be pickled raises errors of many kinds
                raise ValueError(
                    f"cache needs a detector that can be pickled, to tell it from others: {error}"
                ) from error
        how = [True] if self.aligned else [False, self.face, detector]
        return json.dumps([__version__, self._config().to_json(), *how])

    def _check_parameters(self) -> None:
        for name, allowed in (
            ("face", ("largest", "best")),
            ("on_missing", ("raise", "nan")),
            ("aligned", (True, False)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        positive_integer(self.batch_size, "batch_size")
        if not (self.cache is None or isinstance(self.cache, (str, os.PathLike))):
            raise TypeError(f"cache must be the path of a folder, or None; got {self.cache!r}")

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.transformer_tags.preserves_dtype = []  # float32, whatever comes
        tags.input_tags.two_d_array = False
        return tags


def _many(X: Any) -> Sequence[Any]:  # noqa: N803
    """The images that `X` holds, by position. Raises TypeError and DataError as `ExpressionFeatures.transform`."""
    if hasattr(X, "columns") and hasattr(X, "shape") and not hasattr(X, "column_names"):  # of pandas or polars
        names = list(X.columns)
        if len(names) != 1:
            raise DataError(
                f"X must have one column, of images, got the columns {names}: pass X[['path']], say, or give that "
                f"column to ColumnTransformer([('face', ExpressionFeatures(), ['path'])])"
            )
        X = X[names[0]]  # noqa: N806
    images = as_images(X, what="ExpressionFeatures")
    if not hasattr(images, "__len__"):
        raise TypeError(
            f"ExpressionFeatures needs the number of images, which {type(X).__name__} does not have: list(X)"
        )
    return as_image_list(images, what="ExpressionFeatures")


def _missing(position: int, image: Any, error: ImageError | None) -> str:
    """Which image gives no embedding, and why."""
    name = repr(str(os.fsdecode(image))) if isinstance(image, (str, os.PathLike)) else type(image).__name__
    if error is not None:
        return f"image {position} ({name}): {error}"
    return (
        f"no face found in image {position} ({name}); has_face(X) says which have none, and on_missing='nan' gives a "
        f"row of NaN for them"
    )


def encode_crops(encoder: Encoder, images: Iterable[Any], batch_size: int) -> Iterator[np.ndarray | ImageError]:
    """The embedding (D,) of each face crop, in their order, or why it cannot be read.

    Parameters
    ----------
    encoder : Encoder
    images : iterable
        In any form `load_image` takes.
    batch_size : int
        How many go through the network at once.

    Returns
    -------
    iterator of ndarray or ImageError
    """
    remaining = iter(images)
    while batch := list(itertools.islice(remaining, batch_size)):
        crops = [_crop(encoder, image) for image in batch]
        readable = [crop for crop in crops if isinstance(crop, np.ndarray)]
        embeddings = iter(encoder.encode(readable, batch_size=batch_size, show_progress=False))
        yield from (crop if isinstance(crop, ImageError) else next(embeddings) for crop in crops)


def _crop(encoder: Encoder, image: Any) -> np.ndarray | ImageError:
    try:
        crop: np.ndarray = encoder.to_crops([image])[0]
        return crop
    except ImageError as error:
        return ImageError(str(error))  # without a traceback, which would hold the image for as long as the error


class _Cache:
    """A folder of rows, one file each: a SHA-256, then float32 values, none of them for an image without a face."""

    def __init__(self, folder: str | os.PathLike[str], settings: str, size: int) -> None:
        self._folder = Path(folder)
        self._settings = hashlib.sha256(settings.encode())
        self._size = size  # of an embedding

    def look(self, image: Any) -> tuple[Any, str]:
        """The content of an image, to be read instead of it, and its key. Raises ImageError where it has none."""
        digest = self._settings.copy()
        content = _file_content(image)
        if content is not None:
            digest.update(b"file" + content)
            return content, digest.hexdigest()
        picture = load_image(image)
        digest.update(f"{picture.size}".encode() + picture.tobytes())
        return picture, digest.hexdigest()

    def read(self, key: str) -> np.ndarray | None:
        """The row of that key, (D,) or (0,); None where there is none, or it is corrupt."""
        try:
            stored = self._path(key).read_bytes()
        except OSError:
            return None
        values = stored[_DIGEST:]
        whole = stored[:_DIGEST] == _digest(key, values) and len(values) in (0, 4 * self._size)
        return np.frombuffer(values, dtype="<f4") if whole else None

    def write(self, key: str, row: np.ndarray | None) -> None:
        """Keep a row; None is a photo without a face."""
        values = b"" if row is None else row.astype("<f4").tobytes()
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as temporary:
                temporary.write_bytes(_digest(key, values) + values)
        except OSError as error:
            raise DataError(f"the cache folder {self._folder} cannot be written: {error.strerror}") from error

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key


def _digest(key: str, values: bytes) -> bytes:
    return hashlib.sha256(key.encode() + values).digest()


def _file_content(image: Any) -> bytes | None:
    """The bytes of an image that is a file; None for others, and where `load_image` had better say what is wrong."""
    try:
        if isinstance(image, (bytes, bytearray, memoryview)):
            return bytes(image)
        if isinstance(image, (str, os.PathLike)) and os.path.isfile(image) and os.path.getsize(image) <= MAX_BYTES:
            with open(image, "rb") as file:
                return file.read()
    except (OSError, TypeError, ValueError):
        pass
    return None
