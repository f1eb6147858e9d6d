"""Your own expressions from a few photos: from a folder to a head to a prediction.

python examples/teach_expression.py examples/london my-head examples/photos/astronaut.png

The folder has one folder of photos for each expression, LABEL/PHOTO, or a manifest.csv that also names the people.
"""

import sys

from fergeneral import ExpressionClassifier

folder, head, photo = sys.argv[1:]
classifier = ExpressionClassifier.fit(folder)
print(classifier.report)
classifier.save_pretrained(head)
for face in ExpressionClassifier.from_pretrained(head).predict(photo):
    print(f"{face.expression} {face.confidence:.2f}")
