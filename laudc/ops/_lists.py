"""Which rows, samples and channels are on: the lists that every sparse operation reads.

Row list, int32[B + 1 + B*H*W]: first the offsets, entry b is where sample b's rows begin and entry B the count of
all; then the rows that are on, ascending, as (b*H + i)*W + j. What lies past the count is undefined.

Sample list, int32[B + 1]: how many samples are on, then their numbers, ascending. What lies past them is undefined.

Channel list, int32[B, 1 + D]: for each sample the number of groups that are on, then their numbers, ascending.
What lies past the count is undefined.
"""

from __future__ import annotations

import torch
from torch import Tensor


def make_row_list(pixels: Tensor) -> Tensor:
    """The row list of a pixel mask (B, H, W), non-zero = on."""
    batch = pixels.shape[0]
    on = pixels != 0
    offsets = torch.cat([on.new_zeros(1, dtype=torch.int64), on.flatten(1).sum(1).cumsum(0)])
    rows = on.flatten().nonzero().flatten()
    tail = torch.zeros(pixels.numel() - len(rows), dtype=torch.int64, device=pixels.device)
    assert len(offsets) == batch + 1
    return torch.cat([offsets, rows, tail]).to(torch.int32)


def rows_of(row_list: Tensor, batch: int) -> Tensor:
    """The row numbers that are on, int64[count]."""
    count = int(row_list[batch])
    return row_list[batch + 1 : batch + 1 + count].long()


def make_sample_list(decisions: Tensor) -> Tensor:
    """The sample list of decisions (B, 1, 1), non-zero = on."""
    on = decisions.flatten().nonzero().flatten()
    made = torch.zeros(len(decisions) + 1, dtype=torch.int32, device=decisions.device)
    made[0], made[1 : 1 + len(on)] = len(on), on
    return made


def samples_of(on: Tensor) -> Tensor:
    """The numbers, int64, of the samples that a sample list or decisions (B, 1, 1) say are on."""
    return on[1 : 1 + int(on[0])].long() if on.dim() == 1 else on.flatten().nonzero().flatten()


def rows_of_samples(samples: Tensor, pixels: int) -> Tensor:
    """The row numbers, int64, of all the pixels of the samples of these numbers."""
    return (samples[:, None] * pixels + torch.arange(pixels, device=samples.device)).flatten()


def make_channel_list(mask: Tensor) -> Tensor:
    """The channel list of a group mask (B, D), non-zero = on."""
    on = mask != 0
    order = torch.argsort((~on).to(torch.int32), dim=1, stable=True)
    return torch.cat([on.sum(1, keepdim=True), order], dim=1).to(torch.int32)


def channels_of(channel_list: Tensor, sample: int, group: int) -> Tensor:
    """The channels of one sample that are on, int64[count * group]."""
    count = int(channel_list[sample, 0])
    groups = channel_list[sample, 1 : 1 + count].long()
    return (groups[:, None] * group + torch.arange(group, device=groups.device)).flatten()
