"""The FID Inception network on random weights: published shapes, details by hand, and its file fetched and checked."""

from __future__ import annotations

import fcntl
import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kartina.errors import IntegrityError, NotFoundError, UnavailableError
from kartina.metrics.extractors import download, find_extractor, inception, of_inception


@pytest.fixture(scope="module")
def net() -> inception.Inception:
    torch.manual_seed(0)
    made = inception.Inception().eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return made


SHAPES = {  # Szegedy 2015, table 1, and the channels of its figures 5 to 7: channels, side
    "Conv2d_1a_3x3": (32, 149), "Conv2d_2a_3x3": (32, 147), "Conv2d_2b_3x3": (64, 147), "Conv2d_3b_1x1": (80, 73),
    "Conv2d_4a_3x3": (192, 71), "Mixed_5b": (256, 35), "Mixed_5c": (288, 35), "Mixed_5d": (288, 35),
    "Mixed_6a": (768, 17), "Mixed_6b": (768, 17), "Mixed_6c": (768, 17), "Mixed_6d": (768, 17), "Mixed_6e": (768, 17),
    "Mixed_7a": (1280, 8), "Mixed_7b": (2048, 8), "Mixed_7c": (2048, 8),
}  # fmt: skip


def test_layer_shapes_and_the_number_of_parameters(net: inception.Inception) -> None:
    found: dict[str, tuple[int, int]] = {}
    hooks = [
        getattr(net, name).register_forward_hook(
            lambda m, i, out, name=name: found.__setitem__(name, (out.shape[1], out.shape[2]))
        )
        for name in SHAPES
    ]
    with torch.inference_mode():
        features, logits = net(torch.rand(1, 3, 32, 40) * 255)
    for hook in hooks:
        hook.remove()
    assert found == SHAPES
    assert features.shape == (1, 2048) and logits.shape == (1, 1008)
    # The trunk has 21,785,568 parameters, as published without the auxiliary head; then 1,008 classes.
    assert sum(p.numel() for p in net.parameters()) == 21_785_568 + 2048 * 1008 + 1008
    names = {k for k in net.state_dict() if k.endswith("conv.weight")}
    assert len(names) == 94 and "Mixed_7c.branch3x3dbl_3b.conv.weight" in names
    assert all(m.eps == 1e-3 for m in net.modules() if isinstance(m, nn.BatchNorm2d))


def test_means_are_of_the_pixels_that_are_there() -> None:
    """By hand: a corner's 3 x 3 window holds 4 pixels, an edge's 6."""
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    found = inception.mean_pool(x)[0, 0]
    assert found[0, 0] == (0 + 1 + 3 + 4) / 4 and found[0, 1] == (0 + 1 + 2 + 3 + 4 + 5) / 6 and found[1, 1] == 4


def test_the_last_block_pools_by_maximum(net: inception.Inception) -> None:
    x = torch.randn(1, 2048, 8, 8)
    by_max, by_mean = torch.empty_like(x), torch.empty_like(x)
    for i in range(8):
        for j in range(8):
            window = x[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].flatten(2)
            by_max[:, :, i, j], by_mean[:, :, i, j] = window.amax(2), window.mean(2)
    with torch.inference_mode():
        pooled = net.Mixed_7c(x)[:, -192:]
        torch.testing.assert_close(pooled, net.Mixed_7c.branch_pool(by_max))
        first = torch.randn(1, 1280, 8, 8)
        assert not net.Mixed_7b.largest
        torch.testing.assert_close(net.Mixed_7b(first)[:, -192:], net.Mixed_7b.branch_pool(inception.mean_pool(first)))
        assert not torch.allclose(pooled, net.Mixed_7c.branch_pool(by_mean))


def test_normalisation_by_hand(net: inception.Inception) -> None:
    conv = net.Conv2d_1a_3x3
    x = torch.randn(1, 3, 3, 3)
    c = 7
    norm = conv.bn
    by_hand = (x[0] * conv.conv.weight[c]).sum()
    by_hand = (by_hand - norm.running_mean[c]) / (norm.running_var[c] + 1e-3).sqrt() * norm.weight[c] + norm.bias[c]
    with torch.inference_mode():
        assert float(conv(x)[0, c, 0, 0]) == pytest.approx(max(float(by_hand), 0.0), rel=1e-5)


def test_resizing_is_tensorflow_1s() -> None:
    """By hand: output i of `out` lies at input i * in / out; no half pixels, the last repeated."""
    x = torch.tensor([[[[0.0, 10.0, 40.0]]]]).expand(1, 1, 2, 3)
    found = inception.resize(x, 4)  # columns at 0, 0.75, 1.5, 2.25
    np.testing.assert_allclose(found[0, 0, 0].numpy(), [0, 7.5, 25, 40], rtol=1e-6)
    small = inception.resize(torch.arange(6.0).reshape(1, 1, 1, 6).expand(1, 1, 6, 6), 3)  # 0, 2, 4: no averaging
    np.testing.assert_allclose(small[0, 0, 0].numpy(), [0, 2, 4])


def test_images_are_scaled_after_resizing_and_logits_have_no_bias(net: inception.Inception) -> None:
    entered: list[torch.Tensor] = []
    hook = net.Conv2d_1a_3x3.register_forward_pre_hook(lambda m, x: entered.append(x[0]))
    extract = of_inception(net, "0" * 64)
    images = np.full((1, 1, 8, 8), 255, np.uint8)
    features, logits = extract(images)
    hook.remove()
    assert entered[0].shape == (1, 3, 299, 299) and (entered[0] == (255 - 128) / 128).all()
    assert logits is not None and features.dtype == logits.dtype == np.float64
    np.testing.assert_allclose(logits, features @ net.fc.weight.double().T.detach().numpy(), rtol=1e-3, atol=1e-4)
    assert (extract.fd, extract.kid, extract.scores) == ("FID", "KID", True)


# -- the file ----------------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves `content` under any name, a part where one is asked for; `stop_after` breaks off that many bytes in."""

    content = b""
    stop_after: int | None = None
    parts = True
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.parts else 0
        if start >= len(self.server.content) > 0:
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.server.stop_after is None else body[: self.server.stop_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.asked = []
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{inception.FILE}"


def test_a_download_breaks_off_and_goes_on(server: Server, tmp_path: Path) -> None:
    server.content = np.random.default_rng(0).bytes(3_000_000)
    digest = hashlib.sha256(server.content).hexdigest()[:8]
    path = tmp_path / "w" / "weights.pth"
    server.stop_after = 1_200_000
    with pytest.raises(UnavailableError, match="goes on where it"):
        download.fetch(url(server), path, digest, 10_000_000)
    assert not path.exists() and path.with_name("weights.pth.part").stat().st_size == 1_200_000
    server.stop_after = None
    steps: list[tuple[int, int]] = []
    assert download.fetch(url(server), path, digest, 10_000_000, lambda a, b: steps.append((a, b))) == path
    assert path.read_bytes() == server.content and server.asked == [None, "bytes=1200000-"]
    assert steps[-1] == (3_000_000, 3_000_000)
    assert [p.name for p in path.parent.iterdir()] == ["weights.pth"]
    # A second call asks nobody.
    download.fetch(url(server), path, digest, 10_000_000)
    assert len(server.asked) == 2


@pytest.mark.parametrize("thrown_away", [False, True])
def test_what_another_process_has_written_meanwhile_is_gone_on_from(
    server: Server, tmp_path: Path, thrown_away: bool
) -> None:
    """The lock is waited for; then the file is longer than it was, or another one."""
    server.content = np.random.default_rng(0).bytes(3000)
    path = tmp_path / "weights.pth"
    part = path.with_name("weights.pth.part")
    with open(part, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        args = (url(server), path, hashlib.sha256(server.content).hexdigest(), 10_000)
        waiting = threading.Thread(target=download.fetch, args=args)
        waiting.start()
        time.sleep(0.3)
        if thrown_away:
            part.unlink()
            part.write_bytes(server.content[:500])
        else:
            other.write(server.content[:500])
            other.flush()
    waiting.join(30)
    assert not waiting.is_alive()
    assert path.read_bytes() == server.content and server.asked == ["bytes=500-"]
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pth"]


def test_a_server_without_parts_begins_anew(server: Server, tmp_path: Path) -> None:
    server.content, server.parts = b"x" * 5000, False
    path = tmp_path / "weights.pth"
    path.with_name("weights.pth.part").write_bytes(b"y" * 100)
    download.fetch(url(server), path, hashlib.sha256(server.content).hexdigest(), 10_000)
    assert path.read_bytes() == server.content


def test_a_whole_part_is_believed_when_the_server_has_no_more(server: Server, tmp_path: Path) -> None:
    server.content = b"z" * 5000
    path = tmp_path / "weights.pth"
    path.with_name("weights.pth.part").write_bytes(server.content)
    download.fetch(url(server), path, hashlib.sha256(server.content).hexdigest(), 10_000)
    assert path.read_bytes() == server.content


def test_a_wrong_file_is_refused_and_never_loaded(server: Server, home: Path) -> None:
    """Through the door that users take: the evil file would print, were it unpickled."""
    server.content = b"cbuiltins\nprint\n(S'loaded'\ntR."
    with pytest.raises(IntegrityError, match="begins with 6726825d"):
        find_extractor("inception", url(server))
    where = home / "cache" / "weights"
    assert list(where.iterdir()) == []
    server.content = bytes(2000)
    with pytest.raises(IntegrityError, match="more than 1,000 bytes"):
        download.fetch(url(server), where / "w", "0", 1000)
    assert not (where / "w").exists()


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="--weights"):
        download.fetch("http://127.0.0.1:9/x", tmp_path / "w", "0", 1000)
    assert not (tmp_path / "w").exists()


def test_a_local_file_is_checked_before_it_is_read(net: inception.Inception, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file"):
        find_extractor("inception", tmp_path / "none.pth")
    path = tmp_path / inception.FILE
    torch.save(net.state_dict(), path)
    with pytest.raises(IntegrityError, match="was not loaded"):
        find_extractor("inception", path)


def test_a_state_dict_is_loaded_as_tensors(net: inception.Inception, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    kept = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(kept, path)
    again = inception.load(path)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in kept.items())
    torch.save({**kept, "extra.weight": torch.zeros(1)}, path)
    with pytest.raises(IntegrityError, match="1 tensors too many") as caught:
        inception.load(path)
    assert caught.value.details == ("extra.weight",)
    torch.save([1, 2], path)
    with pytest.raises(IntegrityError, match="no dictionary of tensors"):
        inception.load(path)
    torch.save({"x": Path("/")}, path)  # an object: it would need unpickling
    with pytest.raises(IntegrityError, match="no tensors alone"):
        inception.load(path)
