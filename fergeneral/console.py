"""What the command line prints, each row and message on a line of its own."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from fergeneral.types import ClassifiedFace, Face, TrackedFace

# Control characters, line breaks of Unicode, half surrogates, and marks that turn the direction of text.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def say(line: str) -> None:
    """Print one line to stderr, above a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(printable(line, sys.stderr), file=sys.stderr)


def counted(number: int, thing: str) -> str:
    """As in "1 photo", "2 photos"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def printable(text: str, stream: Any) -> str:
    """On one line, in characters that `stream` can take: what would break it is written as \\n, \\x1b or \\u2028."""
    escaped = _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


class PrintedTable:
    """The table for people: a line a face, on stdout. With the `classes` of a head expressions instead of boxes."""

    def __init__(self, video: bool, classes: Sequence[str] | None = None) -> None:
        self._video = video
        self._classified = classes is not None
        self._width = max(map(len, ("expression", *(printable(name, sys.stdout) for name in classes or ()))))
        self._started = False

    def add(self, path: str, faces: Sequence[Face]) -> None:
        """Print the faces of a photo, or of a frame of a video."""
        path = printable(path, sys.stdout)
        if not self._started:
            first = f"{'time':>9} {'track':>5}" if self._video else f"{'face':>4}"
            print(f"{first} {self._heading()}  {'video' if self._video else 'photo'}")
            self._started = True
        for number, face in enumerate(faces):
            first = f"{face.time:>9.3f} {face.track:>5}" if isinstance(face, TrackedFace) else f"{number:>4}"
            print(f"{first} {self._row(face)}  {path}")
        if not faces and not self._video:
            print(f"{'-':>4} {self._row(None)}  {path}")

    def _heading(self) -> str:
        if self._classified:
            return f" {'expression':<{self._width}} {'confidence':>10}"
        return f"{'score':>6} {'left':>7} {'top':>7} {'right':>7} {'bottom':>7}"

    def _row(self, face: Face | None) -> str:
        """`face`: None where there is none."""
        if self._classified:
            name, confidence = "-", "-"
            if isinstance(face, ClassifiedFace):
                name, confidence = printable(face.expression, sys.stdout), f"{face.confidence:.2f}"
            return f" {name:<{self._width}} {confidence:>10}"
        if face is None:
            return f"{'-':>6} {'-':>7} {'-':>7} {'-':>7} {'-':>7}"
        return f"{face.score:>6.3f} " + " ".join(f"{v:>7.1f}" for v in face.box.tolist())


class JsonLines:
    """The same for programs: a JSON object a face and line."""

    def add(self, path: str, faces: Sequence[Face]) -> None:
        """Print the faces of a photo, or of a frame of a video."""
        for number, face in enumerate(faces):
            print(json.dumps({"path": path, "face": number, **face.to_dict()}, allow_nan=False))
