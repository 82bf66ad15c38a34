"""Weights as the CPU kernels read them: [vector of output channels, tap and input channel, lane]."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from laudc.schedules._cpu_plan import Plan
from laudc.schedules._prologue import pack_prologue


def pack_weights(plan: Plan, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """weight, then bias, the prologue's numbers and the masker's column where there are such."""
    spec = plan.spec
    weight = weights["weight"].detach().float()
    weight = weight.reshape(weight.shape[0], -1, spec.taps).transpose(1, 2)  # column, tap, channel
    columns = spec.out_channels
    packed = [_in_vectors(plan, _merge(plan, weight[:columns]).flatten(2))]
    if spec.bias:
        bias = weights["bias"].detach().float()
        packed.append(_in_vectors(plan, bias[:columns].view(plan.groups, plan.columns, 1))[:, 0])
    packed += pack_prologue(weights)
    if spec.masker:
        logit_bias = weights["bias"].detach().float()[columns:] if spec.bias else weight.new_zeros(1)
        packed.append(torch.cat([weight[columns].flatten(), logit_bias]))
    return tuple(tensor.contiguous() for tensor in packed)


def _merge(plan: Plan, weight: Tensor) -> Tensor:
    """(N, taps, own channels) -> (groups, columns, taps, depth): neighbouring groups, with zeros between them."""
    own, merge = weight.shape[2], plan.merge
    split = weight.view(plan.groups, merge, plan.columns // merge, plan.spec.taps, own)
    merged = split.new_zeros(*split.shape[:4], merge, own)
    for i in range(merge):
        merged[:, i, :, :, i] = split[:, i]
    return merged.reshape(plan.groups, plan.columns, plan.spec.taps, merge * own)


def _in_vectors(plan: Plan, matrix: Tensor) -> Tensor:
    """(groups, columns, K) -> (groups * vectors, K, lanes), zeros where a group's last vector has no column."""
    groups, columns, k = matrix.shape
    padded = matrix.new_zeros(groups, plan.vectors * plan.lanes, k)
    padded[:, :columns] = matrix
    return padded.view(groups * plan.vectors, plan.lanes, k).transpose(1, 2)
