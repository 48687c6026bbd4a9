"""The extractors: MobileNetV2 on real photographs, any module, images of other kinds refused."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kartina.errors import ConfigError, DataError, IntegrityError, NotFoundError
from kartina.metrics.distances import nearest
from kartina.metrics.extractors import find_extractor, mobilenet, of_module

FILE = "mobilenet_v2_1.0_224_int8.npz"


def test_same_padding_puts_the_odd_zero_right_and_below() -> None:
    x = torch.ones(1, 1, 4, 6)
    padded = mobilenet.same(x, 3, 2)  # 4 -> 2 outputs: (2 - 1) * 2 + 3 - 4 = 1 zero
    assert padded.shape == (1, 1, 5, 7)
    assert padded[0, 0, -1].sum() == 0 and padded[0, 0, :, -1].sum() == 0 and padded[0, 0, 0, 0] == 1
    assert mobilenet.same(torch.ones(1, 1, 5, 5), 3, 2).shape == (1, 1, 7, 7)  # 3 outputs: 2 zeros, one a side
    assert mobilenet.same(torch.ones(1, 1, 5, 5), 3, 1).shape == (1, 1, 7, 7)
    assert mobilenet.same(x, 1, 1) is x


def test_the_network_is_the_published_one() -> None:
    """53 layers, 3,504,872 parameters with 1,000 classes (Sandler 2018: 3.4M), BatchNorm folded into biases."""
    net = mobilenet.MobileNetV2()
    parts = net.parts()
    assert len(parts) == 53
    weights = sum(p.weight.numel() for p in parts)
    # The published count has two numbers per channel of BatchNorm and 1,000 classes with biases.
    channels = sum(p.weight.shape[0] for p in parts[:-1])
    assert weights - parts[-1].weight.numel() + 2 * channels + 1281 * 1000 == 3_504_872
    sizes = [net.first(torch.zeros(1, 3, 224, 224))]
    for block in net.blocks:
        sizes.append(block(sizes[-1]))
    shapes = [tuple(s.shape[1:3]) for s in sizes]
    assert shapes[0] == (32, 112) and shapes[1] == (16, 112) and shapes[3] == (24, 56) and shapes[6] == (32, 28)
    assert shapes[10] == (64, 14) and shapes[13] == (96, 14) and shapes[16] == (160, 7) and shapes[17] == (320, 7)
    features, logits = net(torch.zeros(2, 3, 32, 32))
    assert features.shape == (2, 1280) and logits.shape == (2, 1001)


def made(path: Path, **other: np.ndarray) -> Path:
    """A file of the right form with random kernels."""
    rng, arrays = np.random.default_rng(0), {}
    for i, part in enumerate(mobilenet.MobileNetV2().parts()):
        out = part.weight.shape[0]
        arrays[f"l{i:02d}.weight_int8"] = rng.integers(-127, 128, tuple(part.weight.shape)).astype(np.int8)
        arrays[f"l{i:02d}.scale"] = rng.uniform(1e-4, 1e-3, out).astype(np.float32)
        arrays[f"l{i:02d}.bias"] = rng.normal(size=out).astype(np.float32)
    np.savez(path, **{**arrays, **other})
    return path


def test_kernels_are_scaled_per_channel(tmp_path: Path) -> None:
    path = made(tmp_path / "m.npz")
    net, content = mobilenet.load(path)
    assert content == path.read_bytes()
    with np.load(path) as archive:
        kernel, scale = archive["l17.weight_int8"], archive["l17.scale"]
        for c in (0, 5):
            expected = kernel[c].astype(np.float32) * scale[c]
            np.testing.assert_array_equal(net.parts()[17].weight[c].numpy(), expected)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="--weights"):
        find_extractor("mobilenet", tmp_path / "none.npz")
    with pytest.raises(ConfigError, match="by path"):
        find_extractor("mobilenet")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(IntegrityError, match="cannot be read as npz"):
        find_extractor("mobilenet", tmp_path / "text.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    broken = (tmp_path / "broken.npz", tmp_path / "array.npz")
    broken[0].write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "array.npy").rename(broken[1])
    for path in broken:
        with pytest.raises(IntegrityError, match="cannot be read as npz"):
            find_extractor("mobilenet", path)
    np.savez(tmp_path / "few.npz", a=np.zeros(3))
    with pytest.raises(IntegrityError, match=r"no l00.weight_int8"):
        find_extractor("mobilenet", tmp_path / "few.npz")
    objects = tmp_path / "objects.npz"
    np.savez(objects, **{"l00.weight_int8": np.array([{}], object)})
    with pytest.raises(IntegrityError, match="cannot be read as npz"):
        find_extractor("mobilenet", objects)
    with pytest.raises(IntegrityError, match="expected int8"):
        find_extractor("mobilenet", made(tmp_path / "wide.npz", **{"l03.weight_int8": np.zeros((7, 7), np.int8)}))
    with pytest.raises(NotFoundError, match="Did you mean 'mobilenet'"):
        find_extractor("mobilnet")
    with pytest.raises(ConfigError, match="drop it"):
        find_extractor("domain", "x")


def photographs(path: Path, split: str, each: int, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    with zipfile.ZipFile(path) as archive:
        for label, name in enumerate(names):
            files = sorted(f for f in archive.namelist() if f.startswith(f"{split}/{name}/") and f.endswith(".webp"))
            for file in files[:each]:
                images.append(np.asarray(Image.open(BytesIO(archive.read(file))).convert("RGB")).transpose(2, 0, 1))
                labels.append(label)
    return np.stack(images), np.array(labels)


@pytest.mark.slow
def test_mobilenet_knows_real_photographs(shared: Path, record_property: Callable[[str, object], None]) -> None:
    """On 20 + 8 images a class of CIFAR-10: neighbours in its features agree, and ImageNet's classes fit."""
    extract = find_extractor("mobilenet", shared / "weights" / FILE)
    assert extract is not None
    assert (extract.fd, extract.kid, extract.resizer) == ("FD-MobileNetV2", "KD-MobileNetV2", "antialiased bicubic 224")
    assert extract.hash == hashlib.sha256((shared / "weights" / FILE).read_bytes()).hexdigest()
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    train, train_labels = photographs(shared / "data" / "cifar10.zip", "train", 20, names)
    test, test_labels = photographs(shared / "data" / "cifar10.zip", "test", 8, names)
    known, _ = extract(train)
    features, logits = extract(test)
    assert features.shape == (80, 1280) and features.dtype == np.float64 and features.min() >= 0 and features.max() <= 6
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (known, features)]
    near = np.argsort(-(unit[1] @ unit[0].T), axis=1)[:, :5]
    votes = np.array([np.bincount(train_labels[row], minlength=10).argmax() for row in near])
    accuracy = float((votes == test_labels).mean())
    record_property("knn5", accuracy)
    print(f"5 nearest neighbours, 200 + 80 images: {accuracy:.3f}")
    assert accuracy > 0.55  # chance is 0.1
    # ImageNet's classes (0 is the background): dogs are 152..269, aeroplanes 405, warplanes 896 and so on.
    assert logits is not None
    answer = logits.argmax(1)
    dogs = (answer >= 152) & (answer <= 269)
    share = dogs[test_labels == 5].mean(), dogs[test_labels == 8].mean()
    print(f"taken for a breed of dog: {share[0]:.2f} of dogs, {share[1]:.2f} of ships")
    assert share[0] > 0.35 > 0.1 > share[1]


def test_images_do_not_depend_on_their_batch(tmp_path: Path) -> None:
    extract = find_extractor("mobilenet", made(tmp_path / "m.npz"))
    assert extract is not None
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16)).astype(np.uint8)
    together, alone = extract(images)[0], np.concatenate([extract(images[i : i + 1])[0] for i in range(5)])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)
    grey = extract(images[:, :1])[0]
    np.testing.assert_allclose(grey, extract(images[:, :1].repeat(3, axis=1))[0], rtol=1e-6)


def test_any_module_is_an_extractor() -> None:
    class Means(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float().mean((2, 3))

    seen: list[tuple[int, int]] = []
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4)).astype(np.uint8)
    extract = of_module(Means(), "means", batch=2)
    features, logits = extract(images, lambda done, of: seen.append((done, of)))
    assert logits is None and features.dtype == np.float64 and seen == [(2, 5), (4, 5), (5, 5)]
    np.testing.assert_allclose(features, images.mean((2, 3)), rtol=1e-6)
    assert (extract.fd, extract.kid) == ("FD-means", "KD-means")
    # Its identity is that of its weights.
    one, two = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert of_module(one, "x").hash != of_module(two, "x").hash
    two.load_state_dict(one.state_dict())
    assert of_module(one, "x").hash == of_module(two, "x").hash
    with pytest.raises(DataError, match="expected N,d"):
        of_module(nn.Identity(), "all")(images)
    with pytest.raises(DataError, match="uint8"):
        extract(images.astype(np.float32))
    with pytest.raises(ConfigError, match="of its own"):
        of_module(one, "FID")


def test_nearest_is_by_differences() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(30, 8)), rng.normal(size=(50, 8))
    b[7] = a[3] + 1e-9
    index, distance = nearest(a, b)
    every = np.linalg.norm(a[:, None] - b[None], axis=2)
    assert (index == every.argmin(1)).all() and index[3] == 7
    np.testing.assert_allclose(distance, every.min(1), rtol=1e-12)
