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
# # Teach an expression from a few photos
#
# The packaged classifier knows eight expressions. Yours may be others: *bored* and *alert*, *polite smile* and *real
# smile*. You learn here:
#
# - how to teach two expressions with eight photos of each,
# - how to find out how well that worked, with an interval,
# - what the probabilities mean, and when not to trust them,
# - how to save what was learnt and use it on photos of new people.
#
# **Install.** The package is not on PyPI. In a clone of the repository, with Python 3.11 or newer:
#
# ```sh
# pip install '.[eval]' jupyterlab ipywidgets
# jupyter lab examples/notebooks/teach_expression.ipynb
# ```
#
# The people in these photos took part in the Face Research Lab London Set (DeBruine and Jones, 2017, [doi
# 10.6084/m9.figshare.5047666](https://doi.org/10.6084/m9.figshare.5047666), CC BY 4.0). They agreed that their photos
# are used in research and to illustrate it.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

# The folder `examples`, seen from the repository or from the folder of this notebook.
examples = Path("examples") if Path("examples/london").is_dir() else Path("..")
london = examples / "london"

# %% [markdown]
# ## 1. The examples
#
# The folder `examples/london` has two photos of each of twelve people, in the folders `neutral` and `smiling`. The
# name of a file is the number of the person. We teach with the first eight people. The last four are kept apart: the
# classifier must not see them until the end.

# %%
people = sorted(path.stem for path in london.glob("neutral/*.jpg"))
teachers, new_people = people[:8], people[8:]


def photos_of(numbers):
    names = [f"{number}.jpg" for number in numbers]
    return [london / label / name for label in ("neutral", "smiling") for name in names]


photos = photos_of(teachers)
labels = [path.parent.name for path in photos]
persons = [path.stem for path in photos]

figure, axes = plt.subplots(2, 8, figsize=(9, 2.3), layout="constrained")
for axis, path in zip(axes.flat, photos, strict=True):
    axis.imshow(Image.open(path))
    axis.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("neutral")
axes[1, 0].set_ylabel("smiling")
plt.show()

# %% [markdown]
# ## 2. Teach
#
# Why does so little suffice? The encoder has already learnt what expressions look like, from many thousands of faces.
# It stays as it is. Only a small *head* is fitted on its embeddings. With fewer than ten photos of an expression the
# head compares a face with the mean of each expression and names the nearest.
#
# `groups` names the person on each photo. Give it whenever you have more than one photo of somebody. The reason comes
# in the next section.

# %%
from fergeneral import ExpressionClassifier

classifier = ExpressionClassifier.fit(photos, labels, groups=persons)
print(classifier.report)

# %% [markdown]
# If your photos lie in one folder per expression, `ExpressionClassifier.fit("my_photos")` is enough. A `manifest.csv`
# in it can name the people: see `examples/london/manifest.csv`.
#
# ## 3. How well does it work?
#
# A test on the photos that it was taught with would say little: it has seen the answers. So one person is left out at
# a time. A head is fitted on the other seven people and asked about the one who was left out. The report counts these
# answers.
#
# - If only one *photo* were left out, the same person would still be among the examples, and the head could know the
#   face instead of the expression. This is why `groups` matters.
# - **Accuracy** is the share of right answers. Pure guessing would give 0.5 here.
# - The **interval** says how far the truth may be from that figure, since eight people are few. Read it first.

# %%
report = classifier.report
low, high = report.accuracy_interval
print(f"leave-one-out: {report.accuracy:.2f}, 95 % interval {low:.2f} to {high:.2f}")
pd.DataFrame(
    report.confusion,
    index=pd.Index(report.faces, name="was"),
    columns=pd.Index(report.faces, name="answer"),
)

# %% [markdown]
# ## 4. Save it, load it
#
# A head is a small folder of numbers and text, without code. It belongs to the encoder that it was fitted on, and
# another encoder refuses it. Here it goes to a temporary folder. Write `classifier.save_pretrained("my-head")` to
# keep it.

# %%
temporary = tempfile.TemporaryDirectory()  # deleted when this notebook is closed
head = Path(temporary.name) / "my-head"
classifier.save_pretrained(head)
for file in sorted(head.iterdir()):
    print(f"{file.name:<18} {file.stat().st_size / 1000:6.1f} kB")

# %%
classifier = ExpressionClassifier.from_pretrained(head)
classifier.classes

# %% [markdown]
# On the command line, `fergeneral predict PHOTOS --head my-head/` does the same.
#
# ## 5. New people
#
# Now the four people who were kept apart. A red title marks a wrong answer.

# %%
new_photos = photos_of(new_people)
truth = [path.parent.name for path in new_photos]
found = [faces[0] for faces in classifier.predict_many(new_photos)]

figure, axes = plt.subplots(2, 4, figsize=(7.5, 4.3), layout="constrained")
for axis, path, face, label in zip(axes.flat, new_photos, found, truth, strict=True):
    axis.imshow(Image.open(path))
    colour = "black" if face.expression == label else "#C00000"
    axis.set_title(f"{face.expression} {face.confidence:.2f}", color=colour, fontsize=10)
    axis.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("neutral")
axes[1, 0].set_ylabel("smiling")
right = sum(face.expression == label for face, label in zip(found, truth, strict=True))
print(f"{right} of {len(found)} right on new people")
plt.show()

# %% [markdown]
# Look at the wrong answers before you blame the classifier. Two people smile with closed lips, and most of the eight
# teachers smile broadly. *The examples did not show what was asked.* The remedy is more examples of that kind, not
# another method.
#
# ## 6. What the probabilities mean
#
# The classifier gives each expression a probability, and the sum is 1. It should be read as follows: of a hundred
# faces with a probability of 0.9, about ninety answers are right. The report checks this on the people who were left
# out. The *calibration error* is the average distance between the two.
#
# Two warnings:
#
# - It holds for faces **like the examples**: same kind of photos, same kind of people. One of the wrong answers above
#   has a probability of more than 0.9.
# - Every face gets one of *your* expressions, also a face that shows neither. A surprised face will be called
#   `neutral` or `smiling`, perhaps with a high probability. Add a class such as `other` if such faces will come.
#
# `min_confidence` makes the classifier say `uncertain` instead of guessing. A higher value means fewer answers, and
# as a rule a larger share of right ones:

# %%
confidence = np.array([face.confidence for face in found])
correct = np.array([face.expression == label for face, label in zip(found, truth, strict=True)])
rows = []
for limit in (0, 0.85, 0.95):
    answered = confidence >= limit
    rows.append((limit, answered.sum(), correct[answered].sum(), (~answered).sum()))
columns = ["min_confidence", "answered", "right", "uncertain"]
pd.DataFrame(rows, columns=columns).set_index("min_confidence")

# %% [markdown]
# A limit of 0.85 takes away one of the two wrong answers. The other is too sure of itself for any limit that still
# leaves most answers. A probability is the classifier's own opinion. It does not replace a test on new people.
#
# ## 7. The honest limit: how much do a few photos tell?
#
# We fit again with the first two, four, six and eight people, and look at the interval each time. The embeddings are
# computed once, since only the head changes. `fit_head` takes them directly.

# %%
from fergeneral import ExpressionFeatures
from fergeneral.heads import fit_head

encoder = classifier.extractor.encoder
embeddings = ExpressionFeatures().fit_transform(photos)
new_embeddings = ExpressionFeatures().fit_transform(new_photos)

rows = []
for count in (2, 4, 6, 8):
    chosen = np.isin(persons, teachers[:count])
    names, who = np.array(labels)[chosen], np.array(persons)[chosen]
    small, report = fit_head(embeddings[chosen], names, encoder, groups=who)
    answers = np.array(small.classes)[small.predict_proba(new_embeddings).argmax(axis=1)]
    rows.append((count, report.accuracy, *report.accuracy_interval, np.mean(answers == truth)))
columns = ["people", "leave-one-out", "low", "high", "new people"]
curve = pd.DataFrame(rows, columns=columns).set_index("people")
curve.round(2)

# %%
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
band = {"color": "#0072B2", "alpha": 0.2, "label": "95 % interval"}
axis.fill_between(curve.index, curve["low"], curve["high"], **band)
axis.plot(curve.index, curve["leave-one-out"], "o-", color="#0072B2", label="leave-one-out")
axis.plot(curve.index, curve["new people"], "s--", color="#D55E00", label="four new people")
axis.axhline(0.5, color="grey", linewidth=0.8, label="guessing")
axis.set(xlabel="people to learn from (two photos each)", ylabel="accuracy")
axis.set(ylim=(0, 1.02), xticks=curve.index)
axis.legend(fontsize=8, loc="lower right")
plt.show()

# %% [markdown]
# What to take from this:
#
# - More people make the interval narrower. With eight it is still wide: do not compare two methods by such numbers.
# - The four new people are a small test, too: each photo is worth 0.125.
# - All these photos are from one studio, and the people were *asked* to smile. Photos from elsewhere may be harder.
#   Keep some of your own apart, as we did here, and look at the answers.
# - An expression is not a feeling. Do not use this to judge people.
#
# ## Further reading
#
# - [Explore a folder](explore_folder.ipynb): find out which expressions your photos hold, before you name them.
# - [Timeline of a video](video_timeline.ipynb): use a head on a video.
# - In the documentation: [docs/classifier.md](../../docs/classifier.md) (how many examples help how much, measured),
#   [docs/unseen.md](../../docs/unseen.md) (expressions that the encoder was not trained on),
#   [docs/responsible-use.md](../../docs/responsible-use.md).
