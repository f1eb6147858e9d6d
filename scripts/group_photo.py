"""Put people of examples/london side by side as one photo, examples/group.jpg, and draw on it what `predict` says.

The drawn one, examples/group_drawn.jpg, is the README's picture: python scripts/group_photo.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fergeneral import classify
from fergeneral.drawing import draw_faces

EXAMPLES = Path(__file__).parents[1] / "examples"
# Ages 21 to 54, black, white, West and East Asian, women and men, as they stated it (examples/london/manifest.csv).
ROWS = (
    ("smiling/025", "neutral/021", "smiling/006", "smiling/024"),
    ("neutral/030", "smiling/061", "smiling/136", "neutral/042"),
)
SIDE = 300  # pixels of each person's part


def main() -> None:
    """Write both files."""
    group = Image.new("RGB", (SIDE * len(ROWS[0]), SIDE * len(ROWS)))
    for row, names in enumerate(ROWS):
        for column, name in enumerate(names):
            person = Image.open(EXAMPLES / "london" / f"{name}.jpg").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            group.paste(person, (column * SIDE, row * SIDE))
    group.save(EXAMPLES / "group.jpg", quality=88)
    faces = classify(EXAMPLES / "group.jpg")
    draw_faces(group, faces).save(EXAMPLES / "group_drawn.jpg", quality=88)
    for face in faces:
        print(face.expression, round(face.confidence, 2))


if __name__ == "__main__":
    main()
