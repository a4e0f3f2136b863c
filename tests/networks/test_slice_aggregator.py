# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What every aggregator promises, and what is particular to each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cluster.networks import (
    DeformableAggregator,
    GatedAttentionPool,
    MaxPool,
    MeanPool,
    QueryAttentionPool,
    TransformerAggregator,
)

DIM = 16
MAKERS = {
    "deformable": lambda: DeformableAggregator(DIM, 2, 4, 4, 20),
    "transformer": lambda: TransformerAggregator(DIM, 2, 4, 4, 20),
    "gated": lambda: GatedAttentionPool(DIM, 8),
    "query": lambda: QueryAttentionPool(DIM, 4, 4, 2),
    "mean": lambda: MeanPool(DIM),
    "max": MaxPool,
}


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MAKERS[name]().eval()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("num_slices", [1, 8, 12, 33])
def test_a_volume_alone_equals_the_same_volume_padded(name: str, num_slices: int) -> None:
    module, slices = make(name), torch.randn(2, num_slices, DIM)
    position = torch.arange(num_slices).expand(2, -1) * 2.5
    tokens, volume = module(slices, None, position)
    more = F.pad(slices, (0, 0, 0, 7), value=float("nan"))
    padded = torch.arange(num_slices + 7).expand(2, -1) >= num_slices
    padded_tokens, padded_volume = module(more, padded, F.pad(position, (0, 7), value=float("nan")))
    torch.testing.assert_close(padded_tokens[:, :num_slices], tokens)
    torch.testing.assert_close(padded_volume, volume)
    assert padded_tokens[:, num_slices:].abs().max() == 0
    torch.testing.assert_close(volume.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("name", MAKERS)
def test_padding_gives_no_gradient(name: str) -> None:
    module, slices = make(name), torch.randn(2, 9, DIM, requires_grad=True)
    padded = torch.arange(9).expand(2, -1) >= torch.tensor([[4], [9]])
    tokens, volume = module(slices, padded)
    (volume[:, 0].sum() + tokens[..., 1].sum()).backward()
    assert slices.grad is not None
    assert slices.grad[padded].abs().max() == 0
    assert slices.grad[~padded].abs().sum() > 0


def test_layers_are_post_norm_and_the_volume_is_the_unit_mean() -> None:
    module = DeformableAggregator(DIM, 2, 4, 4, 20)
    module.eval()
    x = slices = torch.randn(2, 9, DIM)
    for layer in module.layers:
        x = layer.attention_norm(x + layer.attention(x))
        x = layer.ffn_norm(x + layer.ffn[3](F.gelu(layer.ffn[0](x))))
    tokens, volume = module(slices)
    torch.testing.assert_close(tokens, x)
    torch.testing.assert_close(volume, F.normalize(x.mean(1), dim=1))


def test_the_default_layers_are_the_papers() -> None:
    module = DeformableAggregator()
    layer = module.layers[0]
    assert len(module.layers) == 4
    assert [layer.ffn[0].in_features, layer.ffn[0].out_features, layer.ffn[3].out_features] == [640, 720, 640]
    assert isinstance(layer.ffn[1], nn.GELU)
    assert {part.p for part in module.modules() if isinstance(part, nn.Dropout)} == {0.1}
    attention = layer.attention
    assert [attention.num_heads, attention.head_dim, attention.stride, attention.kernel_size] == [8, 64, 4, 6]
    assert attention.offset_scale == 2.0


def test_order_matters_to_attention_with_positions_and_to_no_pool() -> None:
    slices = torch.randn(2, 9, DIM)
    for name in MAKERS:
        module = make(name)
        moved = (module(slices.roll(3, dims=1))[1] - module(slices)[1]).abs().max()
        assert (moved > 1e-3) == (name in ("deformable", "transformer")), name


def test_simple_pools_are_their_formulas() -> None:
    slices, padded = torch.randn(2, 6, DIM), torch.arange(6).expand(2, -1) >= torch.tensor([[4], [6]])
    real = [slices[0, :4], slices[1]]
    torch.testing.assert_close(
        make("mean")(slices, padded)[1], torch.stack([F.normalize(x.mean(0), dim=0) for x in real])
    )
    torch.testing.assert_close(
        make("max")(slices, padded)[1], torch.stack([F.normalize(x.amax(0), dim=0) for x in real])
    )


def test_gated_attention_is_its_formula() -> None:
    module, slices = make("gated"), torch.randn(1, 6, DIM)
    value, gate = module.to_value_and_gate(slices[0]).split(8, dim=1)
    weights = torch.softmax((value.tanh() * gate.sigmoid()) @ module.to_score.weight[0] + module.to_score.bias, dim=0)
    torch.testing.assert_close(module(slices)[1][0], F.normalize(weights @ slices[0], dim=0))
    torch.testing.assert_close(module.attention_over_slices(slices)[0, 0, 0], weights)


def test_query_attention_is_scaled_dot_product_attention_with_learned_queries() -> None:
    module, slices = make("query"), torch.randn(2, 6, DIM)
    keys, values = module.to_kv(slices).view(2, 6, 2, 4, 4).permute(2, 0, 3, 1, 4)
    answers = F.scaled_dot_product_attention(module.queries.expand(2, -1, -1, -1), keys, values).mean(2).flatten(1)
    torch.testing.assert_close(module(slices)[1], F.normalize(module.to_out(answers), dim=1))
    torch.testing.assert_close(module.attention_over_slices(slices).sum(-1), torch.ones(2, 4, 2))


@pytest.mark.parametrize("name", ["deformable", "transformer"])
def test_attention_of_a_layer_is_that_of_the_layer_on_its_own_input(name: str) -> None:
    module, slices = make(name), torch.randn(1, 9, DIM)
    torch.testing.assert_close(
        module.attention_over_slices(slices), module.layers[1].attention.attention_over_slices(module.layers[0](slices))
    )
    torch.testing.assert_close(
        module.attention_over_slices(slices, layer=0), module.layers[0].attention.attention_over_slices(slices)
    )
    with pytest.raises(ValueError, match=r"layer must be one of 0\.\.1, got 2"):
        module.attention_over_slices(slices, layer=2)


@torch.no_grad()
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("num_slices", [1, 9])
def test_torchscript_computes_the_same(name: str, num_slices: int) -> None:
    module, slices = make(name), torch.randn(2, num_slices, DIM)
    scripted = torch.jit.script(module)
    padded = torch.arange(num_slices).expand(2, -1) >= torch.tensor([[max(1, num_slices - 3)], [num_slices]])
    position = torch.arange(num_slices).expand(2, -1) * 2.5
    for arguments in ((), (padded,), (padded, position), (None, position)):
        for mine, expected in zip(scripted(slices, *arguments), module(slices, *arguments), strict=True):
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["deformable", "transformer"])
def test_torchscript_gives_the_same_gradients(name: str) -> None:
    slices = torch.randn(2, 9, DIM)
    found = []
    for module in (make(name), torch.jit.script(make(name))):
        module(slices)[0].square().sum().backward()
        found.append([parameter.grad for parameter in module.parameters()])
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("slices", "padded", "position", "error", "message"),
    [
        (torch.randn(6, DIM), None, None, ValueError, "slices must be B S F"),
        (torch.randn(2, 6, DIM), torch.zeros(2, 5, dtype=torch.bool), None, ValueError, "padded must be B S"),
        (torch.randn(2, 6, DIM), None, torch.zeros(2, 5), ValueError, "position_mm must be B S"),
        (
            torch.randn(1, 3, DIM),
            torch.tensor([[False, True, False]]),
            None,
            ValueError,
            "padding must stand at the end",
        ),
        (torch.randn(1, 3, DIM), torch.tensor([[True, True, True]]), None, ValueError, "after at least one slice"),
        (torch.randn(1, 3, DIM), torch.tensor([[0.0, 0.0, 1.0]]), None, TypeError, "padded must be boolean"),
    ],
)
def test_wrong_input_is_refused(
    name: str, slices: Tensor, padded: Tensor | None, position: Tensor | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(name)(slices, padded, position)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_layers must be at least 1"):
        DeformableAggregator(DIM, num_layers=0)
    with pytest.raises(ValueError, match="dim must be at least 1"):
        GatedAttentionPool(0)
    with pytest.raises(ValueError, match="num_queries must be at least 1"):
        QueryAttentionPool(DIM, num_queries=0)
