from __future__ import annotations

import copy
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image, ImageOps
from torchvision import models, transforms

from fergeneral import ExpressionExtractor, Face, ImageError, ModelError, align_face, extract, list_models, load_image
from fergeneral.encoder import Encoder, EncoderConfig, _PackedConvolution, build_network, choose_device, feature_size
from fergeneral.hub import load_folder

GOLDEN = Path(__file__).parent / "data" / "golden.json"


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(abs(a - b).max() < 1e-4)


def golden(model_id: str) -> tuple[np.ndarray, dict]:
    """The landmarks of the astronaut that facenet-pytorch's own detector finds, and what a model gives for them."""
    stored = json.loads(GOLDEN.read_text())
    return np.array(stored["landmarks"]).reshape(5, 2), stored["models"][model_id]


@pytest.mark.parametrize("name", list_models())
def test_the_packaged_weights_give_the_golden_embedding(name: str, photos: Path) -> None:
    landmarks, expected = golden(name)
    extractor = ExpressionExtractor.from_pretrained(name, device="cpu")
    config = extractor.config
    crop = align_face(photos / "astronaut.png", landmarks, size=config.crop_size, template=config.template)
    (embedding,) = extractor.encode([crop])
    # In whole numbers, what lies between two of them may fall to either side on another processor.
    most = 2e-2 if name.endswith("-int8") else 2e-3
    assert embedding[:16] == pytest.approx(expected["embedding"], abs=most)
    assert np.linalg.norm(embedding) == pytest.approx(expected["norm"], rel=most)


def test_a_photo_gives_nearly_the_golden_embedding(extractor: ExpressionExtractor, photos: Path) -> None:
    """Our detector's landmarks may differ from the golden ones by pixels."""
    landmarks, stored = golden(extractor.config.model_id)
    (face,) = extractor.extract(photos / "astronaut.png")
    assert abs(face.landmarks - landmarks).max() < 3  # the eyes are 44 pixels apart
    config = extractor.config
    crop = align_face(photos / "astronaut.png", landmarks, size=config.crop_size, template=config.template)
    (expected,) = extractor.encode([crop])
    assert expected[:16] == pytest.approx(stored["embedding"], abs=2e-3)
    cosine = face.embedding @ expected / np.linalg.norm(face.embedding) / np.linalg.norm(expected)
    assert cosine > 0.99


def test_encode_against_plain_torchvision(photos: Path) -> None:
    """The same weights in torchvision's own ResNet-18, fed through torchvision's own transforms."""
    from safetensors.torch import load_file

    network = models.resnet18()
    network.fc = torch.nn.Identity()
    network.load_state_dict(load_file(ROOT / "weights" / "general-r18-cycle" / "model.safetensors"))
    extractor = ExpressionExtractor.from_pretrained("general-r18-cycle", device="cpu")
    config = extractor.config
    (face,) = extractor.extract(photos / "astronaut.png")
    crop = align_face(photos / "astronaut.png", face.landmarks, size=config.crop_size, template=config.template)
    prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize(config.mean, config.std)])
    with torch.no_grad():
        expected = network.eval()(prepare(crop)[None])[0].numpy()
    assert same(face.embedding, expected)
    assert same(extractor.encode(crop[None])[0], expected)


def test_flip_is_the_mean_with_the_mirror_image(random_folder: Path) -> None:
    extractor = ExpressionExtractor.from_pretrained(random_folder, device="cpu")
    crops = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    mirrored = [ImageOps.mirror(Image.fromarray(crop)) for crop in crops]
    expected = (extractor.encode(crops) + extractor.encode(mirrored)) / 2
    assert same(extractor.encode(crops, flip=True, batch_size=2), expected)
    assert same(extractor.encode(mirrored, flip=True), expected)
    assert not same(extractor.encode(crops), expected)
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert same(extractor.encode(crops, flip=True, normalize=True), unit)
    assert extractor.encode([], flip=True).shape == (0, 512)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "resnet50", "efficientnet_lite0", "convnext_atto"])
def test_folding_changes_no_embedding_and_no_weight(architecture: str) -> None:
    """Against the network as it is in float64, fed with normalised pixels; the batch norms' statistics are not trivial,
    and neither mean nor std of the pixels are alike, so that a fold in the wrong place or order shows."""
    torch.manual_seed(0)
    network = build_network(architecture)
    for name, tensor in network.state_dict().items():
        if "bn" in name or "downsample.1" in name:
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    mean, std = (0.1, 0.5, 0.9), (0.9, 0.3, 0.5)
    size = feature_size(network)
    encoder = Encoder(network, EncoderConfig("a", architecture, size, crop_size=64, mean=mean, std=std), "cpu")
    crops = np.random.default_rng(0).integers(0, 256, (35, 64, 64, 3), dtype=np.uint8)
    pixels = (torch.from_numpy(crops) / 255 - torch.tensor(mean)) / torch.tensor(std)
    with torch.no_grad():
        expected = copy.deepcopy(network).double().eval()(pixels.double().permute(0, 3, 1, 2)).numpy()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder._module.modules())
    scale = abs(expected).max()
    for found in (encoder.encode(crops), encoder.encode(list(crops)), encoder.encode(crops, batch_size=3)):
        assert abs(found - expected).max() < 1e-5 * scale
    assert encoder.state_dict().keys() == weights.keys()
    assert all(tensor.equal(weights[name]) for name, tensor in encoder.state_dict().items())


def test_a_network_that_cannot_be_folded_stays_as_it_is() -> None:
    """Its batch norms are of branches that add up, so folding them as they are registered would be wrong."""
    torch.manual_seed(0)
    network = build_network("mobileone_s0")
    for name, tensor in network.state_dict().items():
        if "running_var" in name:
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    encoder = Encoder(network, EncoderConfig("a", "mobileone_s0", 1024, crop_size=64), "cpu")
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    mean, std = torch.tensor(encoder.config.mean), torch.tensor(encoder.config.std)
    with torch.no_grad():
        expected = network.eval()(((torch.from_numpy(crops) / 255 - mean) / std).permute(0, 3, 1, 2)).numpy()
    assert abs(encoder.encode(crops) - expected).max() < 1e-5 * abs(expected).max()
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder._module.modules())


def test_a_torch_that_cannot_pack_weights_gives_the_same(random_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    expected = load_folder(random_folder, "cpu").encode(crops)

    def missing(*_: object) -> None:
        raise AttributeError("no such operator")

    def wrong(self: object, x: torch.Tensor) -> torch.Tensor:
        return right(self, x) + 1

    right = _PackedConvolution.forward
    for forward in (missing, wrong):
        monkeypatch.setattr(_PackedConvolution, "forward", forward)
        encoder = load_folder(random_folder, "cpu")
        assert any(isinstance(module, torch.nn.Conv2d) for module in encoder._module.modules())
        assert abs(encoder.encode(crops) - expected).max() < 1e-5


def test_a_face_has_what_the_documentation_says(photos: Path) -> None:
    faces = extract(photos / "three_faces.jpg")
    assert len(faces) == 3
    assert all(isinstance(face, Face) for face in faces)
    areas = [face.area for face in faces]
    assert areas == sorted(areas, reverse=True)
    for face in faces:
        assert face.box.shape == (4,)
        assert face.landmarks.shape == (5, 2)
        assert face.embedding.shape == (512,)
        assert face.embedding.dtype == np.float32
        assert 0 < face.score <= 1
    assert extract(photos / "coffee.png") == []


def test_the_input_form_does_not_matter(extractor: ExpressionExtractor, photos: Path) -> None:
    path = photos / "astronaut.png"
    array = np.asarray(Image.open(path).convert("RGB"))
    (expected,) = extractor.extract(path)
    forms = [str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), Image.open(path), array]
    forms += [torch.from_numpy(array.copy()), torch.from_numpy(array.copy()).permute(2, 0, 1)]
    forms.append(np.dstack([array, np.full(array.shape[:2], 255, dtype=np.uint8)]))
    for form in forms:
        (face,) = extractor.extract(form)
        assert same(face.embedding, expected.embedding)


def test_a_photo_on_its_side_gives_the_same_faces(extractor: ExpressionExtractor, photos: Path) -> None:
    image = load_image(photos / "astronaut.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    buffer = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    (turned,), (expected,) = extractor.extract(buffer.getvalue()), extractor.extract(image)
    assert same(turned.embedding, expected.embedding)
    assert abs(turned.box - expected.box).max() < 0.1


def test_neither_the_batch_nor_the_order_matters(extractor: ExpressionExtractor, photos: Path) -> None:
    names = ["astronaut.png", "coffee.png", "three_faces.jpg", "rocket.jpg"]
    alone = {name: extractor.extract(photos / name) for name in names}
    for batch_size in (1, 2, 32):
        for order in (names, names[::-1]):
            together = extractor.extract_many([photos / name for name in order], batch_size=batch_size)
            for name, faces in zip(order, together, strict=True):
                assert len(faces) == len(alone[name])
                for face, expected in zip(faces, alone[name], strict=True):
                    assert same(face.embedding, expected.embedding)


def test_neither_the_thread_matters(extractor: ExpressionExtractor, photos: Path) -> None:
    (expected,) = extractor.extract(photos / "astronaut.png")
    with ThreadPoolExecutor(4) as pool:
        for faces in pool.map(extractor.extract, [photos / "astronaut.png"] * 8):
            assert same(faces[0].embedding, expected.embedding)


def test_a_bad_image_stops_only_itself(extractor: ExpressionExtractor, photos: Path) -> None:
    images = [photos / "astronaut.png", b"not an image", photos / "astronaut.png"]
    errors: dict[int, ImageError] = {}
    found = list(extractor.extract_many(images, on_error=errors.__setitem__))
    assert [len(faces) for faces in found] == [1, 0, 1]
    assert list(errors) == [1]

    results = extractor.extract_many(images)
    assert len(next(results)) == 1  # what came before the bad image is not lost
    with pytest.raises(ImageError, match="image 1"):
        next(results)


def test_a_single_path_is_not_taken_for_a_list(extractor: ExpressionExtractor) -> None:
    with pytest.raises(TypeError, match="use extract"):
        extractor.extract_many("photo.jpg")
    with pytest.raises(ValueError, match="batch_size"):
        extractor.extract_many([], batch_size=0)


def test_encode_takes_arrays_and_lists_of_any_size(extractor: ExpressionExtractor) -> None:
    size = extractor.config.crop_size
    crops = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    expected = extractor.encode(crops)
    assert expected.shape == (5, 512)
    assert same(extractor.encode(crops, batch_size=2), expected)
    assert same(extractor.encode([Image.fromarray(crop) for crop in crops]), expected)
    assert extractor.encode([]).shape == (0, 512)
    assert extractor.encode([np.zeros((48, 48), dtype=np.uint8)]).shape == (1, 512)
    unit = extractor.encode(crops, normalize=True)
    assert np.linalg.norm(unit, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert same(unit * np.linalg.norm(expected, axis=1, keepdims=True), expected)


@pytest.mark.parametrize("crops", [np.zeros((9, 9, 3), dtype=np.uint8), Image.new("RGB", (9, 9)), "a.png"])
def test_a_single_crop_is_not_taken_for_a_batch(extractor: ExpressionExtractor, crops: object) -> None:
    with pytest.raises(TypeError, match=r"got one image .*put it into a list"):
        extractor.encode(crops)
    with pytest.raises(ValueError, match="batch_size"):
        extractor.encode([], batch_size=0)


def test_what_is_not_there_is_refused_and_never_replaced() -> None:
    with pytest.raises(ModelError, match="not known"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="not available here; there is: cpu"):
            ExpressionExtractor.from_pretrained(device="cuda")
    assert ExpressionExtractor.from_pretrained(device="cpu").encoder.device.type == "cpu"


def test_extract_loads_the_weights_once_for_all_threads(photos: Path) -> None:
    from fergeneral.extractor import _load_once, shared_extractor

    _load_once.cache_clear()
    found: list[ExpressionExtractor] = []
    threads = [threading.Thread(target=lambda: found.append(shared_extractor())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in found}) == 1
