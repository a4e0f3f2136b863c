# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The joint network against its parts called one by one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from monai_cluster.networks import ClusterHead, JointClusterNet, MaskedSliceDecoder, MeanPool, Prototypes

from .tiny import tiny_encoder, tiny_images, tiny_network, tiny_volumes


def total(output: Any) -> torch.Tensor:
    """A scalar that every part of the output has a share in."""
    parts = [part.scores.square().mean() for part in (output.image, output.volume, output.slices) if part is not None]
    if output.masked is not None:
        parts.append((output.masked.predictions - output.masked.targets)[output.masked.masked].square().mean())
    return torch.stack(parts).sum()


def slices_of(volume: torch.Tensor) -> torch.Tensor:
    """S C H W from C H W S."""
    return volume.permute(3, 0, 1, 2)


def test_images_of_several_sizes_equal_crop_by_crop() -> None:
    network, images = tiny_network().eval(), tiny_images()
    expected = network.image_head([network.slice_encoder(view).features for view in images["views"]])
    found = network(images, None)
    torch.testing.assert_close(found.image, expected)
    assert found.volume is found.masked is found.slices is None


def test_volumes_equal_their_real_slices_encoded_and_aggregated_one_by_one() -> None:
    network, volumes = tiny_network().eval(), tiny_volumes()
    views = []
    for view, padded, position in zip(volumes["views"], volumes["padded"], volumes["slice_position"], strict=True):
        rows = []
        for row in range(2):
            real = ~padded[row]
            embedding = network.slice_encoder(slices_of(view[row])[real]).embedding
            rows.append(network.slice_aggregator(embedding[None], None, position[row][real][None])[1][0])
        views.append(torch.stack(rows))
    found = network(None, volumes)
    torch.testing.assert_close(found.volume, network.volume_head(views))
    assert found.image is None


def test_what_stands_on_padded_slices_is_never_encoded() -> None:
    clean, dirty = tiny_volumes(), tiny_volumes()
    for view, padded in zip(dirty["views"], dirty["padded"], strict=True):
        view.permute(0, 4, 1, 2, 3)[padded] = float("nan")
    networks = [tiny_network().train() for _ in range(2)]
    outputs = []
    for network, volumes in zip(networks, (clean, dirty), strict=True):
        torch.manual_seed(5)
        outputs.append(network(None, volumes))
    torch.testing.assert_close(outputs[1].volume, outputs[0].volume)
    torch.testing.assert_close(outputs[1].masked, outputs[0].masked)
    torch.testing.assert_close(networks[1].state_dict(), networks[0].state_dict())


def test_views_with_other_slice_counts_and_sizes_equal_each_view_alone() -> None:
    network = tiny_network(mask_decoder=None).eval()
    views = [torch.randn(2, 1, 8, 8, 6), torch.randn(2, 1, 8, 8, 6), torch.randn(2, 1, 4, 4, 3)]
    alone = [network(None, {"views": [view]}).volume.embeddings[0] for view in views]
    torch.testing.assert_close(network(None, {"views": views}).volume.embeddings, torch.stack(alone))


def test_masked_prediction_hides_aggregates_and_decodes() -> None:
    network, volumes = tiny_network(mask_decoder=MaskedSliceDecoder(8, 0.4)).eval(), tiny_volumes()
    found = network(None, volumes).masked
    assert torch.equal(found.padded, torch.cat(volumes["padded"]))
    for view in range(2):
        rows = slice(2 * view, 2 * view + 2)
        embedding = network.encode_slices(volumes["views"][view], volumes["padded"][view]).embedding
        torch.testing.assert_close(found.targets[rows], embedding)
        hidden = torch.where(found.masked[rows][..., None], network.mask_decoder.hidden_token, embedding)
        tokens, _ = network.slice_aggregator(hidden, volumes["padded"][view], volumes["slice_position"][view])
        torch.testing.assert_close(found.predictions[rows], network.mask_decoder.decoder(tokens))
    assert not found.targets.requires_grad
    assert found.masked.any(dim=1).all()
    assert not (found.masked & found.padded).any()


def test_matched_slices_are_the_same_source_slices_through_the_image_head() -> None:
    network, volumes = tiny_network(matched_slices=2).eval(), tiny_volumes()
    found = network(None, volumes).slices
    features = [
        torch.stack([network.slice_encoder(slices_of(volume)).features for volume in view]) for view in volumes["views"]
    ]
    first, second = [], []
    for row, source in ((0, (1, 3)), (1, (1, 4))):  # four real slices, and six; the second view is flipped
        first += [features[0][row, index] for index in source]
        second += [features[1][row, 5 - index] for index in source]
    torch.testing.assert_close(found, network.image_head([torch.stack(first), torch.stack(second)]))


def test_no_common_slice_gives_no_slice_output() -> None:
    network, volumes = tiny_network(matched_slices=2), tiny_volumes()
    volumes["slice_index"][1] = volumes["slice_index"][1] + 100
    assert network(None, volumes).slices is None
    del volumes["slice_index"]
    with pytest.raises(ValueError, match="matched slices need two views with their 'slice_index'"):
        network(None, volumes)


def test_only_the_terms_asked_for_are_computed() -> None:
    network, images, volumes = tiny_network(matched_slices=2), tiny_images(), tiny_volumes()
    for term, field in (("image", "image"), ("volume", "volume"), ("mask", "masked"), ("slice", "slices")):
        network.set_terms([term])
        assert [name for name, part in network(images, volumes)._asdict().items() if part is not None] == [field]
    with pytest.raises(ValueError, match=r"unknown terms \['masks'\]"):
        network.set_terms(["masks"])


def test_every_parameter_learns_from_the_joint_step_and_one_stream_leaves_the_others_alone() -> None:
    network = tiny_network(matched_slices=2)
    total(network(tiny_images(), tiny_volumes())).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    network.zero_grad()
    total(network(tiny_images(), None)).backward()
    assert all(parameter.grad is None for parameter in network.slice_aggregator.parameters())
    assert network(None, None) == (None, None, None, None)


def test_a_frozen_encoder_has_no_graph_and_keeps_its_statistics() -> None:
    network = tiny_network()
    network.freeze("slice_encoder")
    network.train()
    before = copy.deepcopy(network.slice_encoder.state_dict())
    graph_kept: list[bool] = []
    network.slice_encoder.backbone.register_forward_hook(lambda *_: graph_kept.append(torch.is_grad_enabled()))
    assert not network.encode_images(tiny_images()["views"][0]).embedding.requires_grad
    output = network(None, tiny_volumes())
    total(output).backward()
    assert graph_kept
    assert not any(graph_kept), "checkpointing would go on for nothing"
    torch.testing.assert_close(network.slice_encoder.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in network.slice_encoder.parameters())
    assert all(parameter.grad is not None for parameter in network.slice_aggregator.parameters())


def test_a_frozen_aggregator_lets_gradients_through_to_the_encoder() -> None:
    network = tiny_network()
    total(network(None, tiny_volumes())).backward()
    network.freeze("slice_aggregator")
    assert all(parameter.grad is None for parameter in network.slice_aggregator.parameters()), (
        "stale gradients would step"
    )
    network.zero_grad()
    total(network(None, tiny_volumes())).backward()
    assert all(parameter.grad is None for parameter in network.slice_aggregator.parameters())
    assert all(parameter.grad is not None for parameter in network.slice_encoder.parameters())


def test_unfreezing_gives_back_what_was_trained_before() -> None:
    network = tiny_network()
    network.image_head.prototypes.weight.requires_grad_(False)  # as DeepCluster does
    network.freeze("image_head", "slice_encoder")
    network.unfreeze()
    assert not any(part.training for part in network.slice_encoder.modules())
    network.unfreeze("image_head", "slice_encoder")
    assert not network.image_head.prototypes.weight.requires_grad
    assert all(parameter.requires_grad for parameter in network.image_head.projector.parameters())
    assert all(part.training for part in network.slice_encoder.modules())
    with pytest.raises(ValueError, match=r"no part \['encoder'\]; it has slice_encoder, slice_aggregator"):
        network.freeze("encoder")
    with pytest.raises(ValueError, match=r"no part \['mask_decoder'\]"):
        tiny_network(mask_decoder=None).unfreeze("mask_decoder")


def test_embedding_volumes_equals_the_parts() -> None:
    network, volumes = tiny_network().eval(), tiny_volumes()
    x, padded, position = (volumes[key][0] for key in ("views", "padded", "slice_position"))
    embedding, tokens, volume = network.encode_volume(x, padded, position)
    expected = network.slice_encoder(slices_of(x[1])).embedding
    torch.testing.assert_close(embedding[1], expected)
    assert embedding[padded].abs().max() == 0
    torch.testing.assert_close((tokens, volume), network.slice_aggregator(embedding, padded, position))
    torch.testing.assert_close(network.encode_volume(x[1:])[0][0], expected)


def test_channels_last_changes_nothing() -> None:
    plain, arranged = tiny_network().eval(), tiny_network(channels_last=True).eval()
    weight = arranged.slice_encoder.backbone.second[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for expected, found in (
        (plain(tiny_images(), None).image, arranged(tiny_images(), None).image),
        (plain(None, tiny_volumes()).volume, arranged(None, tiny_volumes()).volume),
    ):
        torch.testing.assert_close(found, expected)


def test_the_joint_step_runs_in_bfloat16_with_float32_scores() -> None:
    network = tiny_network(matched_slices=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(tiny_images(), tiny_volumes())
    assert {output.image.scores.dtype, output.volume.scores.dtype, output.slices.scores.dtype} == {torch.float32}
    total(output).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slice_aggregator": None}, "volume_head and mask_decoder need a slice_aggregator"),
        ({"slice_aggregator": MeanPool(9)}, "slice_aggregator takes 9 numbers, but the slice encoder gives 8"),
        ({"volume_head": ClusterHead(None, Prototypes(9, 2))}, "volume_head takes 9 numbers"),
        ({"mask_decoder": MaskedSliceDecoder(9)}, "mask_decoder takes 9 numbers"),
        (
            {"image_head": ClusterHead(None, Prototypes(9, 2))},
            "image_head takes 9 numbers, but the slice encoder gives 6",
        ),
        ({"image_head": None, "matched_slices": 2}, "matched_slices needs an image_head"),
    ],
)
def test_parts_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_network(**options)


def test_volumes_of_the_wrong_shape_are_refused() -> None:
    network = tiny_network()
    with pytest.raises(ValueError, match="volumes must be B C H W S"):
        network(None, {"views": [torch.zeros(2, 1, 8, 8)]})
    with pytest.raises(ValueError, match="padded must be B S"):
        network.encode_volume(torch.zeros(2, 1, 8, 8, 5), torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="no slice_aggregator, so it cannot embed volumes"):
        JointClusterNet(tiny_encoder()).encode_volume(torch.zeros(1, 1, 8, 8, 2))


def rows_of(stream: dict, row: int) -> dict:
    return {
        key: [v[row : row + 1] for v in value] if isinstance(value, list) else value[row : row + 1]
        for key, value in stream.items()
    }


def step_on_rank(rank: int, streams: list[tuple[dict | None, dict | None]]) -> list[list[torch.Tensor | None]]:
    """Gradients after each of several steps of a DDP network, streams coming and going, then with a frozen encoder."""
    network = tiny_network(mask_decoder=None).eval()  # batch norm without synchronisation differs between ranks
    wrapped = DistributedDataParallel(network, find_unused_parameters=True)
    found = []
    for number, (images, volumes) in enumerate(streams):
        if number == len(streams) - 1:
            network.freeze("slice_encoder")
        network.zero_grad()
        total(wrapped(*(None if part is None else rows_of(part, rank) for part in (images, volumes)))).backward()
        found.append([None if parameter.grad is None else parameter.grad.clone() for parameter in network.parameters()])
    return found


@pytest.mark.slow
def test_two_ranks_average_the_gradients_of_their_halves_and_absent_streams_do_not_hang(gloo_pair) -> None:  # type: ignore[no-untyped-def]
    images, volumes = tiny_images(2), tiny_volumes(2)
    volumes["padded"] = [torch.zeros(2, 6, dtype=torch.bool)] * 2
    streams = [(images, volumes), (images, None), (None, volumes), (None, volumes)]
    found = gloo_pair(step_on_rank, streams)
    network = tiny_network(mask_decoder=None).eval()
    for number, (image, volume) in enumerate(streams):
        if number == len(streams) - 1:
            network.freeze("slice_encoder")
        network.zero_grad()
        losses = [
            total(network(*(None if part is None else rows_of(part, row) for part in (image, volume))))
            for row in range(2)
        ]
        (sum(losses) / 2).backward()
        for place, (name, parameter) in enumerate(network.named_parameters()):
            for rank in range(2):
                ours = found[rank][number][place]
                if parameter.grad is None:
                    assert ours is None or ours.abs().max() == 0, name
                else:
                    torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-6, msg=f"{name}, step {number}")
