"""The few lines that join the stages:

input -> load_image -> RGB image -> detect -> list[Detection] -> align -> uint8 (S, S, 3) -> float32 (N, 3, S, S)
-> encoder -> (N, D) -> list[Face]
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fergeneral import hub
from fergeneral.alignment import cut_face
from fergeneral.crop_check import looked_at, warn_of_photos
from fergeneral.detection import Found, detect_faces, find_faces, make_detector
from fergeneral.encoder import Encoder, EncoderConfig
from fergeneral.errors import ImageError, positive_integer
from fergeneral.images import as_image_list, as_images, load_image
from fergeneral.threads import map_ahead, thread_limit, worker_count, worker_pool
from fergeneral.types import Detection, Detector, Face, TrackedFace, VideoFrame

if TYPE_CHECKING:
    from fergeneral.video import Frame


_loading = threading.Lock()


class ExpressionExtractor:
    """Photos -> faces with expression embeddings, by a detector and a frozen encoder.

    Safe between threads. A process that has used it may fork, but not while its threads extract: use spawn or
    forkserver then. A forked child computes on one thread. It can be pickled and copied: 45 MB for a ResNet-18, so
    where many tasks go to other processes, let each process load its own once, as `extract` does.

    Parameters
    ----------
    encoder : Encoder
        As `from_pretrained` loads it.
    detector : Detector, str or None, default None
        As for `from_pretrained`.

    Examples
    --------
    >>> from fergeneral import ExpressionExtractor
    >>> extractor = ExpressionExtractor.from_pretrained(device="cpu")
    >>> photos = ["examples/photos/astronaut.png", "examples/photos/three_faces.jpg", "examples/photos/coffee.png"]
    >>> [len(faces) for faces in extractor.extract_many(photos)]
    [1, 3, 0]
    """

    def __init__(self, encoder: Encoder, detector: Detector | str | None = None) -> None:
        self.encoder = encoder
        self.detector = make_detector(detector, encoder.device)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        revision: str | None = None,
        device: str | None = None,
        detector: Detector | str | None = None,
        min_face_size: int | None = None,
        local_files_only: bool = False,
    ) -> ExpressionExtractor:
        """Load an encoder and put a detector before it.

        Parameters
        ----------
        name_or_path : str, path or None, default None
            None or a name of `list_models()` for packaged weights; a folder that holds model.safetensors and
            config.json; or the id of such a repository on the Hugging Face Hub, "owner/name".
        revision : str or None, default None
            Commit, tag or branch of a Hub repository. A commit is what keeps results the same.
        device : str or None, default None
            "cpu", "cuda", "cuda:N" or "mps"; None takes CUDA, then MPS, then the CPU.
        detector : Detector, str or None, default None
            None or "mtcnn"; "yunet", faster, which needs the extra `yunet`; or an object with
            `detect(image) -> list[Detection]`.
        min_face_size : int or None, default None
            The shorter side, in pixels of the photo, of the smallest face that "mtcnn" (12 or more) or "yunet" looks
            for. None takes 40, or sqrt(width * height) / 48 where that is more (above 3.7 megapixels; 102 in 6000 x
            4000), so that a large photo takes little more time than a small one; half the size takes up to four times
            the time.
        local_files_only : bool, default False
            Use what has been downloaded before and nothing else, as HF_HUB_OFFLINE=1 does.

        Returns
        -------
        ExpressionExtractor

        Raises
        ------
        ModelError
            For weights that are not there, corrupt or not those that config.json describes, and for a device that is
            not there.
        MissingExtraError
            For "yunet" without ONNX Runtime.
        ValueError
            For another name of a detector, and for a `min_face_size` that is too small or goes with a detector of one's
            own.

        Examples
        --------
        >>> from fergeneral import ExpressionExtractor
        >>> extractor = ExpressionExtractor.from_pretrained(device="cpu", min_face_size=100)
        >>> extractor.config.model_id, extractor.config.embedding_size
        ('general-r18-cycle', 512)
        """
        encoder = hub.load_encoder(name_or_path, revision, device, local_files_only)
        return cls(encoder, make_detector(detector, encoder.device, min_face_size=min_face_size))

    @property
    def config(self) -> EncoderConfig:
        """What the weights say of themselves: crop size, template, model id and so on."""
        return self.encoder.config

    def extract(self, image: Any) -> list[Face]:
        """Find, align and embed every face in a photo.

        On a CPU this is work for one thread until there are four faces to embed; call it from several threads, or use
        `extract_many`, to use more cores.

        Parameters
        ----------
        image : image
            Anything `load_image` takes.

        Returns
        -------
        list of Face
            Largest face first; [] where there is none.

        Raises
        ------
        ImageError
            For an image that cannot be read.
        TypeError, ValueError
            For what is wrong with a detector of one's own.

        Warns
        -----
        UserWarning
            Where a face with impossible numbers, such as landmarks on one point or far outside its box or the image,
            is left out.

        Examples
        --------
        >>> from fergeneral import ExpressionExtractor
        >>> extractor = ExpressionExtractor.from_pretrained(device="cpu")
        >>> face = extractor.extract("examples/photos/astronaut.png")[0]
        >>> face.embedding.shape, face.model_id
        ((512,), 'general-r18-cycle')
        """
        with thread_limit():
            found = self._find(load_image(image))
            if found.left_out is not None:
                warnings.warn(found.left_out, stacklevel=2)
            return self._join(found.detections, self.encoder.encode(found.crops, show_progress=False))

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
        A face with impossible numbers is left out as in `extract`, with one warning a call, for the first of them.

        Parameters
        ----------
        images : iterable
            Many photos, as `images.as_images` says: a list, Series or iterator (which may be endless) of anything
            `load_image` takes, a uint8 array (N, H, W, 3) RGB, or a uint8 tensor (N, 3, H, W).
        batch_size : int
            How many photos, or about how many faces, are encoded together.
        on_error : callable or None
            `on_error(position, error)` is called for a photo that cannot be read, which then gives []; without it the
            error is raised, after the results of all photos before it. So is an error that `images` raises.

        Returns
        -------
        iterator of list of Face
            For each photo what `extract` returns.

        Raises
        ------
        TypeError
            For one image, a dict, a set, a table: what is not many images in an order. At the call, not later.
        ImageError
            For a photo that cannot be read, without `on_error`.

        Examples
        --------
        >>> from fergeneral import ExpressionExtractor
        >>> extractor = ExpressionExtractor.from_pretrained(device="cpu")
        >>> photos = ["examples/photos/astronaut.png", "missing.jpg"]
        >>> failed = {}
        >>> [len(faces) for faces in extractor.extract_many(photos, on_error=failed.__setitem__)]
        [1, 0]
        >>> list(failed)
        [1]
        """
        images = as_images(images, what="extract_many", advice="use extract, or put it into a list")
        batch_size = positive_integer(batch_size, "batch_size")
        return self._extract_many(images, batch_size, on_error)

    def _extract_many(
        self, images: Iterable[Any], batch_size: int, on_error: Callable[[int, ImageError], None] | None
    ) -> Iterator[list[Face]]:
        workers = worker_count()
        with worker_pool(workers) as pool:
            found = map_ahead(pool, self._try_find, images, ahead=3 * workers)
            batches = _batches(_warned(_readable(found, on_error)), batch_size)
            for faces in map_ahead(pool, self._encode_batch, batches, ahead=1):
                yield from faces

    def extract_video(
        self,
        path: str | os.PathLike[str],
        *,
        fps: float | None = None,
        batch_size: int = 32,
        on_error: Callable[[float, ImageError], None] | None = None,
    ) -> Iterator[VideoFrame]:
        """`extract` for the frames of a video file: (time, faces) of each, in their order, as they are asked for.

        To follow faces, they are looked for in about ten frames a second or more (video.TRACKING_RATE), however few are
        asked for: a lower `fps` saves the time to embed faces, not the time to find them, and tracks stay nearly the
        same. Between two frames that are looked at a face may go by half its width; for people who move fast or cross
        each other, take every frame. Memory is bounded as in `extract_many`: some four frames for each thread, those
        that the decoder holds, and the crops of two batches.

        Parameters
        ----------
        path : path
            Of a video file. Frames are upright, as the file says they are to be shown.
        fps : float or None, default None
            Of each 1/fps seconds the first frame; None: every frame.
        batch_size : int, default 32
            How many frames, or about how many faces, are encoded together.
        on_error : callable or None, default None
            `on_error(time, error)` is called for a frame that is corrupt or missing, which then is left out; without it
            the error is raised, after the frames before it. Not noticed is what FFmpeg passes over without a word, such
            as the smear that a damaged frame leaves on those after it.

        Returns
        -------
        iterator of VideoFrame
            `time` is in seconds since the video's start, by the frames' own time stamps; `faces` are TrackedFace.

        Raises
        ------
        ImageError
            For a file that is no video, at the first frame.
        MissingExtraError
            Without PyAV.
        ValueError
            For an `fps` that is not above 0.

        Examples
        --------
        >>> from fergeneral import ExpressionExtractor
        >>> extractor = ExpressionExtractor.from_pretrained(device="cpu")
        >>> [(frame.time, len(frame.faces)) for frame in extractor.extract_video("clip.mp4", fps=2)]
        [(0.0, 1), (0.5, 1)]
        """
        if fps is not None and not 0 < fps < math.inf:
            raise ValueError(f"fps must be more than 0, or None for every frame; got {fps}")
        batch_size = positive_integer(batch_size, "batch_size")
        return self._extract_video(path, fps, batch_size, on_error)

    def _extract_video(
        self,
        path: str | os.PathLike[str],
        fps: float | None,
        batch_size: int,
        on_error: Callable[[float, ImageError], None] | None,
    ) -> Iterator[VideoFrame]:
        from fergeneral.video import TRACKING_RATE, Tracker, read_frames

        followed: deque[tuple[float, list[int]]] = deque()  # time and tracks of the frames on their way

        def follow(frames: Iterable[tuple[float, bool, Found | ImageError]]) -> Iterator[Found]:
            """The frames that were asked for; faces are followed through all."""
            tracker = Tracker()
            numbers: dict[int, int] = {}  # of the tracks that were seen in a frame that was asked for
            for time, asked, found in frames:
                if isinstance(found, ImageError):
                    if on_error is None:
                        raise found
                    on_error(time, found)
                    continue
                tracks = tracker.follow(time, found.detections)
                if asked:
                    followed.append((time, [numbers.setdefault(track, len(numbers)) for track in tracks]))
                    yield found

        workers = worker_count()
        with closing(read_frames(path, fps, between=TRACKING_RATE)) as frames, worker_pool(workers) as pool:
            found = map_ahead(pool, self._try_find_frame, frames, ahead=3 * workers)
            batches = _batches(_warned(follow(found)), batch_size)
            for batch in map_ahead(pool, self._encode_batch, batches, ahead=1):
                for faces in batch:
                    time, tracks = followed.popleft()
                    yield VideoFrame(time, _tracked(faces, time, tracks))

    def align(self, image: Any, landmarks: Any) -> np.ndarray:
        """Cut the face with these landmarks out of an image, as the encoder wants it.

        `encode([align(image, face.landmarks)])` gives the embedding that `extract(image)` gives for that face.

        Parameters
        ----------
        image : image
            Anything `load_image` takes.
        landmarks : array_like, shape (5, 2)
            Left eye, right eye, nose tip, left and right mouth corner, in the upright image's pixels.

        Returns
        -------
        ndarray, shape (S, S, 3), uint8
            RGB; S is `config.crop_size`, and the landmarks lie where `config.template` says.

        Raises
        ------
        ImageError
            For an image that cannot be read, and landmarks that are not five finite points near the image.

        Examples
        --------
        >>> from fergeneral import ExpressionExtractor
        >>> extractor = ExpressionExtractor.from_pretrained(device="cpu")
        >>> face = extractor.extract("examples/photos/astronaut.png")[0]
        >>> extractor.align("examples/photos/astronaut.png", face.landmarks).shape
        (96, 96, 3)
        """
        return cut_face(load_image(image), landmarks, self.config.crop_size, self.config.template)

    def encode(
        self,
        crops: Any,
        *,
        batch_size: int = 64,
        show_progress: bool | None = None,
        normalize: bool = False,
        flip: bool = False,
    ) -> np.ndarray:
        """Embed images that already are face crops, without detection: see `Encoder.encode`.

        A few of them are looked at, and where they seem to be whole photos, whose embeddings would say next to nothing
        of the expression, a warning says so. Use `extract` for photos, and `align_face` for faces whose landmarks you
        know.

        Parameters
        ----------
        crops : iterable
            Anything `load_image` takes, or a uint8 array (N, H, W, 3) RGB, as for `Encoder.encode`.
        batch_size : int, default 64
            How many go through the network at once.
        show_progress : bool or None, default None
            A progress bar on stderr; None shows one for more than one batch on a terminal.
        normalize : bool, default False
            Scale each embedding to unit length.
        flip : bool, default False
            Average the embeddings of each crop and its mirror image, for twice the time: see `Encoder.encode`.

        Returns
        -------
        ndarray
            (N, D) float32, one row a crop in their order; (0, D) for no crops.

        Raises
        ------
        TypeError
            For what is not many images in an order.
        ImageError
            For a crop that cannot be read.

        Warns
        -----
        UserWarning
            Where most faces in up to eight of the images fill less than half of what they fill in an aligned crop. Of
            fewer than 48 images these are looked at only if they are more than twice as large as `config.crop_size`: a
            look takes about as long as one or two crops. `Encoder.encode` does the same without it.

        Examples
        --------
        >>> from fergeneral import ExpressionExtractor
        >>> extractor = ExpressionExtractor.from_pretrained(device="cpu")
        >>> photo = "examples/photos/three_faces.jpg"
        >>> crops = [extractor.align(photo, face.landmarks) for face in extractor.extract(photo)]
        >>> extractor.encode(crops).shape
        (3, 512)
        """
        images = as_image_list(crops, what="encode")
        sample = (images[position] for position in looked_at(len(images)))  # read only as far as asked for
        advice = "use extract or extract_many for photos"
        warn_of_photos(sample, len(images), self.config, what="encode takes face crops", advice=advice, stacklevel=2)
        return self.encoder.encode(
            images, batch_size=batch_size, show_progress=show_progress, normalize=normalize, flip=flip
        )

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        report: hub.Record | None = None,
        training: hub.Record | None = None,
        notes: str | Path | None = None,
    ) -> None:
        """Write model.safetensors and config.json, which `from_pretrained(folder)` reads.

        With any of the options also the model card (README.md, and the LICENSE.md that it links to).

        Parameters
        ----------
        folder : path
            Made if need be.
        report : mapping, path or None, default None
            What `fergeneral.evaluate.evaluate` returned for these weights, or the path of its report.json.
        training : mapping, path or None, default None
            The record of the training run, or its path.
        notes : path or None, default None
            Of a Markdown file on known failure modes.

        Raises
        ------
        DataError
            For a file that cannot be read, or a record of other weights.

        Examples
        --------
        >>> from fergeneral import ExpressionExtractor
        >>> ExpressionExtractor.from_pretrained(device="cpu").save_pretrained("my-encoder")
        >>> ExpressionExtractor.from_pretrained("my-encoder", device="cpu").config.model_id
        'general-r18-cycle'
        """
        hub.save_folder(folder, self.encoder.state_dict(), self.config)
        if any(part is not None for part in (report, training, notes)):
            hub.write_card(folder, report=report, training=training, notes=notes)

    def push_to_hub(
        self,
        repo: str,
        *,
        report: hub.Record | None = None,
        training: hub.Record | None = None,
        notes: str | Path | None = None,
    ) -> str:
        """Upload the weights and their model card to a repository on the Hugging Face Hub, made if need be.

        A card is always written, since the terms of the weights stand in it, and takes the place of one that is there.

        Parameters
        ----------
        repo : str
            "owner/name".
        report, training, notes
            As for `save_pretrained`.

        Returns
        -------
        str
            The address of the commit.

        Raises
        ------
        ModelError
            Where the Hub refuses it or cannot be reached.
        """
        state = self.encoder.state_dict()
        return hub.push(repo, state, self.config, report=report, training=training, notes=notes)

    def _find(self, image: Image.Image) -> Found:
        return find_faces(self.detector, image, self.config.crop_size, self.config.template)

    def _try_find(self, image: Any) -> Found | ImageError:
        try:
            return self._find(load_image(image))
        except ImageError as error:
            return ImageError(str(error))  # without a traceback, which would hold the photo for as long as the error

    def _try_find_frame(self, frame: Frame) -> tuple[float, bool, Found | ImageError]:
        """The frame's time, whether it was asked for, and what was found; crops only of those that were asked for."""
        try:
            image = frame.image()
            found = self._find(image) if frame.asked else detect_faces(self.detector, image)
            return frame.time, frame.asked, found
        except ImageError as error:
            return frame.time, frame.asked, ImageError(str(error))

    def _encode_batch(self, batch: list[Found]) -> list[list[Face]]:
        embeddings = self.encoder.encode([crop for found in batch for crop in found.crops], show_progress=False)
        starts = itertools.accumulate((len(found.detections) for found in batch), initial=0)
        return [
            self._join(found.detections, embeddings[start : start + len(found.detections)])
            for found, start in zip(batch, starts, strict=False)
        ]

    def _join(self, detections: list[Detection], embeddings: np.ndarray) -> list[Face]:
        return [
            Face(found.box, found.landmarks, found.score, embedding.copy(), self.config.model_id)
            for found, embedding in zip(detections, embeddings, strict=True)
        ]


def _tracked(faces: list[Face], time: float, tracks: list[int]) -> list[TrackedFace]:
    return [
        TrackedFace(face.box, face.landmarks, face.score, face.embedding, face.model_id, time, track)
        for face, track in zip(faces, tracks, strict=True)
    ]


def _readable(
    found: Iterable[Found | ImageError], on_error: Callable[[int, ImageError], None] | None
) -> Iterator[Found]:
    """What was found; nothing in a photo that cannot be read, which is reported, or raised."""
    for position, result in enumerate(found):
        if isinstance(result, ImageError):
            if on_error is None:
                raise ImageError(f"image {position}: {result}") from result
            on_error(position, result)
            result = Found([], [])
        yield result


def _warned(found: Iterable[Found]) -> Iterator[Found]:
    """The same, with a warning for the first face that was left out."""
    warned = False
    for position, result in enumerate(found):
        if result.left_out is not None and not warned:
            warnings.warn(f"image {position}: {result.left_out}. Others in this call are not reported", stacklevel=2)
            warned = True
        yield result


def _batches(found: Iterable[Found], size: int) -> Iterator[list[Found]]:
    """`size` photos, or about so many faces, at a time. Before an error is raised, what came before it is given."""
    batch: list[Found] = []
    try:
        for result in found:
            batch.append(result)
            if max(len(batch), sum(len(each.crops) for each in batch)) >= size:
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

    The weights are loaded at the first call, and kept.

    Parameters
    ----------
    image : image
        Anything `load_image` takes.

    Returns
    -------
    list of Face
        Largest face first; [] where there is none.

    Raises
    ------
    ImageError
        For an image that cannot be read.

    Examples
    --------
    >>> from fergeneral import extract
    >>> faces = extract("examples/photos/three_faces.jpg")
    >>> [face.embedding.shape for face in faces]
    [(512,), (512,), (512,)]
    """
    return shared_extractor().extract(image)


def extract_video(
    path: str | os.PathLike[str],
    *,
    fps: float | None = None,
    on_error: Callable[[float, ImageError], None] | None = None,
) -> Iterator[VideoFrame]:
    """Find, align and embed every face in the frames of a video file, with the packaged weights on the best device.

    Needs the extra `video`. See `ExpressionExtractor.extract_video`.

    Parameters
    ----------
    path : path
        Of a video file.
    fps : float or None, default None
        About so many frames of each second; None: every frame.
    on_error : callable or None, default None
        `on_error(time, error)` is called for a frame that is corrupt or missing, which then is left out.

    Returns
    -------
    iterator of VideoFrame
        In their order, computed as they are asked for. Each face has a `track`, the same number for one person from
        frame to frame.

    Raises
    ------
    ImageError, MissingExtraError, ValueError
        As `ExpressionExtractor.extract_video`.

    Examples
    --------
    >>> from fergeneral import extract_video
    >>> for time, faces in extract_video("clip.mp4", fps=2):
    ...     print(time, [face.track for face in faces])
    0.0 [0]
    0.5 [0]
    """
    return shared_extractor().extract_video(path, fps=fps, on_error=on_error)
