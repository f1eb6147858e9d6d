"""What the demo is built from, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fergeneral.classifier import ExpressionClassifier


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What every tab of the demo is given.

    Parameters
    ----------
    classifier
        Finds the faces of a photo, embeds them and names their expressions; its `extractor` embeds alone.
    search
        A folder of photos, or the shards of a job, that the Similar tab searches. Without it, people search photos that
        they upload. It is set by whoever starts the demo, never in the browser.
    max_megabytes
        Largest upload, in megabytes.
    max_faces
        Most faces of one photo that are shown.
    max_photos
        Most photos that can be uploaded to one tab.
    max_video_seconds
        Longest clip, in seconds.
    """

    classifier: ExpressionClassifier
    search: Path | None = None
    max_megabytes: int = 64
    max_faces: int = 50
    max_photos: int = 200
    max_video_seconds: float = 60.0
