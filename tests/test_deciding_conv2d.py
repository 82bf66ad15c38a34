"""A convolution that makes the layer masker's decision: what it computes, lists and leaves; and its kernel's text."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from laudc.ops._running import UNITS
from laudc.ops.conv2d import Conv2d, Conv2dSpec
from laudc.ops.deciding_conv2d import LISTED, LOGITS, MASK, RUNNING, DecidingConv2d, DecidingConv2dSpec
from laudc.reference import BARS, expected_results, kernel_error
from laudc.schedules import SCHEDULES
from laudc.targets import TARGETS
from laudc.types import TensorType

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
from conv_text import CASES, cuda_text

MASKERS = 4
SPEC = DecidingConv2dSpec(in_channels=3, out_channels=5, key="m", maskers=MASKERS)


def deciding(*, turn: int) -> DecidingConv2d:
    torch.manual_seed(0)
    op = DecidingConv2d.empty(SPEC)
    with torch.no_grad():
        op.weight.normal_()
        op.decision_bias.copy_(torch.tensor([0.25, 1.0]))
        op.turn.fill_(turn)
    return op.eval()  # type: ignore[return-value]


def running(*logits: float, turn: int) -> Tensor:
    """Random, but these in the turn's column."""
    made = torch.randn(len(logits), MASKERS, generator=torch.Generator().manual_seed(1)).double()
    made[:, turn] = torch.tensor(logits)
    return (made * UNITS).to(torch.int64)


def results(op: DecidingConv2d, x: Tensor, before: Tensor, masks: dict[str, Tensor] | None = None) -> list[Tensor]:
    with torch.no_grad():
        return list(op(x, before, masks))


def test_it_decides_on_its_own_column_and_computes_the_samples_that_are_on() -> None:
    op, x = deciding(turn=1), torch.randn(4, 3, 6, 6)
    made = results(op, x, running(1.0, 0.5, 0.75, -2.0, turn=1))
    assert made[LOGITS].flatten().tolist() == [0.25, -0.25, 0.0, -2.75]
    assert made[MASK].flatten().tolist() == [1, 0, 1, 0]
    assert made[LISTED][:3].tolist() == [2, 0, 2]
    plain = Conv2d.empty(Conv2dSpec(in_channels=3, out_channels=5))
    with torch.no_grad():
        plain.weight.copy_(op.weight)
        wanted = plain(x)
    assert torch.equal(made[0][[0, 2]], wanted[[0, 2]])
    assert made[0][[1, 3]].isnan().all()


@pytest.mark.parametrize("turn", range(MASKERS))
def test_who_comes_begins_anew_where_it_is_on(turn: int) -> None:
    before = running(1.0, -1.0, 2.0, turn=turn)
    left = results(deciding(turn=turn), torch.randn(3, 3, 6, 6), before)[RUNNING]
    assert torch.equal(left[:, : turn + 1], before[:, : turn + 1])
    assert torch.equal(left[1], before[1])
    assert not left[[0, 2], turn + 1 :].any()


def test_given_decisions_are_obeyed_and_its_own_logits_are_told() -> None:
    given = {"m": torch.tensor([0.0, 1.0]).view(2, 1, 1)}
    made = results(deciding(turn=0), torch.randn(2, 3, 6, 6), running(3.0, -3.0, turn=0), given)
    assert made[MASK].flatten().tolist() == [0, 1]
    assert made[LOGITS].flatten().tolist() == [2.25, -3.75]
    assert made[LISTED][:2].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("running", "fields"),
    [(TensorType(shape=(2, 3), dtype="int64"), {}), (TensorType(shape=(2, MASKERS), dtype="int64"), {"listed": True})],
)
def test_other_logits_and_lists_are_refused(running: TensorType, fields: dict[str, bool]) -> None:
    spec = DecidingConv2dSpec(**SPEC.to_json() | fields)  # type: ignore[arg-type]
    x = TensorType(shape=(2, 3, 6, 6), dtype="float32")
    with pytest.raises(ValueError, match="does not decide on"):
        spec.results((x, running))


def test_a_kernel_is_held_to_all_that_it_makes() -> None:
    op, x, before = deciding(turn=1), torch.randn(3, 3, 6, 6), running(1.0, -1.0, 2.0, turn=1)
    given = torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1)
    expected = expected_results(op, (x, before), dtype="float32", given=given)

    def error(**changed: Tensor) -> float:
        names = {"out": 0, "mask": MASK, "logits": LOGITS, "listed": LISTED, "running": RUNNING}
        made = [changed.get(name, expected[index]) for name, index in names.items()]
        return kernel_error(op, (x, before), tuple(made), expected, given)

    assert error() == 0
    assert error(out=expected[0].nan_to_num(7)) == 0  # nobody may read what is off
    assert error(listed=torch.tensor([2, 0, 1, 99], dtype=torch.int32)) == 0
    for wrong in (
        {"out": expected[0] * 1.1},
        {"mask": 1 - given},
        {"logits": expected[LOGITS] + 1},
        {"listed": torch.tensor([2, 0, 2, 0], dtype=torch.int32)},
        {"running": before},
    ):
        assert error(**wrong) > BARS["float16"], wrong


def test_its_list_is_there_before_the_next_kernel_may_be_placed() -> None:
    source = cuda_text("conv-wgmma", "decides for one of 22", "float16", "h200")
    body = source[source.index('extern "C"') :]
    waits, decides = body.index("griddepcontrol_wait()"), body.index("decide_samples(")
    placed = [at for at in range(len(body)) if body.startswith("griddepcontrol_launch_dependents()", at)]
    assert len(placed) == 2, "once in the blocks that only read, and once behind the list in the one that writes it"
    assert waits < placed[0] < decides < placed[1]
    function = source[source.index("long long decide_samples(") : source.index('extern "C"')]
    order = ("listed[0] = before", "__threadfence()", "__syncthreads();\n  }\n  return")
    assert sorted(order, key=function.index) == list(order)


def test_whatever_its_decisions_are_called_the_kernel_is_one() -> None:
    one, other = (DecidingConv2d(DecidingConv2dSpec(**SPEC.to_json() | {"key": key})) for key in ("a", "b"))  # type: ignore[arg-type]
    assert one.spec != other.spec
    assert one.unnamed == other.unnamed


@pytest.mark.parametrize(("schedule", "target"), [("conv-wgmma", "h200"), ("conv-mma", "a100")])
def test_its_turn_is_packed_and_so_is_no_part_of_the_code(schedule: str, target: str) -> None:
    work = CASES["decides for one of 22"].work(1, "float16")
    choice = SCHEDULES[schedule].choices(work, TARGETS[target])[0]
    weights = {name: torch.zeros(shape) for name, shape in work.spec.weights().items()}
    weights |= {"decision_bias": torch.tensor([0.5, 2.0]), "turn": torch.tensor([7.0])}
    assert SCHEDULES[schedule].pack(work, choice, weights)[-1].tolist() == [-1.5, 7.0]
