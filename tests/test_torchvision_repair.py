"""torchvision and timm import after laudc, whether or not torchvision's binary loads here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HOOK_IS_GONE = """
import sys
assert not [finder for finder in sys.meta_path if type(finder).__module__ == "laudc.torchvision_repair"]
"""


def run(program: str, folder: Path | None = None) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr


def brute_force(boxes: list[list[float]], scores: list[float], iou_threshold: float) -> list[int]:
    """Takes the best box that is left and drops what it overlaps, again and again."""

    def area(box: list[float]) -> float:
        return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)

    def iou(a: list[float], b: list[float]) -> float:
        shared = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
        union = area(a) + area(b) - shared
        return shared / union if union else 0.0

    left = sorted(range(len(scores)), key=lambda index: -scores[index])
    kept = []
    while left:
        best, *rest = left
        kept.append(best)
        left = [index for index in rest if iou(boxes[best], boxes[index]) <= iou_threshold]
    return kept


@pytest.mark.parametrize("iou_threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("count", [0, 1, 2, 60])
def test_nms_keeps_what_brute_force_keeps(count: int, iou_threshold: float) -> None:
    torch = pytest.importorskip("torch")
    from laudc.torchvision_repair import nms

    generator = torch.Generator().manual_seed(count)
    corners = torch.randint(0, 20, (count, 2), generator=generator)
    sizes = torch.randint(0, 12, (count, 2), generator=generator)  # some boxes are empty
    boxes = torch.cat([corners, corners + sizes], dim=1).float()
    scores = torch.randint(0, 30, (count,), generator=generator).float()  # some scores are equal
    kept = nms(boxes, scores, iou_threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == brute_force(boxes.tolist(), scores.tolist(), iou_threshold)


@pytest.mark.slow
def test_timm_imports_after_laudc() -> None:
    run("import laudc, timm; timm.create_model('resnet18')" + HOOK_IS_GONE)


@pytest.mark.slow
def test_a_part_of_torchvision_imports_after_laudc() -> None:
    run("import laudc; from torchvision import models; models.resnet18()" + HOOK_IS_GONE)


@pytest.mark.slow
def test_torchvision_imports_and_computes_after_laudc() -> None:
    run("""
import laudc, torch, torchvision
boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [8, 8, 9, 9]])
scores, groups = torch.tensor([0.5, 0.9, 0.1]), torch.tensor([0, 1, 0])
assert torchvision.ops.nms(boxes, scores, 0.5).tolist() == [1, 2]
assert torchvision.ops.batched_nms(boxes, scores, groups, 0.5).tolist() == [1, 0, 2]
""")


@pytest.mark.slow
def test_an_import_that_failed_before_laudc_can_be_repeated() -> None:
    run("""
try:
    import timm
except RuntimeError as error:
    assert "torchvision::nms" in str(error)
import laudc, timm, torchvision
timm.create_model("resnet18")
""")


@pytest.mark.slow
def test_a_detector_finds_and_trains() -> None:
    run("""
import laudc, torch, torchvision
torch.manual_seed(0)
net = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
image, boxes = torch.rand(3, 96, 96), torch.tensor([[8.0, 8, 64, 64]])
losses = net.train()([image, image], [{"boxes": boxes, "labels": torch.tensor([1])}] * 2)
sum(losses.values()).backward()
assert set(net.eval()([image])[0]) == {"boxes", "labels", "scores"}
""")


@pytest.fixture
def torchvision_that_loads(tmp_path: Path) -> Path:
    """A stand-in for torchvision whose binary loads."""
    folder = tmp_path / "torchvision"
    (folder / "ops").mkdir(parents=True)
    (folder / "__init__.py").write_text("from torchvision import extension, ops\n")
    (folder / "extension.py").write_text(
        "def _has_ops():\n    return True\n\ndef _assert_has_ops():\n    return 'asked'\n"
    )
    (folder / "ops" / "__init__.py").write_text("from torchvision.ops import boxes\n")
    (folder / "ops" / "boxes.py").write_text("from torchvision.extension import _assert_has_ops\n")
    return tmp_path


def test_a_torchvision_that_loads_is_left_as_it_is(torchvision_that_loads: Path) -> None:
    program = "import laudc, sys, torchvision; assert torchvision.ops.boxes._assert_has_ops() == 'asked'"
    run(program + "; assert 'torch' not in sys.modules" + HOOK_IS_GONE, torchvision_that_loads)


def test_asking_where_torchvision_is_keeps_the_hook(torchvision_that_loads: Path) -> None:
    run(
        "import laudc, importlib.util as u, sys; u.find_spec('torchvision')\n"
        "assert type(sys.meta_path[0]).__module__ == 'laudc.torchvision_repair'",
        torchvision_that_loads,
    )


def test_a_torchvision_that_is_there_already_gets_no_hook(torchvision_that_loads: Path) -> None:
    run("import torchvision, laudc" + HOOK_IS_GONE, torchvision_that_loads)
