"""A video file -> its frames with their times, upright and RGB; and faces followed from frame to frame.

Decoding is FFmpeg's, by PyAV (extra `video`). The file is opened here and only its bytes are handed on, so that nothing
in a file makes FFmpeg open another one or the network.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from fergeneral.errors import ImageError, MissingExtraError
from fergeneral.threads import worker_count
from fergeneral.types import Detection

try:
    import av
    from av.error import FFmpegError
    from av.stream import Disposition
except ImportError as error:
    raise MissingExtraError("reading a video", "PyAV", "video") from error

MAX_PIXELS = 8192 * 4320  # of a frame, 8K in cinemas; in memory once as it was coded and up to four times as RGB
# FFmpeg's readers of files that hold a video themselves. Left out: playlists and scripts, which name other files (hls,
# dash, concat, sdp), and readers that make a video of any text or image (tty, image2, png_pipe).
_FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,asf,ogg,mxf,gif"
_STATED_LENGTH = {"mov", "matroska", "flv"}  # their headers state it; others' is guessed from what is there
_SHUFFLED = {"avi", "asf"}  # packets have times, but in these the n-th is that of the n-th frame, whichever it holds
_CUT_OFF = 1.0  # seconds less than stated: the streams of a file often end some tenths of a second apart
_CLOCK_TICK = 0.001  # seconds; Matroska rounds its times to it, so that a third of a second comes as 0.333
_MAX_FAULTS = 100  # of the container, in all; then the rest of the file is given up
_MAX_DELAY = 64  # packets that a decoder may hold back: 16 by the order of frames in H.264 and H.265, and its threads
_DEFAULT_RATE = 25  # frames a second, where neither frames nor stream say anything about time
TRACKING_RATE = 10  # frames a second, at least, in which faces are looked for to follow them, however few are asked for
_ASPECTS = (1 / 3, 3)  # of a pixel, width to height; beyond, it is no video that was made on purpose

# FFmpeg's display matrix as (axes kept?, sign of x, sign of y) -> what turns the coded picture upright.
_TURNS = {
    (True, 1, 1): None,
    (True, -1, -1): Image.Transpose.ROTATE_180,
    (True, -1, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (True, 1, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (False, 1, -1): Image.Transpose.ROTATE_270,
    (False, -1, 1): Image.Transpose.ROTATE_90,
    (False, 1, 1): Image.Transpose.TRANSPOSE,
    (False, -1, -1): Image.Transpose.TRANSVERSE,
}
_QUARTERS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)

MIN_OVERLAP = 0.3  # intersection over union; the value of SORT (Bewley et al., ICIP 2016, arXiv:1602.00763)
MAX_GAP = 1.0  # seconds: a hand before the face, some frames in which the detector misses it; later, who knows


@dataclasses.dataclass(frozen=True)
class Frame:
    """A decoded frame of the file `source`, `time` seconds after its start, or what is wrong with it.

    `pixel_aspect`: width to height of a pixel. `turn`: what lays the picture upright; None where it is. `asked`: False
    for a frame that is only there to follow faces, between two of those that were asked for.

    Examples
    --------
    >>> from fergeneral.video import read_frames
    >>> frame = next(read_frames("clip.mp4"))
    >>> frame.image().size
    (512, 512)
    """

    source: str
    time: float
    picture: av.VideoFrame | ImageError
    pixel_aspect: float = 1.0
    turn: Image.Transpose | None = None
    asked: bool = True

    def image(self) -> Image.Image:
        """The frame as it is to be shown: upright, pixels square, RGB. Raises ImageError where it is corrupt."""
        if isinstance(self.picture, ImageError):
            raise self.picture
        try:
            image = self.picture.to_image(width=round(self.picture.width * self.pixel_aspect))
        except (FFmpegError, ValueError) as error:
            raise ImageError(f"{self.source}: no RGB can be made of the frame at {self.time:.3f} s: {error}") from error
        return image if self.turn is None else image.transpose(self.turn)


def read_frames(
    path: str | os.PathLike[str], fps: float | None = None, *, between: float | None = None
) -> Generator[Frame]:
    """The frames of a video file in the order in which they are shown, decoded as they are asked for.

    With `fps`, of each 1/fps seconds the first frame; without, all. With `between`, also frames between those, marked
    as not asked for, so that there are at least about `between` a second. Where a frame is corrupt or missing an
    ImageError stands in its place, whatever `fps`, and reading goes on. Times count from the start that the video
    stream states, else from its first frame; a frame without a time follows the one before it by the stream's frame
    duration.
    Raises ImageError for a file that is no video, and for one of which no frame can be read.

    Examples
    --------
    >>> from fergeneral.video import read_frames
    >>> [frame.time for frame in read_frames("clip.mp4", fps=2)]
    [0.0, 0.5]
    """
    name = _file_name(path)
    parts = 1 if fps is None or between is None else math.ceil(between / fps)
    slot = part = None
    empty = True
    with _opened(name) as container:
        for frame in _Decoder(container, _video_stream(container, name), name).frames():
            empty = False
            if fps is not None and not isinstance(frame.picture, ImageError):
                before, slot = slot, (frame.time + _CLOCK_TICK) * fps // 1
                before_part, part = part, (frame.time + _CLOCK_TICK) * fps * parts // 1
                if slot == before and part == before_part:
                    continue
                frame = dataclasses.replace(frame, asked=slot != before)
            yield frame
    if empty:
        raise ImageError(f"{name} has a video stream, but no frame of it can be read")


def _file_name(path: Any) -> str:
    """The path as text. Raises ImageError unless it is that of a file with something in it."""
    if not isinstance(path, (str, os.PathLike)):
        raise ImageError(f"cannot read a video from {type(path).__name__}; wanted: the path of a file")
    name = os.fsdecode(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.\-]+://", name):
        raise ImageError(f"{name} is a URL; this package does not download videos: save it first, then pass the file")
    try:
        status = os.stat(name)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise ImageError(f"{name!r} cannot be opened: {error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name} is a directory, not a video; pass the files in it one by one")
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device may never end
        raise ImageError(f"{name} is not a regular file")
    if status.st_size == 0:
        raise ImageError(f"{name} is empty (0 bytes)")
    return name


class _Bytes:
    """What FFmpeg sees of a file: bytes, and a name with nothing but the suffix, by which some formats are told."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        suffix = Path(name).suffix
        self.name = "video" + (suffix if suffix[1:].isalnum() else "")
        self.read, self.tell, self._file = file.read, file.tell, file

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):  # to before the start, as a damaged file may ask
            return -1  # FFmpeg's way to hear of it; an exception would be printed


@contextmanager
def _opened(name: str) -> Iterator[av.container.InputContainer]:
    try:
        file = open(name, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise ImageError(f"{name} cannot be opened: {error.strerror}") from error
    limits = {"format_whitelist": _FORMATS, "protocol_whitelist": "none", "max_pixels": str(MAX_PIXELS)}
    with file:
        try:
            container = av.open(_Bytes(file, name), "r", options=limits, metadata_errors="replace")
        except (FFmpegError, OSError, ValueError) as error:
            raise ImageError(
                f"{name} is not a video in a format that is read (MP4, MOV, MKV, WebM, AVI, MPEG, WMV, FLV and "
                f"others), or it is corrupt or truncated: {_reason(error)}"
            ) from error
        with container:
            yield container


def _video_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.disposition & Disposition.attached_pic:  # the cover of a song
        others = sorted({str(other.type) for other in container.streams if not isinstance(other, av.VideoStream)})
        raise ImageError(f"{name} holds no video, only {', '.join(others) or 'a picture'}")
    if stream.codec_context is None:
        raise ImageError(f"{name}: this build of FFmpeg has no decoder for its video")
    if stream.width * stream.height > MAX_PIXELS:
        raise ImageError(
            f"{name} is too large: {stream.width}x{stream.height} pixels, at most {MAX_PIXELS} are read "
            "(fergeneral.video.MAX_PIXELS)"
        )
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # a stream may change its size on the way
    # Frames at a time, not parts of one (PyAV's default): with these, H.264's decoder does not mark damaged frames.
    stream.thread_type, stream.thread_count = "FRAME", worker_count()
    return stream


class _Decoder:
    """Packets -> frames; a packet of which no frame comes gives an ImageError, if there was a fault before it.

    Without a fault it gives nothing: in some codecs a packet may hold half a frame, or one that is never shown.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, name: str) -> None:
        self._container, self._stream, self._name = container, stream, name
        aspect = float(stream.sample_aspect_ratio or 1)
        self._aspect = aspect if _ASPECTS[0] <= aspect <= _ASPECTS[1] else 1.0
        self._base = stream.time_base or 1
        self._start = stream.start_time
        self._step = 1 / float(stream.average_rate or _DEFAULT_RATE)
        self._last: float | None = None
        self._reached = 0.0  # seconds, of any stream
        self._waiting: set[Any] = set()  # time stamps of packets that have not come out as frames
        self._shuffled = container.format.name in _SHUFFLED
        self._fault: str | None = None
        self._turned: tuple[int | None, Image.Transpose | None] = (None, None)
        # FFmpeg refuses what is over max_pixels as an "Invalid argument" and forgets the size.
        self._hint = (
            "" if stream.width else f" (its size is unknown, or more than the {MAX_PIXELS} pixels that are read)"
        )

    def frames(self) -> Iterator[Frame]:
        for packet in self._packets():
            if isinstance(packet, Exception):
                self._fault = _reason(packet)
                yield self._failed(self._last or 0.0)
            elif packet.stream_index == self._stream.index:
                yield from self._decode(packet)
        yield from self._decode(None)
        yield from self._missing(self._waiting)
        yield from self._cut_off()

    def _packets(self) -> Iterator[av.Packet[Any] | Exception]:
        """Of all streams. A fault of the container comes as an exception among them, and reading goes on."""
        new = True
        for _ in range(_MAX_FAULTS):
            try:
                for packet in self._container.demux():
                    if packet.size:  # else AVI's "as before", or PyAV's mark for the end, which `frames` sets itself
                        new = True
                        self._advance(packet)
                        yield packet
                return
            except (FFmpegError, OSError) as error:
                if new:  # else it is the same again
                    yield error
                new = False

    def _advance(self, packet: av.Packet[Any]) -> None:
        time, base = packet.pts if packet.pts is not None else packet.dts, packet.time_base
        if time is not None and base:
            self._reached = max(self._reached, float((time + (packet.duration or 0)) * base))

    def _decode(self, packet: av.Packet[Any] | None) -> Iterator[Frame]:
        stamp = None
        if packet is not None:
            stamp = packet.dts if self._shuffled else packet.pts
            self._waiting |= {stamp} - {None}
        try:
            frames = self._stream.codec_context.decode(packet)
        except FFmpegError as error:
            self._fault, frames = _reason(error), []
            if stamp is None or self._shuffled:  # else it will be missed
                yield self._failed(self._time(self._take(None)))
        for frame in frames:
            stamp = self._take(frame.pts)
            yield from self._missing({other for other in self._waiting if stamp is not None and other < stamp})
            self._last = self._time(stamp)
            if frame.is_corrupt:
                self._fault = "its data is corrupt"
                yield self._failed(self._last)
            else:
                yield Frame(self._name, self._last, frame, self._aspect, self._turn(frame))
        if len(self._waiting) > _MAX_DELAY:
            yield from self._missing({min(self._waiting)})

    def _take(self, stamp: int | None) -> int | None:
        if self._shuffled:
            stamp = min(self._waiting, default=None)
        self._waiting.discard(stamp)
        return stamp

    def _turn(self, frame: av.VideoFrame) -> Image.Transpose | None:
        # The matrix is read at the first frame and at a new angle only: a frame of which PyAV has read the side data
        # stays in memory until Python's garbage collection comes round.
        if frame.rotation != self._turned[0]:
            self._turned = frame.rotation, _turn(frame)
        return self._turned[1]

    def _missing(self, stamps: set[Any]) -> Iterator[Frame]:
        self._waiting = self._waiting - stamps
        if self._fault is not None:
            yield from (self._failed(self._time(pts)) for pts in sorted(stamps))

    def _cut_off(self) -> Iterator[Frame]:
        if self._container.duration is None or not _STATED_LENGTH & set(self._container.format.name.split(",")):
            return
        stated = ((self._container.start_time or 0) + self._container.duration) / av.time_base
        if self._reached < stated - _CUT_OFF:
            self._fault = f"the file ends here, {stated - self._reached:.1f} s before the end that its header states"
            yield self._failed(self._last or 0.0)

    def _time(self, pts: int | None) -> float:
        if pts is None:
            return 0.0 if self._last is None else self._last + self._step
        if self._start is None:
            self._start = pts
        return float((pts - self._start) * self._base)

    def _failed(self, time: float) -> Frame:
        message = f"{self._name}: no frame at {time:.3f} s: {self._fault}{self._hint}"
        return Frame(self._name, time, ImageError(message))


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _turn(frame: av.VideoFrame) -> Image.Transpose | None:
    """The nearest of the eight ways to lay a picture, by the matrix that a phone writes when it is held upright."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # side data of a kind newer than PyAV: then its angle alone, in degrees counterclockwise
        return _QUARTERS[round(frame.rotation / 90) % 4]
    if matrix is None:
        return None
    # Row vectors: the picture's x axis becomes (a, b), its y axis (c, d).
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    kept = abs(a) + abs(d) >= abs(b) + abs(c)
    x, y = (a, d) if kept else (b, c)
    return _TURNS[kept, -1 if x < 0 else 1, -1 if y < 0 else 1]


class Tracker:
    """Numbers for faces, such that one that overlaps a face shortly before it has the number of that face.

    A track ends when no face has taken it up for MAX_GAP seconds and at least one frame; so at one frame in ten seconds
    a face is still compared with those of the frame before. There is no model of motion: a face that moves by more
    than about half its width between two frames gets a new number, as does one that is lost and found elsewhere.
    """

    def __init__(self) -> None:
        self._tracks: dict[int, tuple[float, np.ndarray]] = {}  # number -> time and box of its last face
        self._before = 0.0
        self._next = 0

    def follow(self, time: float, faces: Sequence[Detection]) -> list[int]:
        """The track of each face of the frame at `time` seconds; frames come in their order."""
        self._tracks = {
            track: (seen, box)
            for track, (seen, box) in self._tracks.items()
            if seen == self._before or abs(time - seen) <= MAX_GAP
        }
        matches = self._match([face.box for face in faces])
        for number in range(len(faces)):
            if number not in matches:
                matches[number] = self._next
                self._next += 1
        self._tracks.update((matches[number], (time, face.box)) for number, face in enumerate(faces))
        self._before = time
        return [matches[number] for number in range(len(faces))]

    def _match(self, boxes: Sequence[np.ndarray]) -> dict[int, int]:
        """Place of a face -> track, greedily: the pair that overlaps most first."""
        tracks = list(self._tracks)
        if not tracks or not boxes:
            return {}
        overlaps = overlap(np.array(boxes), np.array([box for _, box in self._tracks.values()]))
        matches: dict[int, int] = {}
        for index in np.argsort(-overlaps, axis=None, kind="stable").tolist():
            face, place = divmod(index, len(tracks))
            if overlaps[face, place] < MIN_OVERLAP:
                break
            if face not in matches and tracks[place] not in matches.values():
                matches[face] = tracks[place]
        return matches


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) with others (M, 4), left, top, right, bottom: (N, M), 0..1."""
    a, b = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.prod(np.maximum(sides, 0), axis=-1)
    areas = [np.prod(np.maximum(box[..., 2:] - box[..., :2], 0), axis=-1) for box in (a, b)]
    union = areas[0] + areas[1] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)
