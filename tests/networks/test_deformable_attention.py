# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Deformable attention against loops, against PyTorch's attention, and against itself with padding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from monai_cluster.networks import DeformableSliceAttention, FullSliceAttention
from monai_cluster.networks.deformable_attention import interpolate_slices, interpolation_matrix, sampling_points
from monai_cluster.networks.position_bias import LogDistanceBias


def make(dim: int = 12, heads: int = 4, width: int = 3, seed: int = 0, **options: object) -> DeformableSliceAttention:
    """An attention whose offsets are large, so that clamping and interpolation matter."""
    torch.manual_seed(seed)
    module = DeformableSliceAttention(dim, heads, width, **options).double()
    torch.nn.init.normal_(module.offset_weight, std=2.0)
    if module.position_bias is not None:
        for parameter in module.position_bias.parameters():
            torch.nn.init.normal_(parameter)
    return module


def interpolate_by_loop(values: Tensor, position: float) -> Tensor:
    """Linear interpolation along the first axis, borders clamped."""
    position = min(max(position, 0.0), len(values) - 1.0)
    lower = math.floor(position)
    upper = min(lower + 1, len(values) - 1)
    return values[lower] * (1 - (position - lower)) + values[upper] * (position - lower)


def attend_by_loops(module: DeformableSliceAttention, x: Tensor, position_mm: Tensor | None = None) -> Tensor:
    """One volume S F, computed from the formula slice by slice and head by head."""
    num_slices, dim = x.shape
    heads, width, groups, stride = module.num_heads, module.head_dim, module.groups, module.stride
    queries = x @ module.to_q.weight.T
    where = torch.arange(num_slices, dtype=x.dtype) if position_mm is None else position_mm
    points = math.ceil(num_slices / stride)
    first = (module.kernel_size - stride) // 2
    answers = torch.zeros(num_slices, heads, width, dtype=x.dtype)
    for head in range(heads):
        group = head * groups // heads
        channels = slice(group * heads * width // groups, (group + 1) * heads * width // groups)
        keys, values, places = [], [], []
        for point in range(points):
            total = module.offset_bias[channels].clone()
            for tap in range(module.kernel_size):
                source = stride * point - first + tap
                if 0 <= source < num_slices:
                    total = total + queries[source, channels] * module.offset_taps[tap, channels]
            offset = module.offset_scale * torch.tanh((F.gelu(total) * module.offset_weight[group]).sum())
            place = stride * point + (stride - 1) / 2 + stride * offset.item()
            features = interpolate_by_loop(x[:, group * dim // groups : (group + 1) * dim // groups], place)
            mapped = (features @ module.to_kv[group]).view(2, heads // groups, width)[:, head % (heads // groups)]
            keys.append(mapped[0])
            values.append(mapped[1])
            places.append(interpolate_by_loop(where, place))
        for query in range(num_slices):
            scores = torch.stack([queries[query, head * width : (head + 1) * width] @ key for key in keys]) / math.sqrt(
                width
            )
            if module.position_bias is not None:
                distance = torch.stack([where[query] - place for place in places])
                signed = distance.sign() * torch.log(1 + distance.abs())
                bias = module.position_bias
                scores = scores + bias.odd[head] * signed + bias.even[head] * signed.abs()
                scores = scores + bias.near[head] * torch.exp(-signed.abs())
            answers[query, head] = torch.softmax(scores, 0) @ torch.stack(values)
    return answers.flatten(1) @ module.to_out.weight.T + module.to_out.bias


@pytest.mark.parametrize(
    ("num_slices", "options"),
    [
        (1, {}),
        (13, {}),
        (12, {"offset_groups": 2}),
        (9, {"offset_groups": 1, "stride": 3, "kernel_size": 2}),
        (7, {"stride": 2, "kernel_size": 5, "position_bias": False}),
    ],
)
def test_forward_equals_the_formula_in_loops(num_slices: int, options: dict) -> None:
    module = make(**options)
    x = torch.randn(2, num_slices, 12, dtype=torch.double)
    position = torch.randn(2, num_slices, dtype=torch.double).cumsum(1) * 3
    for mm in (None, position):
        expected = torch.stack([attend_by_loops(module, x[b], None if mm is None else mm[b]) for b in range(2)])
        torch.testing.assert_close(module(x, None, mm), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_without_offsets_stride_and_bias_it_is_scaled_dot_product_attention(groups: int) -> None:
    module = make(stride=1, offset_groups=groups, position_bias=False)
    torch.nn.init.zeros_(module.offset_weight)
    x = torch.randn(2, 9, 12, dtype=torch.double)
    per_group = torch.einsum("bsgf,gfo->bsgo", x.view(2, 9, groups, -1), module.to_kv)
    keys, values = per_group.view(2, 9, groups, 2, 4 // groups, 3).permute(3, 0, 2, 4, 1, 5).reshape(2, 2, 4, 9, 3)
    queries = module.to_q(x).view(2, 9, 4, 3).transpose(1, 2)
    expected = module.to_out(F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x), expected)


def test_full_attention_is_scaled_dot_product_attention() -> None:
    torch.manual_seed(0)
    module = FullSliceAttention(12, 4, 3, position_bias=False).double()
    x, padded = torch.randn(2, 9, 12, dtype=torch.double), torch.arange(9).expand(2, -1) >= torch.tensor([[6], [9]])
    queries, keys, values = (
        module.to_qkv(x.masked_fill(padded[..., None], 0)).view(2, 9, 3, 4, 3).permute(2, 0, 3, 1, 4)
    )
    heads = F.scaled_dot_product_attention(queries, keys, values, attn_mask=~padded[:, None, None])
    torch.testing.assert_close(module(x, padded), module.to_out(heads.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize(
    ("num_slices", "longer"), [(1, 16), (8, 16), (8, 33), (12, 13), (12, 33), (13, 16), (13, 33), (33, 40)]
)
def test_padding_changes_nothing_on_real_slices_whatever_stands_there(num_slices: int, longer: int) -> None:
    module = make()
    x, position = (
        torch.randn(2, num_slices, 12, dtype=torch.double),
        torch.arange(num_slices).double().expand(2, -1) * 2.5,
    )
    more = torch.full((2, longer, 12), math.nan, dtype=torch.double)
    where = torch.full((2, longer), math.nan, dtype=torch.double)
    more[:, :num_slices], where[:, :num_slices] = x, position
    padded = torch.arange(longer).expand(2, -1) >= num_slices
    for mm, mm_padded in ((None, None), (position, where)):
        torch.testing.assert_close(module(more, padded, mm_padded)[:, :num_slices], module(x, None, mm))


def test_gradients_reach_every_parameter_and_none_comes_from_padding() -> None:
    module = make()
    x = torch.randn(2, 16, 12, dtype=torch.double, requires_grad=True)
    padded = torch.arange(16).expand(2, -1) >= torch.tensor([[5], [13]])
    position = torch.arange(16).double().expand(2, -1)
    module(x, padded, position)[~padded].square().sum().backward()
    assert x.grad is not None
    assert x.grad[padded].abs().max() == 0
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())


def test_gradcheck_off_the_integers() -> None:
    module = make(dim=4, heads=2, width=2, stride=2, kernel_size=3)
    x = torch.randn(1, 5, 4, dtype=torch.double, requires_grad=True)
    position = torch.tensor([[0.0, 1.5, 3.5, 4.0, 7.0]], dtype=torch.double)
    points = module.sampling_positions(module.to_q(x))
    assert (points - points.round()).abs().min() > 1e-3, "the seed put a sampling point on an integer"
    assert torch.autograd.gradcheck(lambda x: module(x, None, position), x)


@pytest.mark.parametrize("count", [1, 5, 8])
def test_interpolation_matrix_equals_interpolation_by_loop(count: int) -> None:
    torch.manual_seed(0)
    values, position = (
        torch.randn(8),
        torch.cat([torch.randn(1, 2, 30) * 8, torch.arange(8.0).expand(1, 2, -1)], dim=-1),
    )
    points = sampling_points(position, torch.tensor([count]))
    expected = torch.stack([interpolate_by_loop(values[:count], float(p)) for p in position.flatten()]).view_as(
        position
    )
    torch.testing.assert_close(interpolation_matrix(points, 8) @ values, expected)
    torch.testing.assert_close(interpolate_slices(points, values[None]), expected)
    torch.testing.assert_close(interpolation_matrix(points, 8).sum(-1), torch.ones_like(position))


def test_the_slope_at_the_last_slice_is_that_of_the_interval_before_it() -> None:
    position = torch.tensor([[[6.0]]], requires_grad=True)
    interpolate_slices(sampling_points(position, torch.tensor([7])), torch.arange(7.0)[None] * 3).sum().backward()
    assert position.grad is not None
    assert position.grad.item() == 3


def test_attention_over_slices_is_what_each_head_draws_from_each_slice() -> None:
    module = make(offset_groups=1)
    x, padded = torch.randn(2, 13, 12, dtype=torch.double), torch.arange(13).expand(2, -1) >= torch.tensor([[6], [13]])
    attention = module.attention_over_slices(x, padded)
    values = (x.masked_fill(padded[..., None], 0) @ module.to_kv[0]).view(2, 13, 2, 4, 3)[:, :, 1].transpose(1, 2)
    torch.testing.assert_close(module.to_out((attention @ values).transpose(1, 2).flatten(2)), module(x, padded))
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 4, 13, dtype=torch.double))
    assert attention[0, :, :, 6:].abs().max() == 0


def test_distance_bias_is_its_formula_with_the_right_gradient() -> None:
    torch.manual_seed(0)
    bias = LogDistanceBias(3).double()
    for parameter in bias.parameters():
        torch.nn.init.normal_(parameter)
    query, key = (
        (torch.randn(2, 5, dtype=torch.double) * 9).requires_grad_(),
        torch.randn(2, 3, 4, dtype=torch.double) * 9,
    )
    key.requires_grad_()
    signed = (d := query[:, None, :, None] - key[:, :, None]).sign() * torch.log(1 + d.abs())
    odd, even, near = (part[:, None, None] for part in (bias.odd, bias.even, bias.near))
    expected = odd * signed + even * signed.abs() + near * torch.exp(-signed.abs())
    torch.testing.assert_close(bias(query, key), expected)
    weight = torch.randn_like(expected)
    inputs = [query, key, *bias.parameters()]
    ours, theirs = (torch.autograd.grad((out * weight).sum(), inputs) for out in (bias(query, key), expected))
    torch.testing.assert_close(ours, theirs)


def test_distances_in_millimetres_differ_from_distances_in_slices() -> None:
    module = make(position_bias=True)
    x, slices = torch.randn(1, 12, 12, dtype=torch.double), torch.arange(12).double()[None]
    torch.testing.assert_close(module(x, None, slices + 100), module(x))
    torch.testing.assert_close(module(x, None, slices * 2.5), module(x, None, slices * 2.5 - 40))
    assert (module(x, None, slices * 2.5) - module(x)).abs().max() > 1e-3


def test_bfloat16_autocast_stays_near_float32() -> None:
    module = make().float()
    x = torch.randn(2, 40, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(x, torch.arange(40).expand(2, -1) >= torch.tensor([[33], [40]]))
        positions = module.sampling_positions(module.to_q(x))
    assert positions.dtype == torch.float32, "bf16 cannot tell slice 257 from 258"
    torch.testing.assert_close(out.float()[1], module(x)[1], rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "must be at least 1"),
        ({"offset_groups": 3}, "offset_groups must divide num_heads = 4 and dim = 12, got 3"),
        ({"dim": 10}, "must divide num_heads = 4 and dim = 10"),
    ],
)
def test_impossible_sizes_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeformableSliceAttention(**{"dim": 12, "num_heads": 4, "head_dim": 3} | options)
    with pytest.raises(ValueError, match="must be at least 1"):
        FullSliceAttention(dim=0)
