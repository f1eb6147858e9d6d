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
# # Explore a folder of photos
#
# You have a folder of photos and no labels. What is in it? You learn here:
#
# - how to turn a folder into a table of faces with embeddings,
# - how to find near duplicates, and why that comes first,
# - how to draw a map of the faces and to group them,
# - how to find the odd ones out, and the faces that are most like a given one.
#
# **Install.** The package is not on PyPI. In a clone of the repository, with Python 3.11 or newer:
#
# ```sh
# pip install '.[eval,parquet]' jupyterlab ipywidgets
# jupyter lab examples/notebooks/explore_folder.ipynb
# ```
#
# The people in these photos took part in the Face Research Lab London Set (DeBruine and Jones, 2017, [doi
# 10.6084/m9.figshare.5047666](https://doi.org/10.6084/m9.figshare.5047666), CC BY 4.0). They agreed that their photos
# are used in research and to illustrate it. The astronaut (NASA) is in the public domain.

# %%
import shutil
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image, ImageDraw

# The folder `examples`, seen from the repository or from the folder of this notebook.
examples = Path("examples") if Path("examples/london").is_dir() else Path("..")

# %% [markdown]
# ## 1. A folder as you may find it
#
# Real folders are untidy. We make one that is: 24 portraits of twelve people; photos without a face; two copies of
# portraits, one smaller and one cropped; a collage; and a portrait behind a face mask, which we draw. To explore your
# own photos, set `folder = Path("my_photos")` and skip this cell.

# %%
temporary = tempfile.TemporaryDirectory()  # deleted when this notebook is closed
work = Path(temporary.name)
folder = work / "photos"
folder.mkdir()
for path in examples.glob("london/*/*.jpg"):
    shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
for path in (examples / "photos").iterdir():
    shutil.copy(path, folder)
Image.open(folder / "smiling-061.jpg").resize((240, 240)).save(folder / "smaller.jpg", quality=60)
cropped = Image.open(folder / "neutral-025.jpg").crop((20, 20, 380, 390))
cropped.save(folder / "cropped.jpg", quality=70)
masked = Image.open(folder / "astronaut.png").convert("RGB")
mask = [(180, 128), (226, 123), (268, 128), (258, 163), (226, 181), (190, 163)]
ImageDraw.Draw(masked).polygon(mask, fill=(150, 190, 215))
masked.save(folder / "masked.jpg")
print(len(list(folder.iterdir())), "photos")

# %% [markdown]
# ## 2. From the folder to a table
#
# `run_job` reads every photo once and writes one row per face to Parquet files. Why files? Reading the photos is the
# slow part. With the table you can come back tomorrow without it. A job that was interrupted continues with
# `resume=True`. On the command line the same is `fergeneral extract my_photos/ -o out/`.

# %%
from fergeneral import ExpressionExtractor
from fergeneral.jobs import run_job
from fergeneral.sources import list_photos

extractor = ExpressionExtractor.from_pretrained()
out = work / "out"
run_job(extractor, list_photos(folder), out)

# %% [markdown]
# Any tool that reads Parquet reads the result. With pandas:

# %%
table = pd.read_parquet(out / "faces")
table["photo"] = [Path(path).name for path in table["path"]]
table[["photo", "face", "score", "embedding"]].head()

# %%
files = pd.read_parquet(out / "files")
without = files["path"][files["status"] == "none"]
print("no face was found in:", *[Path(path).name for path in without])

# %% [markdown]
# For all that follows we need the embeddings as one array, scaled to length 1. Then a product of two rows is their
# similarity: 1 for the same direction. The distance is 1 minus the similarity.

# %%
embeddings = np.stack(table["embedding"])
embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
similarity = embeddings @ embeddings.T
embeddings.shape

# %% [markdown]
# ## 3. Near duplicates first
#
# Copies spoil what comes later. A face with a copy always has a very near neighbour, so it never looks odd. And ten
# copies of one photo make a cluster that says nothing. So look at the most similar pairs:

# %%
first, second = np.triu_indices(len(table), k=1)
order = np.argsort(-similarity[first, second])[:10]
name = table["photo"] + ", face " + table["face"].astype(str)
pairs = pd.DataFrame(
    {
        "one": name[first[order]].to_numpy(),
        "other": name[second[order]].to_numpy(),
        "similarity": similarity[first, second][order],
    }
)
pairs.round(3)

# %% [markdown]
# There is a gap: the copies are above 0.99, the next pair is below 0.97 and shows two different people. So we cut in
# between, at 0.98. The right place depends on your photos. Read the list and look at some pairs before you decide.
#
# Of each group of copies we keep the first.

# %%
kept = []
for row in range(len(table)):
    if all(similarity[row, other] < 0.98 for other in kept):
        kept.append(row)
faces = table.iloc[kept].reset_index(drop=True)
vectors = embeddings[kept]
print(f"{len(table)} faces, {len(faces)} without the copies")

# %% [markdown]
# ## 4. A map
#
# 512 numbers cannot be drawn. PCA finds the two directions in which the faces differ most. Faces that are far apart
# on the map differ. Faces that are close together may differ, too, since two dimensions keep only a part of the
# differences. The share is printed below. (With thousands of faces, t-SNE of scikit-learn or the package `umap-learn`
# separate groups better. Their distances between groups mean little.)

# %%
from sklearn.decomposition import PCA

pca = PCA(2).fit(vectors)
x, y = pca.transform(vectors).T
print(f"the map keeps {pca.explained_variance_ratio_.sum():.0%} of the variance")

places = zip(faces["path"], faces["landmarks"], strict=True)
crops = [extractor.align(path, points.reshape(5, 2)) for path, points in places]


def draw_map(axis, frames):
    for place_x, place_y, crop, colour in zip(x, y, crops, frames, strict=True):
        picture = OffsetImage(crop, zoom=34 / len(crop))
        frame = {"facecolor": colour, "linewidth": 0}
        axis.add_artist(AnnotationBbox(picture, (place_x, place_y), pad=0.12, bboxprops=frame))
    axis.set(xlabel="first component", ylabel="second component")
    axis.margins(0.1)
    axis.update_datalim(np.column_stack([x, y]))
    axis.autoscale_view()


figure, axis = plt.subplots(figsize=(9, 6), layout="constrained")
draw_map(axis, ["#DDDDDD"] * len(faces))
plt.show()

# %% [markdown]
# Read the map from left to right: what changes? Nobody told the program about smiles, and yet they lie on one side.
#
# ## 5. Clusters
#
# K-means divides the faces into as many groups as you ask for, each around its mean. We ask for two. Two is a choice,
# not a finding: try three. (`HDBSCAN`, also in scikit-learn, chooses the number itself, but it needs many more faces
# than these.)

# %%
from sklearn.cluster import KMeans

clusters = KMeans(2, n_init=10, random_state=0).fit(vectors)
faces["cluster"] = clusters.labels_

figure, axis = plt.subplots(figsize=(9, 6), layout="constrained")
draw_map(axis, np.array(["#0072B2", "#E69F00"])[clusters.labels_])
plt.show()

# %% [markdown]
# What is a cluster about? Its number does not say. Look at its faces. `find_similar` sorts all faces of the job by
# their similarity to an embedding: here to the centre of a cluster. `contact_sheet` puts faces side by side, with the
# similarity below each. The most typical face comes first.

# %%
from IPython.display import display

from fergeneral.similar import contact_sheet, find_similar

for cluster, centre in enumerate(clusters.cluster_centers_):
    own = faces[faces["cluster"] == cluster]
    members = set(zip(own["path"], own["face"], strict=True))
    nearest = find_similar(centre, out, k=len(table))
    ranked = [found for found in nearest if (found.path, found.number) in members]
    print(f"cluster {cluster}: {len(ranked)} faces")
    display(contact_sheet(ranked, tile=90))

# %% [markdown]
# One cluster holds the smiles. The face behind the mask was put there, too, since every face is put into some
# cluster. The other cluster holds the neutral faces, and among them three people who were asked to smile and do so
# faintly. The border between "smiling" and "not smiling" is not sharp, and a cluster does not make it so.
#
# ## 6. Odd ones out
#
# A face is odd when even its nearest neighbour is far away. That is one line:

# %%
to_others = 1 - vectors @ vectors.T
np.fill_diagonal(to_others, np.inf)
faces["distance"] = to_others.min(axis=1)
odd = faces.sort_values("distance", ascending=False)
odd[["photo", "distance"]].head(5).round(3)

# %%
figure, axes = plt.subplots(1, 5, figsize=(9, 2.2), layout="constrained")
for axis, row in zip(axes, odd.index[:5], strict=True):
    axis.imshow(crops[row])
    axis.set_title(f"{faces['photo'][row]}\n{faces['distance'][row]:.2f}", fontsize=9)
    axis.axis("off")
plt.show()

# %% [markdown]
# The first two stand apart from the rest, for two different reasons:
#
# - One person looks stern. Nobody else in the folder does: a **rare expression**.
# - One face is hidden behind a mask: a **bad photo**. The detector is sure that it is a face, and it is right.
#
# An outlier is a question, not an error. Look before you delete: a rare expression may be what you are searching for.
#
# And notice who is *not* odd: the astronaut without the mask. She is another person, in another light, by another
# camera. But she smiles as others do, and the embedding is about the expression.
#
# ## 7. Faces like this one
#
# A query can be a photo, a face or an embedding. The table is searched as it is, with no index to build. A photo that
# is in the table finds itself first, with similarity 1, so we drop it. The copy from section 1 is still in the table:
# one face appears twice.

# %%
query = folder / "smiling-002.jpg"
face = extractor.extract(query)[0]
neighbours = [found for found in find_similar(face, out, k=8) if Path(found.path) != query]
contact_sheet(neighbours, query=(query, face), tile=90)

# %% [markdown]
# Use the similarity to put faces in order. No value of it means "the same expression", and it is no test of whether
# two photos show the same person.
#
# ## Further reading
#
# - [Teach an expression](teach_expression.ipynb): make a classifier for what you found here.
# - [Timeline of a video](video_timeline.ipynb): the same for a video.
# - In the documentation: [docs/jobs.md](../../docs/jobs.md) (millions of photos),
#   [docs/tables.md](../../docs/tables.md) (every column), [docs/similar.md](../../docs/similar.md) (DuckDB, vector
#   databases), [docs/privacy.md](../../docs/privacy.md) (what an embedding gives away).
