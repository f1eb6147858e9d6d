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
# # Timeline of a video
#
# You learn here:
#
# - how to follow the faces in a video and name their expressions in each frame,
# - how to draw the expressions over time,
# - how to find the moments when an expression changes, and look at these frames,
# - how to save the result as a table.
#
# **Install.** The package is not on PyPI. In a clone of the repository, with Python 3.11 or newer:
#
# ```sh
# pip install '.[eval,video]' jupyterlab ipywidgets
# jupyter lab examples/notebooks/video_timeline.ipynb
# ```
#
# The people in these photos took part in the Face Research Lab London Set (DeBruine and Jones, 2017, [doi
# 10.6084/m9.figshare.5047666](https://doi.org/10.6084/m9.figshare.5047666), CC BY 4.0). They agreed that their photos
# are used in research and to illustrate it.

# %%
import tempfile
from pathlib import Path

import av
import matplotlib.pyplot as plt
import pandas as pd
from PIL import Image

# The folder `examples`, seen from the repository or from the folder of this notebook.
examples = Path("examples") if Path("examples/london").is_dir() else Path("..")
london = examples / "london"

# %% [markdown]
# ## 1. A clip whose answer we know
#
# A result is easier to judge when you know what should come out. So we make a clip of six seconds. Two people are
# side by side, both neutral. The person on the left begins to smile after 2 seconds, the person on the right after 4.
# Each change is a cross-fade between two photos and takes half a second. To use a video of your own, set `clip =
# Path("my_clip.mp4")` and skip this cell.

# %%
temporary = tempfile.TemporaryDirectory()  # deleted when this notebook is closed
clip = Path(temporary.name) / "clip.mp4"
rate = 12  # frames per second
people = [("030", 2.0), ("061", 4.0)]  # who, and when the smile begins
portraits = {
    (person, label): Image.open(london / label / f"{person}.jpg")
    for person, _ in people
    for label in ("neutral", "smiling")
}

with av.open(str(clip), "w") as container:
    stream = container.add_stream("mpeg4", rate=rate)
    stream.bit_rate = 4_000_000
    stream.width, stream.height, stream.pix_fmt = 800, 400, "yuv420p"
    for number in range(6 * rate):
        picture = Image.new("RGB", (800, 400))
        for place, (person, begin) in enumerate(people):
            share = min(max((number / rate - begin) / 0.5, 0), 1)  # of the smiling photo
            blended = Image.blend(portraits[person, "neutral"], portraits[person, "smiling"], share)
            picture.paste(blended, (400 * place, 0))
        container.mux(stream.encode(av.VideoFrame.from_image(picture)))
    container.mux(stream.encode())
print(f"{clip.name}: {clip.stat().st_size / 1000:.0f} kB")

# %% [markdown]
# ## 2. Faces, frame by frame
#
# `predict_video` reads the clip and gives the time and the faces of each frame. It does not load the whole video, so
# long videos work, too. `fps=6` asks for six frames per second. That is enough for expressions, which rarely last
# less than half a second, and it saves half of the embeddings. The faces themselves are followed in ten frames per
# second or more.

# %%
from fergeneral import ExpressionClassifier

classifier = ExpressionClassifier.from_pretrained()
rows = []
for time, faces in classifier.predict_video(clip, fps=6):
    for face in faces:
        row = {"time": time, "track": face.track, "expression": face.expression}
        rows.append({**row, **face.probabilities})
table = pd.DataFrame(rows)
table[["time", "track", "expression", "neutral", "happiness"]].head(6).round(2)

# %% [markdown]
# A *track* is one face that is followed from frame to frame. Each person keeps the number for as long as the face
# stays in view. Somebody who leaves and comes back gets a new number: a track does not recognise people.

# %%
tracks = table.groupby("track")["time"].agg(first="min", last="max", frames="count")
tracks.round(2)

# %% [markdown]
# Short tracks are often false: something that looked like a face in a few frames. We keep what is seen for a second
# or longer.

# %%
table = table.groupby("track").filter(lambda frames: len(frames) >= 6)
tracks = tracks.loc[table["track"].unique()]
print(len(tracks), "tracks")

# %% [markdown]
# ## 3. Expressions over time
#
# Each frame is judged alone, so the probabilities jitter in a real video. A moving mean over half a second removes
# the jitter and keeps the changes. Do not make the window longer than the changes that you look for.

# %%
expressions = list(classifier.classes)
window = 3  # frames: half a second
rolling = table.groupby("track")[expressions].rolling(window, center=True, min_periods=1)
smooth = rolling.mean().droplevel(0).sort_index()
table["smoothed"] = smooth.idxmax(axis="columns")

# %% [markdown]
# A change is a frame in which the most probable expression of a track is not the one before.

# %%
previous = table.groupby("track")["smoothed"].shift()
changes = table[previous.notna() & (table["smoothed"] != previous)].assign(before=previous)
changes[["time", "track", "before", "smoothed"]].round(2)

# %%
shown = [name for name in expressions if smooth[name].max() > 0.15]
colours = dict(zip(expressions, plt.colormaps["tab10"].colors, strict=False))
figure, axes = plt.subplots(len(tracks), 1, figsize=(9, 3.8), sharex=True, layout="constrained")
for (track, own), axis in zip(table.groupby("track"), axes, strict=True):
    for name in shown:
        axis.plot(own["time"], smooth.loc[own.index, name], color=colours[name], label=name)
    for moment in changes.loc[changes["track"] == track, "time"]:
        axis.axvline(moment, color="black", linestyle=":", linewidth=1)
        axis.text(moment + 0.3, 0.5, f"{moment:.1f} s", fontsize=9, va="center")
    axis.set(ylabel="probability", ylim=(0, 1.05))
    axis.set_title(f"track {track}", loc="left", fontsize=10)
axes[-1].set_xlabel("time in the video (seconds)")
axes[0].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
plt.show()

# %% [markdown]
# Compare with what we built into the clip: smiles that begin at 2.0 and 4.0 seconds and are complete half a second
# later. The changes should lie in between.
#
# For a quick look without any code, `fergeneral video CLIP.mp4 -o video.parquet --plot timeline.png` draws a figure
# of the same kind.
#
# ## 4. Look at the frames
#
# A curve does not tell whether it is right. Look at the frames around each change: half a second before, at the
# change, half a second after.

# %%
moments = changes[["track", "time"]].to_numpy()
wanted = [(track, time + shift) for track, time in moments for shift in (-0.5, 0, 0.5)]
frames = {}
with av.open(str(clip)) as container:
    for frame in container.decode(video=0):
        for track, moment in wanted:
            if (track, moment) not in frames and frame.time >= moment - 1e-6:
                frames[track, moment] = frame.to_image()

size = (9, 1.75 * len(changes))
figure, axes = plt.subplots(len(changes), 3, figsize=size, squeeze=False, layout="constrained")
for axis, (track, moment) in zip(axes.flat, wanted, strict=True):
    axis.imshow(frames[track, moment])
    axis.set_title(f"track {track:.0f}, {moment:.1f} s", fontsize=9)
    axis.axis("off")
plt.show()

# %% [markdown]
# A cross-fade shows two pictures at once, so the frame in the middle is no real face. Real faces move instead, but
# there, too, the frames of a change are the doubtful ones.
#
# ## 5. A table to keep
#
# For a report, stretches are more useful than frames: who showed what, from when to when.

# %%
stretch = (table["smoothed"] != previous).groupby(table["track"]).cumsum()
stretches = table.groupby(["track", stretch.rename("stretch")]).agg(
    start=("time", "min"),
    end=("time", "max"),
    expression=("smoothed", "first"),
    frames=("time", "count"),
)
stretches.round(2)

# %%
stretches.to_csv(Path(temporary.name) / "stretches.csv")  # write "stretches.csv" to keep it

# %% [markdown]
# What not to conclude:
#
# - Frames of one video are not independent. Thirty frames of one smile are one observation, not thirty.
# - The expressions are those of the packaged classifier. For others, teach a head and give it as
#   `ExpressionClassifier.from_pretrained("my-head")`.
# - The timeline shows how faces look, not what people feel. Read
#   [docs/responsible-use.md](../../docs/responsible-use.md) before you use it on people.
#
# ## Further reading
#
# - [Teach an expression](teach_expression.ipynb): a head for the expressions that matter in your videos.
# - [Explore a folder](explore_folder.ipynb): maps and clusters, which work for the faces of a video as well.
# - In the documentation: [docs/videos.md](../../docs/videos.md) (tracks, frame rates, damaged files),
#   [docs/tables.md](../../docs/tables.md) (every column).
