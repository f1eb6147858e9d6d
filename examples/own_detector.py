"""Your own face detector in place of MTCNN: any object with detect(image) -> list[Detection].

python examples/own_detector.py examples/photos/astronaut.png

Here the "detector" knows where the astronaut's face is.
"""

import sys

import numpy as np
from PIL import Image

from fergeneral import Detection, ExpressionExtractor


class KnownFace:
    def detect(self, image: Image.Image) -> list[Detection]:
        landmarks = [[204, 101], [248, 103], [224, 128], [202, 139], [244, 142]]  # eyes, nose, corners of the mouth
        box = np.array([180, 61, 268, 172], dtype=np.float32)
        return [Detection(box, np.array(landmarks, dtype=np.float32), score=1.0)]


extractor = ExpressionExtractor.from_pretrained(detector=KnownFace())
(face,) = extractor.extract(sys.argv[1])
(found,) = ExpressionExtractor.from_pretrained().extract(sys.argv[1])
similarity = face.embedding @ found.embedding / np.linalg.norm(face.embedding) / np.linalg.norm(found.embedding)
print(f"cosine similarity to the face that MTCNN finds: {similarity:.3f}")
