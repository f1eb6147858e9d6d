"""Every face in a photo, with its expression embedding.

python examples/extract_faces.py examples/photos/three_faces.jpg
"""

import sys

from fergeneral import extract

for number, face in enumerate(extract(sys.argv[1])):
    left, top, right, bottom = face.box.round().astype(int)
    print(
        f"face {number}: x {left}..{right}, y {top}..{bottom}, score {face.score:.3f}, embedding {face.embedding.shape}"
    )
