"""What a cell of the data page cannot show: downloads from a server, another process, and COCO's own reader."""
from __future__ import annotations

import gzip
import http.server
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from ml_notes.core import data

NAMES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes())


@pytest.fixture
def mirror(monkeypatch):
    "A server of two files in MNIST's format on this machine; what it answers can be changed through `answers`."
    rng = np.random.default_rng(0)
    answers = {NAMES[0]: idx(rng.integers(0, 256, (5, 28, 28))), NAMES[1]: idx(rng.integers(0, 10, 5))}
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rsplit("/", 1)[-1]
            asked.append(name)
            body = answers[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + self.server.missing))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.missing = 0  # bytes that are announced and never sent
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(MNIST, "resources", [(k, data._md5(v)) for k, v in answers.items()])
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    server.answers, server.asked = answers, asked
    yield server
    server.shutdown()
    server.server_close()


def left(folder) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def test_download_reads_back_and_is_not_repeated(mirror, tmp_path):
    images, labels = data.mnist("test", root=tmp_path / "new" / "folder", download=True)
    assert images.shape == (5, 1, 28, 28) and labels.shape == (5,)
    assert left(tmp_path) == [f"new/folder/MNIST/raw/{name}" for name in NAMES]
    again = data.mnist("test", root=tmp_path / "new" / "folder", download=True)[0]
    assert torch.equal(again, images) and mirror.asked == list(NAMES)


def test_only_what_is_missing_is_fetched(mirror, tmp_path):
    data.mnist(root=tmp_path, download=True)
    (tmp_path / "MNIST" / "raw" / NAMES[1]).unlink()
    mirror.asked.clear()
    data.mnist(root=tmp_path, download=True)
    assert mirror.asked == [NAMES[1]]


@pytest.mark.parametrize("fault", ["cut short", "one byte wrong", "connection lost"])
def test_a_damaged_download_leaves_nothing(mirror, tmp_path, fault):
    whole = mirror.answers[NAMES[0]]
    if fault == "connection lost":
        mirror.missing = 100
    else:
        mirror.answers[NAMES[0]] = whole[:-7] if fault == "cut short" else whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]
    with pytest.raises(FileNotFoundError, match=f"{NAMES[0]}: could not be fetched"):
        data.mnist(root=tmp_path, download=True)
    assert left(tmp_path) == []


def test_the_second_mirror_is_tried(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/", *MNIST.mirrors])
    assert len(data.mnist(root=tmp_path, download=True)[0]) == 5


def test_an_interrupted_write_leaves_nothing(mirror, tmp_path, monkeypatch):
    def interrupted(path, content):
        with open(path, "wb") as f:
            f.write(content[:50])
        raise KeyboardInterrupt

    monkeypatch.setattr(data.Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.mnist(root=tmp_path, download=True)
    assert left(tmp_path) == []


def test_a_damaged_file_is_not_replaced_unasked(mirror, tmp_path):
    data.mnist(root=tmp_path, download=True)
    file = tmp_path / "MNIST" / "raw" / NAMES[0]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="delete the file and fetch it again"):
        data.mnist(root=tmp_path, download=True)


def test_import_is_light():
    code = "import sys, ml_notes.core.data; print([m for m in ('sklearn', 'torchvision', 'scipy', 'PIL', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_scenes_are_the_same_in_another_process():
    code = "from ml_notes.core.data import shapes; i, c, t = shapes(2, seed=5, start=3); print(i.double().sum().item(), c, [x['boxes'].tolist() for x in t])"
    images, captions, targets = data.shapes(2, seed=5, start=3)
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == f"{images.double().sum().item()} {captions} {[x['boxes'].tolist() for x in targets]}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_mixture_on_a_gpu():
    gm = data.gm_random(4, 3, seed=1)
    x, sigma = torch.randn(50, 3, dtype=torch.float64), torch.rand(50, dtype=torch.float64) + 0.1
    there = gm.to("cuda")
    for name in ("log_prob", "score", "denoise", "eps", "posterior", "posterior_cov"):
        torch.testing.assert_close(getattr(there, name)(x.cuda(), sigma.cuda(), 0.7).cpu(), getattr(gm, name)(x, sigma, 0.7))
    same = there.sample(10, torch.Generator().manual_seed(0))
    assert same.device.type == "cuda"
    torch.testing.assert_close(same.cpu(), gm.sample(10, torch.Generator().manual_seed(0)))


def test_pycocotools_reads_our_dictionary():
    tools = pytest.importorskip("pycocotools.coco")
    mask_tools = pytest.importorskip("pycocotools.mask")
    _, _, targets = data.shapes(40, seed=2, size=47, max_objects=6)
    coco = tools.COCO()
    coco.dataset = data.coco(targets, 47)
    coco.createIndex()
    assert sorted(coco.getImgIds()) == list(range(40)) and [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(data.SHAPES)
    for i, target in enumerate(targets):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=i))
        assert len(annotations) == len(target["labels"])
        for a, mask, box, label in zip(annotations, target["masks"], target["boxes"], target["labels"]):
            rle = coco.annToRLE(a)
            np.testing.assert_array_equal(coco.annToMask(a), mask.numpy())
            np.testing.assert_array_equal(mask_tools.toBbox(rle), [box[0], box[1], box[2] - box[0], box[3] - box[1]])
            assert mask_tools.area(rle) == a["area"] and a["category_id"] == label
    found = coco.loadRes([{"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0} for a in coco.dataset["annotations"]])
    score = pytest.importorskip("pycocotools.cocoeval").COCOeval(coco, found, "bbox")
    score.evaluate(), score.accumulate(), score.summarize()
    assert score.stats[0] == pytest.approx(1.0)
