"""Videos made here by PyAV -> frames at their times, upright; damage reported; faces followed; the command."""

from __future__ import annotations

import gc
import http.server
import io
import os
import struct
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fergeneral import Detection, ExpressionExtractor, ImageError, TrackedFace, VideoFrame, extract_video, video
from fergeneral.alignment import TEMPLATE
from fergeneral.cli import main
from fergeneral.storage import FaceTable, read_table
from fergeneral.video import Frame, Tracker, overlap, read_frames

SIZE = (96, 64)
SQUARE = 24
RED, GREEN, GREY = (230, 20, 20), (20, 200, 20), (120, 120, 120)


class SquareDetector:
    """A red or a green square is a face."""

    def detect(self, image: Image.Image) -> list[Detection]:
        pixels = np.asarray(image).astype(int)
        found = []
        for own, other in ((0, 1), (1, 0)):
            rows, columns = np.nonzero(pixels[..., own] - np.maximum(pixels[..., other], pixels[..., 2]) > 70)
            if len(rows) > 50:
                box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
                points = box[:2] + np.array(TEMPLATE, np.float32) * (box[2:] - box[:2])
                found.append(Detection(box, points, 0.9))
        return found


def picture(*squares: tuple[int, int, tuple[int, int, int]], grey: int = 120, size: tuple[int, int] = SIZE) -> Any:
    pixels = np.full((size[1], size[0], 3), grey, np.uint8)
    for x, y, colour in squares:
        pixels[max(0, y) : y + SQUARE, max(0, x) : x + SQUARE] = colour
    return pixels


def write_video(
    path: Path,
    pictures: Iterable[np.ndarray],
    times: Iterable[int] | None = None,
    codec: str = "mpeg4",
    options: dict[str, str] | None = None,
    pixel_aspect: int = 1,
) -> Path:
    """`times`: milliseconds of each picture; without, 25 pictures a second. A key frame each second."""
    pictures = list(pictures)
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base, stream.codec_context.gop_size = Fraction(1, 1000), 25
        stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
        stream.bit_rate = 4_000_000  # near what was drawn
        for pixels, time in zip(pictures, times or range(0, 40 * len(pictures), 40), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def noise(count: int, seed: int = 0) -> list[np.ndarray]:
    """Pictures that compress badly, so that most of a file is their data."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8) for _ in range(count)]


def blank(path: Path, *numbers: int) -> None:
    """Overwrite the data of some packets, counted in the order of their times."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    packets.sort(key=lambda packet: packet.pts)  # type: ignore[arg-type, return-value]
    for number in numbers:
        at, size = packets[number].pos, packets[number].size
        data[at : at + size] = bytes([255]) * size
    path.write_bytes(data)


def errors(frames: Iterable[Frame]) -> list[str]:
    return [str(frame.picture) for frame in frames if isinstance(frame.picture, ImageError)]


@pytest.fixture
def squares(random_folder: Path) -> ExpressionExtractor:
    return ExpressionExtractor(
        ExpressionExtractor.from_pretrained(random_folder, device="cpu").encoder, SquareDetector()
    )


# Frames and their times


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("mp4", "mpeg4"),
        ("mp4", "libx264"),
        ("mov", "libx264"),
        ("mkv", "libx264"),
        ("webm", "libvpx"),
        ("avi", "mjpeg"),
        ("avi", "libx264"),  # frames in another order than their packets, and times of the packets alone
        ("wmv", "libx264"),
        ("ts", "libx264"),
        ("flv", "libx264"),
        ("h264", "libx264"),  # no times at all: 25 a second
    ],
)
def test_every_frame_once_in_order_at_its_time(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_video(tmp_path / f"v.{suffix}", [picture(grey=20 + 7 * i) for i in range(30)], codec=codec)
    frames = list(read_frames(path))
    assert [frame.time for frame in frames] == pytest.approx([0.04 * i for i in range(30)], abs=0.0011)
    greys = [np.asarray(frame.image()).mean() for frame in frames]
    assert greys == pytest.approx([20 + 7 * i for i in range(30)], abs=3)


IRREGULAR = [0, 40, 500, 510, 2000, 2150, 2200, 2399, 2401, 9000]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("fps", "chosen"),
    [
        (None, IRREGULAR),
        (1000, IRREGULAR),
        (5, [0, 500, 2000, 2200, 2399, 9000]),  # 0.399 s is 0.4 s but for the rounding of clocks
        (2, [0, 500, 2000, 9000]),
        (1, [0, 2000, 9000]),
        (0.3, [0, 9000]),  # one in 3.33 s: 0..3.33, 6.67..10
    ],
)
def test_variable_frame_rate(tmp_path: Path, suffix: str, fps: float | None, chosen: list[int]) -> None:
    path = write_video(tmp_path / f"v.{suffix}", [picture()] * len(IRREGULAR), IRREGULAR, "libx264")
    assert [round(1000 * frame.time) for frame in read_frames(path, fps)] == chosen


@pytest.mark.parametrize("fps", [30, 10, 7.5])
def test_a_clock_of_whole_milliseconds_costs_no_frame(tmp_path: Path, fps: float) -> None:
    times = [round(1000 * i / 30) for i in range(60)]  # 33, 67, 100: what Matroska makes of 30 frames a second
    path = write_video(tmp_path / "v.mkv", [picture()] * 60, times)
    assert len(list(read_frames(path, fps))) == 2 * fps


def test_times_count_from_where_the_stream_starts(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.ts", [picture()] * 5, range(60_000, 60_200, 40), "libx264")
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).time >= 60
    assert [frame.time for frame in read_frames(path)] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


# How a frame is to be shown


def lay(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a, b, c, d of the display matrix into the track header of an MP4 file (ISO 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, track, reserved, duration, reserved, layer to volume
    assert struct.unpack_from(">9i", data, at) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


# In the coded picture, red is at the top left and green at the top right. In a matrix, (a, b) is where the picture's x
# axis points on the screen and (c, d) where its y axis does, down being positive.
WAYS = {
    "as coded": ((1, 0, 0, 1), "top left", "top right"),
    "turned right": ((0, 1, -1, 0), "top right", "bottom right"),
    "upside down": ((-1, 0, 0, -1), "bottom right", "bottom left"),
    "turned left": ((0, -1, 1, 0), "bottom left", "top left"),
    "mirrored": ((-1, 0, 0, 1), "top right", "top left"),
    "mirrored upside down": ((1, 0, 0, -1), "bottom left", "bottom right"),
    "transposed": ((0, 1, 1, 0), "top left", "bottom left"),
    "transposed the other way": ((0, -1, -1, 0), "bottom right", "top right"),
}


@pytest.mark.parametrize("way", WAYS)
def test_frames_are_shown_as_the_file_says(tmp_path: Path, way: str) -> None:
    matrix, *places = WAYS[way]
    path = write_video(tmp_path / "v.mp4", [picture((0, 0, RED), (SIZE[0] - SQUARE, 0, GREEN))])
    lay(path, matrix)
    image = next(read_frames(path)).image()
    assert image.size == (SIZE if matrix[0] else SIZE[::-1])
    for face, place in zip(SquareDetector().detect(image), places, strict=True):
        x, y = (face.box[:2] + face.box[2:]) / 2
        vertical, horizontal = place.split()
        assert abs(y - (SQUARE / 2 if vertical == "top" else image.height - SQUARE / 2)) < 2
        assert abs(x - (SQUARE / 2 if horizontal == "left" else image.width - SQUARE / 2)) < 2


@pytest.mark.parametrize(("angle", "turn"), [(0, None), (90, 2), (-90, 4), (180, 3), (-180, 3), (89, 2)])
def test_side_data_that_pyav_does_not_know(angle: int, turn: int | None) -> None:
    class Unknown:
        rotation = angle  # degrees counterclockwise

        @property
        def side_data(self) -> None:
            raise ValueError("29 is not a valid Type")

    assert video._turn(Unknown()) == (None if turn is None else Image.Transpose(turn))  # type: ignore[arg-type]


def test_a_frame_that_has_no_way_to_rgb() -> None:
    class Odd:
        width = 2

        def to_image(self, width: int) -> None:
            raise ValueError("Conversion to rgb24 is not supported")

    with pytest.raises(ImageError, match=r"^v\.mp4: no RGB can be made of the frame at 1\.500 s: Conversion"):
        Frame("v.mp4", 1.5, Odd()).image()  # type: ignore[arg-type]


def test_pixels_become_square(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [picture((0, 0, RED))], pixel_aspect=2)
    image = next(read_frames(path)).image()
    assert image.size == (2 * SIZE[0], SIZE[1])
    assert SquareDetector().detect(image)[0].box == pytest.approx([0, 0, 2 * SQUARE, SQUARE], abs=2)


# Damage


@pytest.mark.parametrize(("codec", "suffix"), [("mpeg4", "mp4"), ("libx264", "mp4"), ("mpeg4", "mov")])
def test_damaged_frames_are_reported_at_their_times_and_the_others_given(
    tmp_path: Path, codec: str, suffix: str
) -> None:
    path = write_video(tmp_path / f"v.{suffix}", noise(75), codec=codec)
    whole = [np.asarray(frame.image()) for frame in read_frames(path)]
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        hit = sorted(container.demux(video=0), key=lambda packet: packet.pts or 0)[30]
        assert hit.pos is not None
        data[hit.pos + hit.size // 2 : hit.pos + hit.size // 2 + 100] = bytes([255]) * 100
        time = float(hit.pts * hit.time_base)
    path.write_bytes(data)
    frames = list(read_frames(path))
    assert [frame.time for frame in frames] == pytest.approx([0.04 * i for i in range(75)])  # all are accounted for
    bad = [frame for frame in frames if isinstance(frame.picture, ImageError)]
    assert bad[0].time == pytest.approx(time)
    assert f"v.{suffix}: no frame at {time:.3f} s: " in str(bad[0].picture)
    for number in [*range(20), *range(50, 75)]:  # before the damage, and from the next key frame on
        assert (np.asarray(frames[number].image()) == whole[number]).all()


def test_missing_frames_are_found_where_the_decoder_drops_them(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", noise(50), codec="libx264")
    blank(path, 16, 17, 18)
    frames = list(read_frames(path))
    assert [frame.time for frame in frames] == pytest.approx([0.04 * i for i in range(50)])
    assert {16, 17, 18} <= {i for i, frame in enumerate(frames) if isinstance(frame.picture, ImageError)}


def test_without_on_error_damage_is_raised_after_what_came_before(tmp_path: Path, squares: ExpressionExtractor) -> None:
    path = write_video(tmp_path / "v.avi", [picture((8, 8, RED))] * 20, codec="mjpeg")
    for number in (7, 12):
        blank(path, number)
    found: list[VideoFrame] = []
    with pytest.raises(ImageError, match=r"v\.avi: no frame at 0\.280 s: "):
        found.extend(squares.extract_video(path, batch_size=3))
    assert [frame.time for frame in found] == pytest.approx([0.04 * i for i in range(7)])

    reported: list[float] = []
    found = list(squares.extract_video(path, on_error=lambda time, error: reported.append(time)))
    assert reported == pytest.approx([0.28, 0.48])
    assert [frame.time for frame in found] == pytest.approx([0.04 * i for i in range(20) if i not in (7, 12)])
    assert {face.track for frame in found for face in frame.faces} == {0}

    def refuse(time: float, error: ImageError) -> None:
        raise KeyError(time)

    with pytest.raises(KeyError):
        list(squares.extract_video(path, on_error=refuse))


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("mp4", {}), ("mp4", {"movflags": "faststart"}), ("mkv", {}), ("flv", {}), ("avi", {}), ("ts", {})],
)
def test_a_file_cut_off_at_any_tenth(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    codec = "libx264" if suffix == "flv" else "mpeg4"
    path = write_video(tmp_path / f"v.{suffix}", noise(50), range(0, 10_000, 200), codec, options)
    whole = [frame.time for frame in read_frames(path)]
    data = path.read_bytes()
    most = 0
    for tenth in range(10):
        path.write_bytes(data[: len(data) * tenth // 10])
        try:
            frames = list(read_frames(path))
        except ImageError as error:
            assert tenth < 2 or (suffix, options) == ("mp4", {})
            assert str(path) in str(error)  # noqa: PT017
            continue
        good = [frame.time for frame in frames if not isinstance(frame.picture, ImageError)]
        assert good == whole[: len(good)]
        assert len(good) >= most
        most = len(good)
        if suffix not in ("ts", "avi") and tenth < 9:  # there, the length is not stated, or only at the end
            assert "s before the end that its header states" in errors(frames)[-1]
    assert most > 40 or (suffix, options) == ("mp4", {})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("small")
    pictures = [picture((2 * i, 10, RED)) for i in range(12)]
    made = (("mp4", "libx264"), ("mkv", "libvpx"), ("avi", "mpeg4"), ("ts", "libx264"))
    return {suffix: write_video(folder / f"v.{suffix}", pictures, codec=codec).read_bytes() for suffix, codec in made}


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_bytes_give_frames_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, small: dict[str, bytes], data: st.DataObject
) -> None:
    suffix = data.draw(st.sampled_from(sorted(small)))
    content = bytearray(small[suffix])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=16))
        content[at : at + len(piece)] = piece
    content = content[: data.draw(st.integers(len(content) // 2, len(content)))]
    path = tmp_path_factory.getbasetemp() / f"fuzz.{suffix}"
    path.write_bytes(content)
    try:
        for number, frame in enumerate(read_frames(path)):
            assert number < 1000
            if not isinstance(frame.picture, ImageError):
                assert frame.image().mode == "RGB"
    except ImageError as error:
        assert str(path) in str(error)  # noqa: PT017


# Files that are no videos


def write_song(path: Path) -> None:
    """Sound, and a picture for its cover, which FFmpeg lists as a stream of video."""
    cover = io.BytesIO()
    Image.fromarray(picture()).save(cover, "JPEG")
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        container.add_attachment("cover.jpg", "image/jpeg", cover.getvalue())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1


def test_what_is_no_video_is_named(tmp_path: Path, photos: Path, squares: ExpressionExtractor) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("just words " * 100)
    (tmp_path / "words.txt").write_text("\x1b[1m just words " * 100)
    write_song(tmp_path / "song.mkv")
    os.mkfifo(tmp_path / "pipe.mp4")
    expected: dict[Any, str] = {
        tmp_path / "none.mp4": r"none\.mp4: no such file",
        tmp_path / "empty.mp4": r"empty\.mp4 is empty \(0 bytes\)",
        tmp_path / "text.mp4": r"text\.mp4 is not a video in a format that is read",
        tmp_path / "words.txt": r"words\.txt is not a video in a format that is read",
        photos / "rocket.jpg": r"rocket\.jpg is not a video in a format that is read",
        tmp_path / "song.mkv": r"song\.mkv holds no video, only audio",
        tmp_path / "pipe.mp4": r"pipe\.mp4 is not a regular file",
        "/dev/zero": r"/dev/zero is not a regular file",
        tmp_path: "is a directory, not a video",
        "http://localhost/v.mp4": "is a URL; this package does not download videos",
        "concat:a.mp4|b.mp4": "no such file",
        "a\0.mp4": "cannot be opened",
        b"\x00\x00": "cannot read a video from bytes",
        None: "cannot read a video from NoneType",
    }
    for path, message in expected.items():
        with pytest.raises(ImageError, match=message):
            list(squares.extract_video(path))


def test_a_video_without_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", noise(3), options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 4])
    with pytest.raises(ImageError, match=r"v\.mp4 has a video stream, but no frame of it can be read"):
        list(read_frames(path))


def test_more_pixels_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_PIXELS", SIZE[0] * SIZE[1] - 1)
    path = write_video(tmp_path / "a.mp4", noise(3), codec="libx264")
    with pytest.raises(ImageError, match=r"a\.mp4 is too large: 96x64 pixels, at most 6143 are read"):
        list(read_frames(path))
    messages = errors(read_frames(write_video(tmp_path / "b.mp4", noise(3), codec="mpeg4")))
    assert len(messages) == 3
    assert all("more than the 6143 pixels that are read" in message for message in messages)


def test_a_damaged_file_that_sends_ffmpeg_before_its_start(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"0123456789")
    with open(tmp_path / "v.mp4", "rb") as file:
        seen = video._Bytes(file, "a/b%d.mp4")
        assert (seen.name, seen.seek(4), seen.seek(-9, os.SEEK_CUR), seen.read()) == ("video.mp4", 4, -1, b"456789")


def test_a_disk_that_fails_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4", noise(60), options={"movflags": "faststart"})
    half = path.stat().st_size // 2

    class Failing(video._Bytes):
        def __init__(self, file: Any, name: str) -> None:
            super().__init__(file, name)
            self.read = self.half

        def half(self, size: int) -> bytes:
            if self.tell() > half:
                raise OSError(5, "Input/output error")
            return self._file.read(size)

    whole = [frame.time for frame in read_frames(path)]
    monkeypatch.setattr(video, "_Bytes", Failing)
    frames = list(read_frames(path))
    assert len(errors(frames)) <= 2  # the fault, and perhaps the frame in which it came; not one for each new try
    assert errors(frames)[0].endswith("s: Input/output error")
    good = [frame.time for frame in frames if not isinstance(frame.picture, ImageError)]
    assert 20 < len(good) < 40
    assert good == whole[: len(good)]


class CountingHandler(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *arguments: Any) -> None:
        pass


def test_files_that_name_other_files_are_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "other.ts", noise(3), codec="libx264")
    other = tmp_path / "other.ts"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), CountingHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v.ts"
        lists = {
            "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
            "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
            "list.ffconcat": f"ffconcat version 1.0\nfile {other}\nfile '{url}'\n",
            "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
            "other%d.ts": "nothing",
        }
        for name, text in lists.items():
            (tmp_path / name).write_text(text)
            with pytest.raises(ImageError, match="is not a video in a format that is read"):
                list(read_frames(tmp_path / name))
        server.shutdown()
    assert CountingHandler.asked == []


# Faces, tracks and what is held in memory


def test_faces_come_with_time_and_track(tmp_path: Path, squares: ExpressionExtractor) -> None:
    # Red stays; green comes at 0.2 s, is gone from 0.4 to 0.8 s, and from 1.2 s to 2.6 s.
    seen = [0.2 <= i / 25 < 0.4 or 0.8 <= i / 25 < 1.2 or i / 25 >= 2.6 for i in range(75)]
    pictures = [picture((4, 4, RED), *[(60, 30, GREEN)] * there) for there in seen]
    path = write_video(tmp_path / "v.mp4", pictures)
    images = {frame.time: frame.image() for frame in read_frames(path)}
    green = []
    for (time, faces), there in zip(squares.extract_video(path, batch_size=7), seen, strict=True):
        assert len(faces) == 1 + there
        assert all(isinstance(face, TrackedFace) and face.time == time for face in faces)
        for face, alone in zip(faces, squares.extract(images[time]), strict=True):
            assert (face.box == alone.box).all()
            assert abs(face.embedding - alone.embedding).max() < 1e-5
            assert face.model_id == "random"
            if face.box[0] > 40:
                green.append((round(time, 2), face.track))
            else:
                assert face.track == 0
    assert {track for time, track in green if time < 1.2} == {1}  # 0.4 s away, the same
    assert {track for time, track in green if time >= 2.6} == {2}  # 1.4 s away, a new one


def box(left: float, top: float, width: float = 10, height: float = 10) -> Detection:
    return Detection(np.array([left, top, left + width, top + height], np.float32), np.zeros((5, 2), np.float32), 1.0)


def test_overlap_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 5, 5, 5]])
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [5, 5, 15, 15], [10, 0, 20, 10], [2, 2, 7, 7]])
    assert overlap(boxes, others)[0] == pytest.approx([1, 50 / 150, 25 / 175, 0, 25 / 100])
    assert overlap(boxes, others)[1].tolist() == [0, 0, 0, 0, 0]
    assert overlap(others, others) == pytest.approx(overlap(others, others).T)


def test_two_people_who_pass_each_other_keep_their_numbers() -> None:
    tracker = Tracker()
    for step in range(21):  # one goes right, one left, 40 pixels apart in height; the order of the faces changes, too
        people = [box(5 * step, 0), box(100 - 5 * step, 40)]
        tracks = tracker.follow(step / 25, people if step % 2 else people[::-1])
        assert tracks == ([0, 1] if step % 2 == 0 else [1, 0])


def test_what_overlaps_most_is_matched_first() -> None:
    tracker = Tracker()
    assert tracker.follow(0.0, [box(0, 0), box(4, 0)]) == [0, 1]
    # Against (2, 0): IoU 80/120 with both; (5, 0): 50/150 with 0, 90/110 with 1. So (5, 0) takes 1, and (2, 0) 0.
    assert tracker.follow(0.1, [box(2, 0), box(5, 0)]) == [0, 1]
    # (6, 0) has 90/110 with 1's (5, 0); (8, 0) has 70/130 and is too late: 40/160 with 0's (2, 0) is not enough.
    assert tracker.follow(0.2, [box(8, 0), box(6, 0)]) == [2, 1]


@pytest.mark.parametrize(("shift", "same"), [(5.3, True), (5.5, False)])  # IoU 4.7/15.3 = 0.307, 4.5/15.5 = 0.290
def test_the_least_overlap(shift: float, same: bool) -> None:
    tracker = Tracker()
    tracker.follow(0.0, [box(0, 0)])
    assert tracker.follow(0.1, [box(shift, 0)]) == [0 if same else 1]


def test_leaving_and_coming_back() -> None:
    tracker = Tracker()
    assert tracker.follow(0.0, [box(0, 0)]) == [0]
    assert tracker.follow(0.5, []) == []
    assert tracker.follow(1.0, [box(0, 0)]) == [0]  # after one second, MAX_GAP
    assert tracker.follow(1.5, []) == []
    assert tracker.follow(2.1, [box(0, 0)]) == [1]  # after 1.1 s
    assert tracker.follow(9.9, [box(0, 0)]) == [1]  # the frame just before, however long ago
    assert tracker.follow(20.0, []) == []
    assert tracker.follow(20.1, [box(0, 0), box(50, 50)]) == [2, 3]
    assert len(tracker._tracks) == 2  # those that ended are forgotten


def test_what_is_held_in_memory_is_bounded(
    tmp_path: Path, squares: ExpressionExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fergeneral.extractor.worker_count", lambda: 2)
    path = write_video(tmp_path / "v.mp4", [picture((4, 4, RED))] * 150)
    held: weakref.WeakSet[Any] = weakref.WeakSet()
    decoded = 0

    class Watched(Frame):
        def __init__(self, *arguments: Any) -> None:
            nonlocal decoded
            super().__init__(*arguments)
            decoded += 1
            held.add(self)

    def pictures() -> int:
        return sum(type(thing) is av.VideoFrame for thing in gc.get_objects())

    monkeypatch.setattr(video, "Frame", Watched)
    most = ahead = pixels = 0
    gc.collect()
    gc.disable()  # frames must not wait for it
    try:
        for given_back, _ in enumerate(squares.extract_video(path, batch_size=8), start=1):
            most, ahead = max(most, len(held)), max(ahead, decoded - given_back)
            if given_back % 25 == 0:
                pixels = max(pixels, pictures())
    finally:
        gc.enable()
    assert (given_back, decoded) == (150, 150)
    assert most <= 4 * 2 + 2  # those to come, in the threads, and just given
    assert 0 < pixels <= most + 4  # the first, whose side data was read, and those that the decoder just gave
    assert ahead <= 3 * 8 + 4 * 2
    gc.collect()
    assert (len(held), pictures()) == (0, 0)


def test_leaving_early_ends_threads_and_closes_the_file(
    tmp_path: Path, squares: ExpressionExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "v.mp4", [picture((4, 4, RED))] * 100)
    files: list[Any] = []
    real: Callable[..., Any] = av.open
    monkeypatch.setattr(av, "open", lambda file, *rest, **more: files.append(file) or real(file, *rest, **more))
    before = threading.active_count()
    frames = squares.extract_video(path, batch_size=2)
    assert not files  # nothing happens before the first frame is asked for
    next(frames)
    assert threading.active_count() > before
    assert not files[0].read.__self__.closed
    frames.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert files[0].read.__self__.closed
    squares.extract_video(path).close()  # type: ignore[attr-defined]  # never begun


def test_wrong_options_are_told_at_once(squares: ExpressionExtractor) -> None:
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="fps must be more than 0"):
            squares.extract_video("v.mp4", fps=fps)
    with pytest.raises(ValueError, match="batch_size must be a positive integer"):
        squares.extract_video("v.mp4", batch_size=0)


def test_a_person_is_followed_through_a_turned_video(
    tmp_path: Path, photos: Path, extractor: ExpressionExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo moves across the frame, filmed with the phone on its side; read by the shipped detector and weights."""
    face = np.asarray(Image.open(photos / "astronaut.png").convert("RGB").crop((150, 0, 310, 200)))
    scenes = []
    for i in range(10):
        scene = np.full((240, 320, 3), 90, np.uint8)
        scene[20:220, 16 * i : 16 * i + 160] = face
        scenes.append(np.ascontiguousarray(np.rot90(scene)))  # coded a quarter to the left of how it is shown
    path = write_video(tmp_path / "v.mp4", scenes, codec="libx264")
    lay(path, (0, 1, -1, 0))  # to be shown a quarter to the right
    monkeypatch.setattr("fergeneral.extractor.shared_extractor", lambda: extractor)
    expected = extractor.extract(np.rot90(scenes[0], -1))[0]
    lefts = []
    for _, faces in extract_video(path, fps=12.5):
        assert [found.track for found in faces] == [0]
        cosine = faces[0].embedding @ expected.embedding
        cosine /= np.linalg.norm(faces[0].embedding) * np.linalg.norm(expected.embedding)
        assert cosine > 0.8
        lefts.append(float(faces[0].box[0]))
    assert np.diff(lefts) == pytest.approx([32] * 4, abs=8)  # pixels in 0.08 s


# Tables and the command


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
def test_a_table_of_a_video_is_read_back(tmp_path: Path, suffix: str) -> None:
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    faces = [TrackedFace(draw(4), draw(5, 2), 0.5, draw(8), "m", i / 30, i % 3) for i in range(1200)]
    with FaceTable(tmp_path / f"t{suffix}", 8, video=True) as table:
        for face in faces:
            table.add("v.mp4", [face])
    read = read_table(tmp_path / f"t{suffix}")
    assert read["time"].tolist() == [face.time for face in faces]
    assert read["track"].tolist() == [face.track for face in faces]
    assert (read["time"].dtype, read["track"].dtype) == (np.float64, np.int32)
    assert (read["embedding"] == [face.embedding for face in faces]).all()
    assert set(read["model_id"]) == {"m"}
    with FaceTable(tmp_path / f"none{suffix}", 8, video=True):
        pass
    assert read_table(tmp_path / f"none{suffix}")["track"].shape == (0,)


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "clips"
    folder.mkdir()
    write_video(folder / "a.mp4", [picture((3 * i, 4, RED)) for i in range(10)])
    write_video(folder / "b.avi", [picture((4, 4, RED), (60, 30, GREEN))] * 10, codec="mjpeg")
    (folder / "notes.txt").write_text("no video")
    monkeypatch.setattr("fergeneral.extractor.make_detector", lambda *_, **__: SquareDetector())
    return folder


def test_the_command_writes_times_and_tracks(
    clips: Path, random_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(random_folder), "--device", "cpu"]
    assert main(["video", str(clips), "-o", str(tmp_path / "t.parquet"), *model]) == 0
    assert capsys.readouterr().err.endswith(
        "30 faces in 20 frames of 2 videos, 0 frames without a face, 0 damaged frames, 0 unreadable\n"
    )
    read = read_table(tmp_path / "t.parquet")
    assert read["path"].tolist() == [str(clips / "a.mp4")] * 10 + [str(clips / "b.avi")] * 20
    assert read["time"] == pytest.approx([0.04 * i for i in [*range(10), *np.repeat(range(10), 2)]])
    assert read["track"].tolist() == [0] * 10 + [0, 1] * 10
    assert read["face"].tolist() == [0] * 10 + [0, 1] * 10

    assert main(["video", str(clips / "b.avi"), "--fps", "5", *model]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["time", "track", "score", "left", "top", "right", "bottom", "video"]
    assert [line.split()[:2] for line in lines] == [[t, n] for t in ("0.000", "0.200") for n in ("0", "1")]


def test_the_command_tells_of_damage_and_goes_on(
    clips: Path, random_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blank(clips / "b.avi", 1)
    (clips / "a0.mp4").write_bytes(b"nothing")
    arguments = ["video", str(clips), "-o", str(tmp_path / "t.csv")]
    assert main([*arguments, "--model", str(random_folder), "--device", "cpu"]) == 1
    err = capsys.readouterr().err
    assert "a0.mp4 is not a video" in err
    assert "b.avi: no frame at 0.040 s" in err
    assert err.endswith("28 faces in 19 frames of 2 videos, 0 frames without a face, 1 damaged frame, 1 unreadable\n")
    assert len(read_table(tmp_path / "t.csv")["time"]) == 28


def test_the_commands_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["video", str(tmp_path)]) == 2
    assert "no videos in" in capsys.readouterr().err
    for rate in ("0", "-1", "nan", "inf", "many"):
        with pytest.raises(SystemExit) as caught:
            main(["video", "v.mp4", "--fps", rate])
        assert caught.value.code == 2
