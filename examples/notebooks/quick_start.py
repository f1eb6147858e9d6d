# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quick start: from a photo to expressions and embeddings
#
# You learn, in about five minutes:
#
# - how to find the faces in a photo and name their expressions,
# - what the encoder sees, and how sure the classifier is,
# - how to get the embeddings, and train a classifier of your own on them.
#
# **Install.** The package is not on PyPI. In a clone of the repository, with Python 3.11 or newer:
#
# ```sh
# pip install '.[eval]' jupyterlab ipywidgets
# jupyter lab examples/notebooks/quick_start.ipynb
# ```
#
# The weights come with the package. Nothing is downloaded, no GPU is needed, and no photo leaves your computer.
#
# The people in these photos took part in the Face Research Lab London Set (DeBruine and Jones, 2017, [doi
# 10.6084/m9.figshare.5047666](https://doi.org/10.6084/m9.figshare.5047666), CC BY 4.0). They agreed that their photos
# are used in research and to illustrate it.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

# The folder `examples`, seen from the repository or from the folder of this notebook.
examples = Path("examples") if Path("examples/london").is_dir() else Path("..")
london = examples / "london"

# %% [markdown]
# ## 1. A photo with several people
#
# We put six portraits into one picture, so that there is more than one face to find. Three people are neutral, three
# smile. To use a photo of your own, set `photo = Image.open("my_photo.jpg").convert("RGB")`.

# %%
portraits = [
    *("neutral/030.jpg", "smiling/061.jpg", "neutral/006.jpg"),
    *("smiling/136.jpg", "neutral/024.jpg", "smiling/025.jpg"),
]
photo = Image.new("RGB", (900, 600))
for number, name in enumerate(portraits):
    row, column = divmod(number, 3)
    photo.paste(Image.open(london / name).resize((300, 300)), (300 * column, 300 * row))

# %% [markdown]
# `classify` does all the work: it finds each face, turns and cuts it, computes its embedding, and names its
# expression. It takes a path, an array or a PIL image, and returns a list with the largest face first.

# %%
from fergeneral import classify
from fergeneral.drawing import draw_faces

faces = classify(photo)
print(len(faces), "faces")
draw_faces(photo, faces)

# %% [markdown]
# Each face is an object with plain fields. As a table:

# %%
pd.DataFrame(
    {
        "box (left, top, right, bottom)": [face.box.round().astype(int).tolist() for face in faces],
        "score": [face.score for face in faces],
        "expression": [face.expression for face in faces],
        "confidence": [face.confidence for face in faces],
    }
).round(3)

# %% [markdown]
# - `box` is in pixels of the photo.
# - `score` says how sure the detector is that this is a face.
# - `confidence` says how sure the classifier is of the expression. It is another number than `score`.
#
# ## 2. What the encoder sees
#
# The encoder never sees the whole photo. Each face is turned upright and cut out around five points: the eyes, the
# nose and the corners of the mouth. Hair, clothes and background are mostly gone. Look at these crops when a result
# surprises you: a bad crop explains many wrong answers.

# %%
from fergeneral import ExpressionExtractor

extractor = ExpressionExtractor.from_pretrained()
crops = [extractor.align(photo, face.landmarks) for face in faces]

figure, axes = plt.subplots(1, len(crops), figsize=(9, 1.8), layout="constrained")
for number, (axis, crop) in enumerate(zip(axes, crops, strict=True)):
    axis.imshow(crop)
    axis.set_title(f"face {number}", fontsize=9)
    axis.axis("off")
plt.show()

# %% [markdown]
# ## 3. How sure is it?
#
# One name hides a lot. The classifier gives a probability for each of eight expressions, and their sum is 1. A face
# with one long bar is a clear case. A face with two bars of similar length is not, and you should not treat it as
# one.

# %%
probabilities = pd.DataFrame([face.probabilities for face in faces])
figure, axes = plt.subplots(1, len(faces), figsize=(9, 2.6), sharey=True, layout="constrained")
for number, axis in enumerate(axes):
    row = probabilities.loc[number]
    axis.barh(row.index, row, color=np.where(row == row.max(), "#0072B2", "#BBBBBB"))
    axis.set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
    axis.set_title(f"face {number}", fontsize=9)
axes[0].invert_yaxis()
figure.supxlabel("probability", fontsize=9)
plt.show()

# %% [markdown]
# **It makes mistakes.** Here are the answers for all 24 photos of these twelve people. The folder says what each
# person was asked to show. `min_confidence` turns doubtful answers into `uncertain`.

# %%
from fergeneral import ExpressionClassifier

classifier = ExpressionClassifier.from_pretrained(encoder=extractor, min_confidence=0.55)
photos = sorted(london.glob("*/*.jpg"))
answers = [found[0].expression for found in classifier.predict_many(photos)]
asked = [path.parent.name for path in photos]
pd.crosstab(pd.Series(asked, name="asked to be"), pd.Series(answers, name="answer"))

# %% [markdown]
# Some people smile with closed lips, and the classifier calls them neutral. One resting face looks sad to it,
# although nobody was asked to look sad. This is why we write of *expressions* here and not of feelings: the answer
# describes how a face looks, not how a person feels.
#
# ## 4. Embeddings
#
# The eight names are only one use of the encoder. What it really computes is an *embedding*: 512 numbers that
# describe the expression. `extract` gives the faces with their embeddings and without names.

# %%
from fergeneral import extract

face = extract(london / "smiling" / "061.jpg")[0]
print(face.embedding.shape, face.embedding.dtype)
print(face.embedding[:5].round(3))

# %% [markdown]
# Two embeddings are compared by the cosine of the angle between them: 1 means the same direction. If the embedding is
# about the expression, then two *different* people who both smile should be closer than *one* person who smiles in
# one photo and not in the other. Let us check. `ExpressionFeatures` gives one row of numbers per photo.

# %%
from fergeneral import ExpressionFeatures

embeddings = ExpressionFeatures().fit_transform(photos)
directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
similarity = directions @ directions.T

expression = np.array(asked)
person = np.array([path.stem for path in photos])
same_expression = (expression[:, None] == expression) & (person[:, None] != person)
same_person = (expression[:, None] != expression) & (person[:, None] == person)
print(f"different people, same expression: {np.median(similarity[same_expression]):.2f} (median)")
print(f"same person, different expression: {np.median(similarity[same_person]):.2f} (median)")

# %% [markdown]
# The expression counts for more than the person, but the person is not gone. An embedding is still data about a
# person: treat it as you treat the photo.
#
# ## 5. Your own classifier, with scikit-learn
#
# An embedding is a row of numbers, so any scikit-learn model can learn from it. Twenty-four photos are enough to see
# that it works. We test on people that the model has not seen: each round leaves out one person, both photos of her
# or him. Without this, a model could pass by recognising people.

# %%
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
scores = cross_val_score(model, embeddings, expression, groups=person, cv=LeaveOneGroupOut())
print(f"{round(scores.sum() * 2)} of {len(photos)} photos right, on people who were left out")

# %% [markdown]
# Twenty-four photos is a small test. Do not read this as "the accuracy is so many percent": another dozen people
# would give another number. The next notebook shows how to put an interval around it.
#
# ## Further reading
#
# - [Teach an expression](teach_expression.ipynb): expressions of your own, with a report and an interval.
# - [Explore a folder](explore_folder.ipynb): a map of many photos, clusters, odd ones out.
# - [Timeline of a video](video_timeline.ipynb): expressions over time.
# - In the documentation: [docs/inputs.md](../../docs/inputs.md) (what counts as an image),
#   [docs/classifier.md](../../docs/classifier.md), [docs/scikit-learn.md](../../docs/scikit-learn.md), and
#   [docs/responsible-use.md](../../docs/responsible-use.md) before you use this on people.
