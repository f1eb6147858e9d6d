from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances
from torch import nn
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from fergeneral import DataError, ExpressionExtractor, ModelError, TrainingError
from fergeneral.datasets import EXPRESSIONS
from fergeneral.encoder import EncoderConfig, build_network
from fergeneral.hub import save_folder
from fergeneral.train import loop
from fergeneral.train.__main__ import main
from fergeneral.train.augment import ViewParameters, draw_parameters, make_views
from fergeneral.train.config import RECIPES, Recipe, Stage, change_recipe, find_recipe
from fergeneral.train.data import TrainingSet, load_training_set
from fergeneral.train.depthwise import compute_depthwise_gradients_in_float32
from fergeneral.train.distributed import Processes, gather
from fergeneral.train.narrow import principal_subspace

TINY = Recipe(
    "tiny",
    datasets=("faces",),
    stages=(Stage(32, 0.5), Stage(40, 0.5)),
    crop_size=40,
    epochs=6,
    batch_size=16,
    learning_rate=0.01,
    fine_weight=1.0,
    bf16=False,
)


def images(count: int = 12, size: int = 40, cut_out: int = 0) -> TrainingSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 4, size, size), generator=generator, dtype=torch.uint8)
    pixels[:, 3] = 255
    pixels[:cut_out, 3, :, : size // 2] = 0
    fine = torch.arange(count) % 7
    target = nn.functional.one_hot(fine, 8).float()
    names = tuple(map(str, range(count)))
    return TrainingSet(
        pixels, fine, fine % 4, target, torch.ones(count), torch.arange(cut_out), torch.arange(count), names
    )


def parameters(count: int, **changes: object) -> ViewParameters:
    """Views that change nothing, but for `changes`."""
    no = torch.zeros(count, dtype=torch.bool)
    neutral: dict = {
        "index": torch.arange(count),
        "box": torch.tensor([[0.0, 0, 1, 1]]).repeat(count, 1),
        "flip": no,
        "grey": no,
        "jittered": no,
        "factors": torch.tensor([[1.0, 1, 1, 0]]).repeat(count, 1),
        "outline": torch.full((count,), -1),
        "fill": torch.full((count,), -1),
        "colour": torch.zeros(count, 3),
        "angle": torch.zeros(count),
        "shrunk": no,
        "erased": torch.zeros(count, 4),
        "order": (0, 1, 2, 3),
        "low_resolution": 16,
    }
    return ViewParameters(**{**neutral, **changes})


def test_views_that_change_nothing() -> None:
    data = images()
    assert make_views(data, parameters(12), 40) == pytest.approx(data.pixels[:, :3].numpy() / 255, abs=1e-5)


def test_flip_and_crop_against_torchvision() -> None:
    data = images(3, 64)
    expected = [reference.hflip(one[:3]) for one in data.pixels]
    flipped = make_views(data, parameters(3, flip=torch.ones(3, dtype=torch.bool)), 64)
    assert flipped == pytest.approx(torch.stack(expected).numpy() / 255, abs=1e-5)
    box = torch.tensor([[0.25, 0.125, 0.5, 0.75]]).repeat(3, 1)  # 32 x 48 pixels from (16, 8)
    cropped = make_views(data, parameters(3, box=box), 64)
    smooth = [reference.resized_crop(one[:3].float(), 8, 16, 48, 32, [64, 64], antialias=False) for one in data.pixels]
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))  # a crop's edge sees what lies beyond it
    assert cropped[inner] == pytest.approx(torch.stack(smooth)[inner].numpy() / 255, abs=2e-5)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_jitter_against_torchvision_image_by_image(order: tuple[int, ...]) -> None:
    data = images(6)
    generator = torch.Generator().manual_seed(1)
    factors = torch.rand(6, 4, generator=generator) * torch.tensor([0.8, 0.8, 0.8, 0.2]) + torch.tensor(
        [0.6, 0.6, 0.6, -0.1]
    )
    steps = [reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation, reference.adjust_hue]
    views = make_views(data, parameters(6, jittered=torch.ones(6, dtype=torch.bool), factors=factors, order=order), 40)
    for i in range(6):
        expected = data.pixels[i, :3].float() / 255
        for k in order:
            expected = steps[k](expected, float(factors[i, k]))
        assert views[i] == pytest.approx(expected.numpy(), abs=2e-4)


def test_grey_against_torchvision() -> None:
    data = images(4)
    views = make_views(data, parameters(4, grey=torch.tensor([True, False, True, False])), 40)
    expected = reference.rgb_to_grayscale(data.pixels[:, :3].float() / 255, num_output_channels=3)
    assert views[::2] == pytest.approx(expected[::2].numpy(), abs=1e-4)
    assert views[1::2] == pytest.approx(data.pixels[1::2, :3].numpy() / 255, abs=1e-5)


def test_the_boxes_follow_torchvisions_law() -> None:
    recipe = RECIPES["crs-cont-paper"]
    boxes = draw_parameters(
        torch.zeros(20_000, dtype=torch.long), images(), recipe, torch.Generator().manual_seed(0)
    ).box
    torch.manual_seed(0)
    image = torch.zeros(3, 1000, 1000)
    theirs = [RandomResizedCrop.get_params(image, [0.5, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    expected = torch.tensor([[left, top, width, height] for top, left, height, width in theirs]) / 1000
    assert (boxes[:, :2] + boxes[:, 2:] <= 1 + 1e-6).all()
    assert boxes.mean(dim=0) == pytest.approx(expected.mean(dim=0).numpy(), abs=0.01)
    assert boxes.std(dim=0) == pytest.approx(expected.std(dim=0).numpy(), abs=0.01)


def test_turning_against_torchvision() -> None:
    data = images(3, 64)
    turned = make_views(data, parameters(3, angle=torch.full((3,), np.deg2rad(12.0))), 64)
    # The box turns clockwise, so what is seen in it turns the other way, which is torchvision's positive direction.
    expected = [
        reference.rotate(one[:3].float(), 12.0, interpolation=reference.InterpolationMode.BILINEAR)
        for one in data.pixels
    ]
    inner = (slice(None), slice(None), slice(14, -14), slice(14, -14))  # torchvision fills the corners with black
    assert turned[inner] == pytest.approx(torch.stack(expected)[inner].numpy() / 255, abs=1e-4)


def test_boxes_around_the_image_repeat_its_edge() -> None:
    data = images(2, 32)
    box = torch.tensor([[-0.25, -0.25, 1.5, 1.5]]).repeat(2, 1)  # 48 pixels a side: the image with 8 around it
    views = make_views(data, parameters(2, box=box), 48)
    expected = nn.functional.pad(data.pixels[:, :3].float() / 255, (8, 8, 8, 8), mode="replicate")
    assert views == pytest.approx(expected.numpy(), abs=1e-5)


def test_large_boxes_follow_their_law() -> None:
    recipe = dataclasses.replace(TINY, crop_scale=(0.5, 1.44))
    boxes = draw_parameters(
        torch.zeros(20_000, dtype=torch.long), images(), recipe, torch.Generator().manual_seed(0)
    ).box
    assert boxes[:, 2:].max() <= 1.2 + 1e-6
    area = boxes[:, 2:].prod(dim=1)
    assert 0.5 - 1e-5 <= area.min() < 0.51
    assert 1.3 < area.max() <= 1.44 + 1e-5
    for start, size in (boxes[:, [0, 2]].T, boxes[:, [1, 3]].T):
        inside = size <= 1
        assert (start[inside] >= -1e-6).all()
        assert (start + size)[inside].max() <= 1 + 1e-6
        assert (start[~inside] <= 1e-6).all()  # the whole image lies in a box that is larger than it
        assert (start + size)[~inside].min() >= 1 - 1e-6


def test_low_resolution_against_torchvision() -> None:
    data = images(4, 64)
    chosen = torch.tensor([True, False, True, False])
    views = make_views(data, parameters(4, shrunk=chosen, low_resolution=24), 64)
    small = reference.resize(data.pixels[:, :3].float() / 255, [24, 24], antialias=True)
    expected = reference.resize(small, [64, 64], antialias=False)
    assert views[::2] == pytest.approx(expected[::2].numpy(), abs=1e-4)
    assert views[1::2] == pytest.approx(data.pixels[1::2, :3].numpy() / 255, abs=1e-5)
    unchanged = make_views(data, parameters(4, shrunk=chosen, low_resolution=64), 64)
    assert unchanged == pytest.approx(data.pixels[:, :3].numpy() / 255, abs=1e-5)


def test_erasing_a_rectangle() -> None:
    data = images(2)
    erased = torch.tensor([[0.25, 0.5, 0.5, 0.25], [0.3, 0.3, 0.0, 0.0]])  # of 40 pixels; nothing in the second
    colour = torch.tensor([[1.0, 0.0, 0.5]]).repeat(2, 1)
    views = make_views(data, parameters(2, erased=erased, colour=colour), 40)
    expected = data.pixels[:, :3].float() / 255
    expected[0, :, 20:30, 10:30] = colour[0].view(3, 1, 1)
    assert views == pytest.approx(expected.numpy(), abs=1e-5)
    drawn = draw_parameters(
        torch.zeros(20_000, dtype=torch.long),
        images(),
        dataclasses.replace(TINY, erase_probability=0.3),
        torch.Generator().manual_seed(0),
    ).erased
    shown = drawn[drawn[:, 2] > 0]
    assert len(shown) / len(drawn) == pytest.approx(0.3, abs=0.02)
    assert (shown[:, :2] + shown[:, 2:] <= 1 + 1e-6).all()
    assert shown[:, 2:].mean() == pytest.approx(0.3, abs=0.01)  # of sides drawn from 0.1 to 0.5


def test_backgrounds_do_not_tell_the_set() -> None:
    """What lies outside a cut-out face is filled, and any image can be cut to such an outline."""
    data = images(6, cut_out=2)
    colour = torch.tensor([[0.25, 0.5, 0.75]]).repeat(6, 1)
    left, right = (slice(None), slice(0, 19)), (slice(None), slice(21, 40))
    plain = make_views(data, parameters(6, colour=colour), 40)
    assert plain[0][:, *left] == pytest.approx(colour[0].view(3, 1, 1).expand(3, 40, 19).numpy(), abs=1e-5)
    assert plain[5] == pytest.approx(data.pixels[5, :3].numpy() / 255, abs=1e-5)
    cut = make_views(data, parameters(6, outline=torch.zeros(6, dtype=torch.long), fill=torch.full((6,), 3)), 40)
    assert cut[5][:, *left] == pytest.approx(data.pixels[3, :3][:, *left].numpy() / 255, abs=1e-5)
    assert cut[5][:, *right] == pytest.approx(data.pixels[5, :3][:, *right].numpy() / 255, abs=1e-5)


def test_votes_are_the_target_and_sets_are_repeated(tmp_path: Path, faces_folder: Path) -> None:
    folder = tmp_path / "votes"
    (folder / "FER2013Train").mkdir(parents=True)
    Image.new("L", (48, 48), 128).save(folder / "FER2013Train" / "fer0.png")
    header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    (folder / "fer2013new.csv").write_text(f"{header}\nTraining,fer0.png,6,0,0,3,0,0,1,0,0,0\n")
    recipe = dataclasses.replace(TINY, datasets=("faces", "votes"), repeats=(1, 3))
    loaded = load_training_set(tmp_path, recipe, show_progress=False)
    assert loaded.target[-1].tolist() == pytest.approx([6 / 9, 0, 0, 3 / 9, 0, 0, 0, 0])  # a single vote is dropped
    assert loaded.target[:-1].sum(dim=1).tolist() == [1.0] * 64
    assert loaded.target[:-1].argmax(dim=1).tolist() == loaded.fine[:-1].tolist()
    assert loaded.pool.tolist() == [*range(64), 64, 64, 64]
    with pytest.raises(DataError, match="repeats"):
        load_training_set(tmp_path, dataclasses.replace(recipe, repeats=(1,)), show_progress=False)


def test_rare_expressions_are_repeated_and_doubted_labels_weigh_less(tmp_path: Path, faces_folder: Path) -> None:
    rows = "path,second_label\ntrain/sadness/3.png,happy\ntrain/sadness/4.png,sad\ntrain/neutral/0.png,\n"
    (faces_folder / "second_labels.csv").write_text(rows)
    times = tuple(3 if name == "sadness" else 1 for name in EXPRESSIONS)
    recipe = dataclasses.replace(TINY, expression_repeats=times)
    loaded = load_training_set(faces_folder.parent, recipe, show_progress=False)
    drawn, weights = loaded.pool.bincount().tolist(), loaded.weight.tolist()
    for row, name in enumerate(loaded.names):
        assert drawn[row] == (3 if EXPRESSIONS[loaded.fine[row]] == "sadness" else 1)
        assert weights[row] == (0.5 if name == "faces/train/sadness/3.png" else 1.0)
    with pytest.raises(DataError, match="repeats for 2 of 8 expressions"):
        load_training_set(tmp_path, dataclasses.replace(recipe, expression_repeats=(1, 2)), show_progress=False)


def test_a_weight_scales_its_images_share_of_the_fine_term() -> None:
    run = trainer(TINY)
    index, logits = torch.arange(16), torch.randn(16, 2, 8)
    weight = torch.ones(64)
    weight[:8] = 0.5
    run.images = dataclasses.replace(run.images, weight=weight)
    flat = nn.functional.normalize(torch.randn(16, 2, 128), dim=2)
    term = run._terms(loop.Outputs(flat, torch.randn(16, 2, 4), logits), index, 1.0)["fine"]
    each = -(run.images.target[:16, None] * logits.log_softmax(dim=2)).sum(dim=2).mean(dim=1)
    assert term.item() == pytest.approx(((each[:8].sum() / 2 + each[8:].sum()) / 12).item(), rel=1e-5)


def test_the_fine_term_against_its_formula() -> None:
    run = trainer(dataclasses.replace(TINY, label_smoothing=0.1))
    run.images = dataclasses.replace(run.images, target=torch.rand(64, 8).softmax(dim=1))
    logits = torch.randn(16, 2, 8)
    index = torch.arange(16)
    flat = nn.functional.normalize(torch.randn(16, 2, 128), dim=2)
    terms = run._terms(loop.Outputs(flat, torch.randn(16, 2, 4), logits), index, 1.0)
    smooth = 0.9 * run.images.target[:16, None].double() + 0.1 / 8
    expected = -(smooth * logits.double().log_softmax(dim=2)).sum(dim=2).mean()
    assert terms["fine"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_run_starts_from_given_weights(random_folder: Path) -> None:
    run = trainer(dataclasses.replace(TINY, start_from=str(random_folder)))
    given = ExpressionExtractor.from_pretrained(random_folder, device="cpu").encoder.state_dict()
    for name, value in run._network.encoder.state_dict().items():
        assert torch.equal(value, given[name]), name


LITE0 = dataclasses.replace(TINY, architecture="efficientnet_lite0", batch_size=8)


def test_a_run_starts_from_a_file_of_weights(random_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    given = build_network("efficientnet_lite0").state_dict()
    path = tmp_path / "start.safetensors"
    save_file({**given, "classifier.weight": torch.zeros(1000, 1280)}, path)  # with a classifier, as from timm
    run = trainer(dataclasses.replace(LITE0, start_from=str(path)))
    for name, value in run._network.encoder.state_dict().items():
        assert torch.equal(value, given[name]), name
    with pytest.raises(TrainingError, match=r"does not hold the recipe's architecture.*conv_stem\.weight, "):
        trainer(dataclasses.replace(LITE0, start_from=str(random_folder)))
    path.write_bytes(path.read_bytes()[:1000])
    for name in (str(path), str(tmp_path / "nowhere.safetensors")):
        with pytest.raises(DataError, match="which the recipe starts from, cannot be read"):
            trainer(dataclasses.replace(LITE0, start_from=name))


def test_frozen_modules_stay_as_they_start_and_the_rest_learns() -> None:
    run = trainer(dataclasses.replace(LITE0, frozen=("conv_stem", "bn1", "blocks.0"), average_decay=0.5))
    before = {name: value.clone() for name, value in run._network.encoder.state_dict().items()}
    run.step()
    assert run.run.average is not None
    for after in (run._network.encoder.state_dict(), run.run.average.module.state_dict()):
        for name, value in after.items():
            same = name.startswith(("conv_stem", "bn1", "blocks.0"))
            assert torch.equal(value, before[name]) == same, name


def test_depthwise_gradients_in_float32_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    for size, stride, channels in ((3, 1, 8), (3, 2, 16), (5, 1, 8), (5, 2, 24)):
        plain = nn.Conv2d(channels, channels, size, stride, size // 2, groups=channels, bias=size == 3)
        ours = copy.deepcopy(plain)
        compute_depthwise_gradients_in_float32(nn.Sequential(ours))
        x = torch.randn(4, channels, 14, 14).bfloat16().float()
        of_x = {}
        for layer in (plain, ours):
            of_x[layer] = x.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=layer is ours):
                y = layer(of_x[layer])
            assert y.dtype == (torch.bfloat16 if layer is ours else torch.float32)
            (y.float() * torch.linspace(-1, 2, y.shape[-1])).sum().backward()
        pairs = [(of_x[plain].grad, of_x[ours].grad), (plain.weight.grad, ours.weight.grad)]
        if plain.bias is not None:
            pairs.append((plain.bias.grad, ours.bias.grad))
        for wanted, found in pairs:
            assert (wanted - found).abs().max() < 0.02 * wanted.abs().max()  # what rounds is bfloat16
        assert ours.state_dict().keys() == plain.state_dict().keys()


def test_other_convolutions_are_left_alone() -> None:
    """Their gradients would be wrong, or fail: of several outputs a channel, padded by name or not with zeros."""
    several, by_name = nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(4, 4, 3, padding="same", groups=4)
    mirrored = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4)
    network = nn.ModuleList([several, by_name, mirrored, nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2)])
    compute_depthwise_gradients_in_float32(network)
    assert all(type(module) is nn.Conv2d for module in network)


def test_a_narrow_encoder_keeps_what_varies() -> None:
    """Against scikit-learn's PCA: the same distances, and no output that hardly varies."""
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(6, 40)) * np.array([9, 5, 3, 2, 1, 0.5])[:, None]
    features = (generator.normal(size=(300, 6)) @ mixing + 3).astype(np.float32)
    weight, bias, share = principal_subspace(torch.from_numpy(features), 4)
    found = features @ weight.numpy().T + bias.numpy()
    pca = PCA(4).fit(features)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-5)
    assert found.mean(axis=0) == pytest.approx(0, abs=1e-3)
    assert pairwise_distances(found) == pytest.approx(pairwise_distances(pca.transform(features)), rel=1e-3, abs=1e-3)
    spread = found.std(axis=0)
    assert spread.max() / spread.min() < pca.explained_variance_[0] ** 0.5 / pca.explained_variance_[-1] ** 0.5


def test_a_recipe_may_write_narrow_embeddings_and_the_next_one_goes_on(tmp_path: Path) -> None:
    run = trainer(dataclasses.replace(LITE0, embedding_size=12), tmp_path)
    run.step()
    run.write_encoder()
    extractor = ExpressionExtractor.from_pretrained(tmp_path, device="cpu")
    assert extractor.config.embedding_size == 12
    embeddings = extractor.encode(run.images.pixels[:, :3].permute(0, 2, 3, 1).numpy())
    assert embeddings.shape == (64, 12)
    assert embeddings.std(axis=0).min() > 0
    trunk = run._network.encoder.state_dict()
    following = trainer(dataclasses.replace(LITE0, start_from=str(tmp_path)))._network.encoder.state_dict()
    assert following.keys() == trunk.keys()
    for name, value in following.items():
        assert torch.allclose(value.float(), trunk[name].float(), rtol=1e-3, atol=1e-6), name  # fp16


def test_the_record_lists_the_runs_before(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    starts = ["", *map(str, folders)]
    for folder, start in zip(folders, starts, strict=False):
        trainer(dataclasses.replace(TINY, name=folder.name, start_from=start), folder).write_encoder()
    history = json.loads((folders[2] / "training.json").read_text())["history"]
    assert [(run["name"], run["started_from"]) for run in history] == [("a", None), ("b", starts[1])]
    for run, folder in zip(history, folders, strict=False):
        assert run["weights_sha256"] == ExpressionExtractor.from_pretrained(folder).config.weights_sha256
    packaged = trainer(dataclasses.replace(TINY, start_from="general-r18-cycle")).record()["history"]
    assert [run["name"] for run in packaged] == ["crs-cont-cpu", "general-r18-cpu", "general-r18-cycle"]


def test_the_average_is_what_is_written(tmp_path: Path) -> None:
    run = trainer(dataclasses.replace(TINY, average_decay=0.5), tmp_path)
    history = []
    for _ in range(3):
        run.step()
        history.append(run._network.encoder.conv1.weight.detach().clone())
    expected = 0.5 * (0.5 * history[0] + 0.5 * history[1]) + 0.5 * history[2]
    run.run.save(tmp_path / "checkpoint.safetensors")
    again = trainer(dataclasses.replace(TINY, average_decay=0.5), tmp_path)
    again.run.load(tmp_path / "checkpoint.safetensors")
    again.write_encoder()
    written = load_file(tmp_path / "model.safetensors")["conv1.weight"].float()
    assert written.numpy() == pytest.approx(expected.numpy(), abs=1e-4)  # fp16
    record = json.loads((tmp_path / "training.json").read_text())
    assert (record["steps"], record["images_drawn"], record["recipe"]["name"]) == (3, 48, "tiny")


def trainer(recipe: Recipe = TINY, folder: Path = Path("/nowhere")) -> loop.Trainer:
    return loop.Trainer(recipe, images(64), folder, Processes("cpu"))


def test_a_resumed_run_is_the_uninterrupted_run(tmp_path: Path) -> None:
    for optimizer in ("sgd", "adamw"):
        recipe = dataclasses.replace(TINY, optimizer=optimizer, epochs=2)  # 8 steps, the second stage from the fourth
        whole = trainer(recipe)
        expected = [whole.step()["total"].item() for _ in range(8)]
        first, second = trainer(recipe), trainer(recipe)
        losses = [first.step()["total"].item() for _ in range(3)]
        first.run.save(tmp_path / "checkpoint.safetensors")
        second.run.load(tmp_path / "checkpoint.safetensors")
        losses += [second.step()["total"].item() for _ in range(5)]
        assert losses == expected
        assert second.stage_pixels == 40  # both stages were seen


def test_training_learns_and_writes_what_from_pretrained_reads(faces_folder: Path, tmp_path: Path) -> None:
    easy = {"jitter_probability": 0.0, "grey_probability": 0.0, "crop_scale": (0.8, 1.0), "crop_ratio": (1.0, 1.0)}
    recipe = dataclasses.replace(
        TINY, epochs=20, optimizer="adamw", learning_rate=1e-3, schedule="cosine", objective_ramp=(0.3, 0.6), **easy
    )
    out = loop.train(recipe, faces_folder.parent, tmp_path / "out", device="cpu", show_progress=False)
    assert out == tmp_path / "out"
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert log[-1]["fine"] < 0.5 * np.log(4)  # chance: four classes
    assert log[-1]["cross_entropy"] < 0.9 * np.log(4)
    assert log[-1]["spread"] > 0.1  # not collapsed
    assert list((out / "tensorboard").iterdir())
    extractor = ExpressionExtractor.from_pretrained(out, device="cpu")
    assert extractor.config.crop_size == 40
    assert extractor.config.model_id == "tiny"
    assert extractor.encode([np.zeros((40, 40, 3), dtype=np.uint8)]).shape == (1, 512)
    with pytest.raises(TrainingError, match="add --resume"):
        loop.train(recipe, faces_folder.parent, out, device="cpu", show_progress=False)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_from_data_to_embeddings(
    name: str, faces_folder: Path, random_folder: Path, tmp_path: Path
) -> None:
    """Each as it stands but for the size of images, batch and schedule, and where it starts from."""
    recipe = RECIPES[name]
    start = str(random_folder)
    if recipe.architecture != "resnet18":
        start = str(tmp_path / "start.safetensors")
        save_file(build_network(recipe.architecture).state_dict(), start)
    data = tmp_path / "data"
    data.mkdir()
    for folder in recipe.datasets:
        (data / folder).symlink_to(faces_folder)
    small = dataclasses.replace(
        recipe,
        stages=tuple(dataclasses.replace(stage, pixels=32) for stage in recipe.stages),
        crop_size=32,
        epochs=1,
        batch_size=32,
        start_from=start if recipe.start_from else "",
    )
    out = loop.train(small, data, tmp_path / "out", device="cpu", show_progress=False)
    assert out is not None
    record = json.loads((out / "training.json").read_text())
    assert record["images"] == {"faces": 64 * len(recipe.datasets)}
    assert set(record["list_sha256"]) == {"faces"}
    extractor = ExpressionExtractor.from_pretrained(out, device="cpu")
    assert extractor.config.model_id == name
    assert extractor.config.weights_sha256 == record["weights_sha256"]
    assert extractor.config.training_data == tuple(f"{folder} (train)" for folder in recipe.datasets)
    assert np.isfinite(extractor.encode([np.zeros((32, 32, 3), dtype=np.uint8)])).all()


def test_a_stopped_run_goes_on(faces_folder: Path, tmp_path: Path) -> None:
    def run(out: str, **options: object) -> Path | None:
        return loop.train(TINY, faces_folder.parent, tmp_path / out, device="cpu", show_progress=False, **options)  # type: ignore[arg-type]

    assert run("a", stop_after=1e-9) is None
    assert run("a", resume=True) is not None
    assert run("b") is not None
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in "ab"]
    assert weights[0] == weights[1]


def test_minutes_fit_the_schedule(faces_folder: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, epochs=10_000)
    started = time.monotonic()
    assert loop.train(recipe, faces_folder.parent, tmp_path / "out", device="cpu", minutes=0.1, show_progress=False)
    assert time.monotonic() - started < 60
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert {row["pixels"] for row in log} <= {32, 40}


def test_a_collapsed_run_is_stopped() -> None:
    run = trainer()
    for _ in range(4):
        run._give_up_if_collapsed({"total": 5.0, "spread": 0.0}, 0.5)
    with pytest.raises(TrainingError, match="collapsed"):
        run._give_up_if_collapsed({"total": 5.0, "spread": 0.0}, 0.5)
    with pytest.raises(TrainingError, match="loss is nan"):
        run._give_up_if_collapsed({"total": float("nan"), "spread": 1.0}, 0.5)


@pytest.mark.parametrize("objective", ["simclr", "supcon"])
def test_the_baselines_train(objective: str) -> None:
    run = trainer(dataclasses.replace(TINY, objective=objective, fine_weight=0.0))
    losses = [run.step()["total"].item() for _ in range(3)]
    assert np.isfinite(losses).all()


def test_the_schedules() -> None:
    run = trainer(dataclasses.replace(TINY, learning_rate=0.5, warmup_epochs=0))
    assert [run.learning_rate(p) for p in (0, 0.19, 0.2, 0.45, 0.99)] == [0.5, 0.5, 0.25, 0.125, 0.03125]
    run = trainer(dataclasses.replace(TINY, learning_rate=1.0, warmup_epochs=2, schedule="cosine"))
    assert run.learning_rate(0.0) == pytest.approx(1 / 8)  # the first of 2 x 4 warm-up steps
    run.run.step = 100
    assert [run.learning_rate(p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


def test_recipes_are_what_the_paper_says() -> None:
    paper = find_recipe("crs-cont-paper")
    assert (paper.learning_rate, paper.momentum, paper.weight_decay, paper.batch_size) == (0.5, 0.9, 1e-4, 128)
    assert (paper.epochs, paper.schedule, paper.temperature, paper.consistency_weight) == (100, "halve", 0.07, 0.4)
    assert (paper.class_weights, paper.crop_scale, paper.jitter) == ((1, 0.5, 1, 1), (0.5, 1), (0.4, 0.4, 0.4, 0.1))
    assert paper.stages == (Stage(224, 1.0),)
    assert paper.fine_weight == 0
    for recipe in RECIPES.values():
        assert sum(stage.share for stage in recipe.stages) == pytest.approx(1)
    with pytest.raises(DataError, match="unknown recipe 'nope'; there is: crs-cont-paper"):
        find_recipe("nope")


def test_fields_of_a_recipe_are_set_from_text() -> None:
    changed = change_recipe(
        TINY,
        [
            "architecture=convnext_tiny",
            "crop_size=64",
            "stages=[[48,0.5],[64,0.5]]",
            "epochs=2",
            "bf16=true",
            'datasets=["rafdb"]',
            "learning_rate=0.001",
            "start_from=",
        ],
    )
    expected = {"architecture": "convnext_tiny", "crop_size": 64, "stages": (Stage(48, 0.5), Stage(64, 0.5))}
    expected |= {"epochs": 2.0, "bf16": True, "datasets": ("rafdb",), "learning_rate": 0.001}
    assert changed == dataclasses.replace(TINY, **expected)
    assert isinstance(changed.epochs, float)


@pytest.mark.parametrize(
    "change",
    [
        "crop_size",
        "colour=3",
        "crop_size=big",
        "crop_size=64.5",
        "crop_size=true",
        "bf16=1",
        "stages=[48]",
        "stages=3",
        "datasets=rafdb",
        "datasets=3",
        "epochs=[1]",
        "epochs=null",
    ],
)
def test_what_is_no_field_or_no_value_is_refused(
    change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--recipe", "general-r18", "--data", str(tmp_path), "--out", str(tmp_path), "--set", change])
    assert ended.value.code == 2
    assert change.partition("=")[0] in capsys.readouterr().err


def test_another_architecture_trains_and_loads(tmp_path: Path) -> None:
    """Any of timm's; this one gives more numbers than its last stage has, and its batch norms have an activation."""
    run = trainer(dataclasses.replace(LITE0, architecture="mobilenetv3_small_050"), tmp_path)
    run.step()
    run.write_encoder()
    extractor = ExpressionExtractor.from_pretrained(tmp_path, device="cpu")
    assert extractor.config.embedding_size == 1024
    assert copy.deepcopy(extractor).encode([np.zeros((40, 40, 3), dtype=np.uint8)]).shape == (1, 1024)


def test_an_architecture_with_tables_that_are_not_stored(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network("levit_128s")
    assert set(dict(network.named_buffers())) - set(network.state_dict())
    save_folder(tmp_path, network.state_dict(), EncoderConfig("levit", "levit_128s", 384, crop_size=224))
    extractor = ExpressionExtractor.from_pretrained(tmp_path, device="cpu")
    crops = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    found = extractor.encode(crops)
    assert copy.deepcopy(extractor).encode(crops) == pytest.approx(found, abs=1e-5)
    with torch.no_grad():
        assert extractor.encoder.torch_module()(torch.from_numpy(crops)).numpy() == pytest.approx(found, abs=1e-5)
    save_folder(tmp_path / "small", network.state_dict(), EncoderConfig("levit", "levit_128s", 384, crop_size=96))
    with pytest.raises(ModelError, match="produced no embedding of a crop"):
        ExpressionExtractor.from_pretrained(tmp_path / "small", device="cpu")


def test_data_at_fault_is_named(faces_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rafdb: no such folder"):
        load_training_set(tmp_path, RECIPES["crs-cont-paper"])
    (faces_folder / "train" / "smirk").mkdir()
    (faces_folder / "train" / "smirk" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match="unknown expression label 'smirk'"):
        load_training_set(faces_folder.parent, TINY)
    (faces_folder / "train" / "smirk").rename(faces_folder / "train" / "fear")
    with pytest.raises(DataError, match=r"train/fear/1.png in .* is empty"):
        load_training_set(faces_folder.parent, TINY, show_progress=False)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fergeneral.train", *map(str, arguments)]


def test_control_c_saves(faces_folder: Path, tmp_path: Path) -> None:
    """The real process gets the real signal, and the checkpoint it leaves can be resumed."""
    data = tmp_path / "data"
    data.mkdir()
    for name in RECIPES["crs-cont-cpu"].datasets:
        (data / name).symlink_to(faces_folder)
    arguments = command("--recipe", "crs-cont-cpu", "--data", data, "--out", tmp_path / "out", "--device", "cpu")
    process = subprocess.Popen([*arguments, "--minutes", "30"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 20"):
            process.send_signal(signal.SIGINT)
            break
    with process.stderr:
        rest = process.stderr.read()
    assert process.wait(timeout=120) == 130, rest
    assert "resume with --resume" in rest
    read = load_training_set(data, RECIPES["crs-cont-cpu"], show_progress=False)
    run = loop.Trainer(RECIPES["crs-cont-cpu"], read, tmp_path, Processes("cpu"))
    run.run.load(tmp_path / "out" / "checkpoint.safetensors")
    assert run.run.step >= 20


def test_errors_of_the_command_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--recipe", "crs-cont-cpu", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for wrong, message in (
        (["--recipe", "nope"], "invalid choice: 'nope'"),
        (["--data", str(tmp_path / "nowhere")], "there is no folder"),
        (["--minutes", "soon"], "must be a number more than 0, got 'soon'"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["--recipe", "crs-cont-cpu", "--data", str(tmp_path), "--out", str(tmp_path / "out"), *wrong])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


# Batch statistics differ between a half and a whole batch, and SyncBatchNorm is for CUDA only; so the network of this
# test has no batch normalisation. All else is the real loop.
GLOO = """
import json, sys
import torch
sys.path.insert(0, {tests!r})
import test_train
from fergeneral.train import loop

class Plain(torch.nn.Sequential):
    num_features = 512

def build(architecture):
    return Plain(torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(192, 512))

def steps(processes):
    run = loop.Trainer(test_train.TINY, test_train.images(64, cut_out=20), test_train.Path("/nowhere"), processes)
    return [{{k: v.item() for k, v in run.step().items()}} for _ in range(8)]

def timed_run(processes, out):  # with a log and a schedule by time, both of which the processes must agree on
    loop._LOG_EVERY = 1
    recipe = test_train.dataclasses.replace(test_train.TINY, objective_weight=0.0)  # noise would collapse it
    run = loop.Trainer(recipe, test_train.images(64), test_train.Path(out), processes, 0.02)
    return run.train(loop.StopRequest(), None, 0.005)

loop.build_network = build
with test_train.Processes("cpu") as processes:
    terms = steps(processes)
    assert timed_run(processes, sys.argv[1] + "-run")
    if processes.is_first:
        open(sys.argv[1], "w").write(json.dumps([processes.count, terms]))
"""


def test_two_gloo_processes_have_the_loss_of_one(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(GLOO.format(tests=str(Path(__file__).parent)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name, start in (("one", [sys.executable]), ("two", launch)):
        arguments = [*start, str(script), str(tmp_path / name)]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    (one, expected), (two, terms) = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    assert (one, two) == (1, 2)
    assert (tmp_path / "two-run" / "log.jsonl").read_text().count("\n") > 1
    for got, want in zip(terms, expected, strict=True):
        assert got == pytest.approx(want, rel=2e-4, abs=1e-5)
    assert expected[-1]["total"] != expected[0]["total"]


def test_gather_keeps_rows_of_one_process() -> None:
    rows = nn.functional.normalize(torch.randn(3, 2, 4), dim=2)
    assert gather(rows) is rows
