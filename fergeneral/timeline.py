"""A figure of the expressions in videos over time: a panel for each track, with the probabilities of the classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fergeneral.datasets import EXPRESSIONS
from fergeneral.errors import DataError, MissingExtraError
from fergeneral.storage import check_target, whole_file
from fergeneral.types import ClassifiedTrackedFace, Face

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
except ImportError as error:
    raise MissingExtraError("a figure of expressions over time", "matplotlib", "eval") from error

MEAN_SECONDS = 0.5  # over which probabilities are averaged
MOST_TRACKS = 6  # panels; more would not be legible on a page
MOST_CLASSES = 10  # lines in a panel
SUFFIXES = (".png", ".pdf", ".svg")
# The colours of the report's figures (fergeneral.evaluate.figures), in the order of EXPRESSIONS; then two more.
_COLOURS = ["#999999", "#E69F00", "#56B4E9", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"]
_COLOURS += ["#8C564B", "#BCBD22"]
_ABSENT = "#EBEBEB"
_DPI = 150


def check_figure(target: Path) -> None:
    """Raise DataError unless `target` is the name of a figure that can be written."""
    if target.suffix.lower() not in SUFFIXES:
        raise DataError(f"{target} must end in one of {', '.join(SUFFIXES)}")
    check_target(target)


class Timeline:
    """Gathers the faces of videos, frame by frame, and draws the probabilities of their classes over time."""

    def __init__(self) -> None:
        self._frames: dict[str, list[float]] = {}  # video -> times
        self._tracks: dict[tuple[str, int], list[tuple[float, list[float]]]] = {}  # of a video -> probabilities
        self._classes: tuple[str, ...] = ()

    def add(self, video: str, time: float, faces: Sequence[Face]) -> None:
        """Add a frame of a video.

        Parameters
        ----------
        video : str
            Its path.
        time : float
            Of the frame, in seconds since the video's start.
        faces : sequence of ClassifiedTrackedFace
            In the frame; [] where none is seen, or the frame is corrupt.
        """
        self._frames.setdefault(video, []).append(time)
        for face in faces:
            if isinstance(face, ClassifiedTrackedFace):
                self._classes = tuple(face.probabilities)
                self._tracks.setdefault((video, face.track), []).append((time, list(face.probabilities.values())))

    def draw(self, target: str | Path) -> None:
        """Write the figure.

        Parameters
        ----------
        target : path
            Of a .png, .pdf or .svg file, which is replaced.

        Raises
        ------
        DataError
            Where there is no face to draw.
        """
        figure = self.figure()
        with whole_file(Path(target)) as temporary:
            figure.savefig(temporary, dpi=_DPI)

    def figure(self) -> Figure:
        """The tracks that are seen in the most frames, at most MOST_TRACKS, in the order of their appearance.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        DataError
            Where there is no face to draw.
        """
        longest = sorted(self._tracks, key=lambda key: -len(self._tracks[key]))[:MOST_TRACKS]
        shown = [key for key in self._tracks if key in longest]
        if not shown:
            raise DataError("no face was found whose expressions could be drawn")
        smoothed = {key: self._smoothed(key) for key in shown}
        peaks = np.max([np.nanmax(values, axis=0) for _, values in smoothed.values()], axis=0)
        classes = sorted(np.argsort(-peaks, kind="stable")[:MOST_CLASSES].tolist())
        colours = dict(zip(classes, _colours([self._classes[number] for number in classes]), strict=True))
        figure = Figure(figsize=(10, 1.5 + 1.7 * len(shown)), layout="constrained")  # without pyplot's global state
        one = len(self._frames) == 1
        axes = figure.subplots(len(shown), 1, squeeze=False, sharex=one, sharey=True).ravel().tolist()
        for axis, key in zip(axes, shown, strict=True):
            self._draw_track(axis, key, *smoothed[key], colours)
        axes[-1].set_xlabel("time in the video (seconds)")
        figure.suptitle(self._title(len(shown)), fontsize=11, parse_math=False)
        handles = [Line2D([], [], color=colour, linewidth=2) for colour in colours.values()]
        labels = [_plain(self._classes[number]) for number in classes]
        left_out = len(self._classes) - len(classes)
        figure.legend(
            [*handles, Patch(color=_ABSENT)],
            [*labels, "face not seen"],
            loc="outside lower center",
            ncols=5,
            fontsize=9,
            title=f"probability, centred moving mean over {MEAN_SECONDS:g} s of the frames with the face"
            + (f"; {left_out} classes that stay lower are left out" if left_out else ""),
            title_fontsize=9,
        )
        return figure

    def _title(self, shown: int) -> str:
        videos = os.path.basename(next(iter(self._frames))) if len(self._frames) == 1 else f"{len(self._frames)} videos"
        more = len(self._tracks) - shown
        left_out = f": the {shown} longest of {shown + more} tracks, {more} shorter left out" if more else ""
        return f"Expressions in {videos}{left_out}"

    def _smoothed(self, key: tuple[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Times (T,) of the video's frames, and probabilities (T, K), NaN where the face is not seen."""
        seen = dict(self._tracks[key])
        times = np.unique(self._frames[key[0]])
        there = np.array(sorted(seen))
        values = np.full((len(times), len(self._classes)), np.nan)
        values[np.searchsorted(times, there)] = moving_mean(there, np.array([seen[time] for time in there.tolist()]))
        return times, values

    def _draw_track(
        self, axis: Axes, key: tuple[str, int], times: np.ndarray, values: np.ndarray, colours: dict[int, str]
    ) -> None:
        seen = ~np.isnan(values[:, 0])
        for start, end in _absences(times, seen):
            axis.axvspan(start, end, color=_ABSENT, linewidth=0, zorder=0)
        # A line needs two frames; one between two absences is a dot.
        alone = seen & ~np.concatenate([[False], seen[:-1]]) & ~np.concatenate([seen[1:], [False]])
        for number, colour in colours.items():
            axis.plot(times, values[:, number], color=colour, linewidth=1.8)
            axis.plot(times[alone], values[alone, number], ".", color=colour, markersize=4)
        video = f"{os.path.basename(key[0])}, " if len(self._frames) > 1 else ""
        found = np.flatnonzero(seen)
        title = f"{video}track {key[1]}: {len(found)} frames, {times[found[0]]:.1f} to {times[found[-1]]:.1f} s"
        axis.set_title(title, fontsize=9, loc="left", parse_math=False)
        axis.set_xlim(times[0], max(times[-1], times[0] + 0.1))
        axis.set_ylim(-0.02, 1.02)
        axis.set_yticks([0, 0.5, 1])
        axis.grid(alpha=0.3)


def moving_mean(times: np.ndarray, values: np.ndarray, seconds: float = MEAN_SECONDS) -> np.ndarray:
    """The mean of the values at most `seconds` / 2 before and after each time.

    Parameters
    ----------
    times : ndarray, shape (T,)
        In seconds, rising.
    values : ndarray, shape (T, K)
        At these times.
    seconds : float, default MEAN_SECONDS
        Length of the window.

    Returns
    -------
    ndarray, shape (T, K)
    """
    half = seconds / 2 + 1e-6  # times are not exact
    first = np.searchsorted(times, times - half, "left")
    last = np.searchsorted(times, times + half, "right")
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])
    means: np.ndarray = (sums[last] - sums[first]) / (last - first)[:, None]
    return means


def _absences(times: np.ndarray, seen: np.ndarray) -> list[tuple[float, float]]:
    """Start and end of each stretch without the face, from the frame before it to the frame after it."""
    spans = []
    for run in np.split(np.flatnonzero(~seen), np.flatnonzero(np.diff(np.flatnonzero(~seen)) > 1) + 1):
        if len(run):
            start, end = max(run[0] - 1, 0), min(run[-1] + 1, len(times) - 1)
            spans.append((float(times[start]), float(times[end])))
    return spans


def _colours(classes: Sequence[str]) -> list[str]:
    """Of each class the same in all figures, if the package knows them all."""
    known = set(classes) <= set(EXPRESSIONS)
    return [_COLOURS[EXPRESSIONS.index(name) if known else place] for place, name in enumerate(classes)]


def _plain(name: str) -> str:
    """A class's name as matplotlib shows it: it takes $ for mathematics, and leaves out what begins with _."""
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
