"""The demo as a Hugging Face Space: `fergeneral demo` with limits for a public place."""

from fergeneral import ExpressionClassifier
from fergeneral.demo import DemoSettings, launch

SETTINGS = DemoSettings(
    classifier=ExpressionClassifier.from_pretrained(),
    max_megabytes=16,
    max_faces=20,
    max_photos=40,
    max_video_seconds=15.0,
)

if __name__ == "__main__":
    launch(SETTINGS, host="0.0.0.0")  # at port 7860, where the Space looks for it
