# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Prototypes, projection heads and centring."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from torch import nn
from torch.nn import functional as F

from monai_cluster.networks import ClusterHead, ProjectionHead, Prototypes, auto_num_prototypes
from monai_cluster.networks.cluster_head import RunningCenter


def test_scores_are_cosine_similarities_also_under_autocast() -> None:
    torch.manual_seed(0)
    prototypes = Prototypes(6, [4, 3])
    nn.init.normal_(prototypes.weight)
    x = torch.randn(2, 5, 6) * 7
    expected = cosine_similarity(x.flatten(0, 1).numpy(), prototypes.weight.detach().numpy())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = prototypes(x)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.detach().flatten(0, 1).numpy(), expected, atol=1e-6)


def test_prototypes_start_at_unit_length_and_return_to_it() -> None:
    prototypes = Prototypes(6, 9)
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(9))
    direction = F.normalize(prototypes.weight.detach() * 3 + 1, dim=1)
    with torch.no_grad():
        prototypes.weight.mul_(3).add_(1)
    prototypes.normalize_()
    torch.testing.assert_close(prototypes.weight.detach(), direction)
    assert prototypes.num_prototypes == (9,)


def test_setting_a_head_leaves_the_others() -> None:
    prototypes = Prototypes(4, (2, 3, 2))
    before = prototypes.weight.detach().clone()
    centroids = torch.randn(3, 4) * 5
    prototypes.set_head(1, centroids)
    torch.testing.assert_close(prototypes.weight[2:5].detach(), F.normalize(centroids, dim=1))
    assert torch.equal(prototypes.weight[:2], before[:2])
    assert torch.equal(prototypes.weight[5:], before[5:])
    with pytest.raises(ValueError, match=r"head must be one of 0\.\.2, got 3"):
        prototypes.set_head(3, centroids)
    with pytest.raises(ValueError, match="head 0 needs centroids 2 4, got"):
        prototypes.set_head(0, centroids)


@pytest.mark.parametrize(
    ("samples", "expected"), [(1, 2), (40, 20), (128, 64), (4800, 64), (7500, 100), (100_000, 1333), (100_001, 3000)]
)
def test_automatic_number_of_prototypes(samples: int, expected: int) -> None:
    assert auto_num_prototypes(samples) == expected


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        auto_num_prototypes(0)
    for sizes in (0, [], [3, 0]):
        with pytest.raises(ValueError, match="every num_prototypes must be at least 1"):
            Prototypes(4, sizes)
    with pytest.raises(ValueError, match="num_layers must be at least 1"):
        ProjectionHead(4, num_layers=0)
    with pytest.raises(ValueError, match="the projector gives 5 dimensions and the prototypes have 4"):
        ClusterHead(ProjectionHead(3, 3, 5), Prototypes(4, 2))
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\)"):
        ClusterHead(None, Prototypes(4, 2), center=True, momentum=1.0)


def test_the_default_projection_is_2048_2048_128() -> None:
    head = ProjectionHead(2048)
    assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)] == [
        (2048, 2048),
        (2048, 128),
    ]


def test_a_normalised_output_cannot_shrink_to_a_point() -> None:
    torch.manual_seed(0)
    nearly_equal = 1 + 1e-2 * torch.randn(32, 6)
    plain, held = (ProjectionHead(6, 8, 4, num_layers=1, normalize_output=on) for on in (False, True))
    held[0].load_state_dict(plain[0].state_dict())
    found = held(nearly_equal)
    torch.testing.assert_close(found.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    # PyTorch adds 1e-5 to the variance, which is about 5e-5 here
    variance = plain(nearly_equal).var(0, correction=0)
    torch.testing.assert_close(found.var(0, correction=0), variance / (variance + 1e-5), atol=1e-4, rtol=1e-4)
    assert not list(held[1].parameters())


def test_a_head_projects_all_views_together_and_normalises() -> None:
    torch.manual_seed(0)
    head = ClusterHead(ProjectionHead(6, 8, 4), Prototypes(4, 5))
    views = [torch.randn(3, 6) for _ in range(4)]
    projected = head.projector(torch.cat(views)).view(4, 3, 4)
    output = head(views)
    torch.testing.assert_close(output.embeddings, F.normalize(projected, dim=-1))
    torch.testing.assert_close(output.scores, output.embeddings @ head.prototypes.weight.T)
    assert output.prototypes is not None
    torch.testing.assert_close(output.prototypes, head.prototypes.weight.detach())
    assert not output.prototypes.requires_grad


def test_heads_stay_in_float32_under_autocast() -> None:
    head = ClusterHead(ProjectionHead(6, 8, 4), Prototypes(4, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = head([torch.randn(3, 6).bfloat16() for _ in range(2)])
    assert {output.embeddings.dtype, output.scores.dtype} == {torch.float32}
    torch.testing.assert_close(output.embeddings.norm(dim=-1), torch.ones(2, 3))


def test_the_running_center_is_the_mean_of_earlier_batches() -> None:
    torch.manual_seed(0)
    center = RunningCenter(4, momentum=0.9)
    batches = [F.normalize(torch.randn(5, 4) + 2, dim=1) for _ in range(4)]
    assert torch.allclose(center(batches[0]), batches[0]), "nothing is known before the first batch"
    for number in range(1, 4):
        mean = torch.stack([batch.mean(0) for batch in batches[:number]]).mean(0)
        torch.testing.assert_close(center(batches[number]), F.normalize(batches[number] - mean, dim=1))
    before = center.mean.clone()
    center.eval()(batches[0])
    assert torch.equal(center.mean, before)


def test_an_old_center_decays_by_its_momentum() -> None:
    center = RunningCenter(1, momentum=0.5)
    for value in (1.0, 1.0, -1.0):
        center(torch.tensor([[value]]))
    assert center.mean.item() == pytest.approx(0.5 * 1 + 0.5 * -1)


def test_two_views_of_one_volume_stay_alike_when_centred() -> None:
    torch.manual_seed(0)
    head = ClusterHead(None, Prototypes(8, 3), center=True)
    one = F.normalize(torch.randn(1, 8), dim=1)
    embeddings = head([one, F.normalize(one + 0.01, dim=1)]).embeddings
    assert (embeddings[0] * embeddings[1]).sum() > 0.99


def centre_on_rank(rank: int, batches: list[torch.Tensor]) -> torch.Tensor:
    center = RunningCenter(4)
    for batch in batches:
        center(batch[:3] if rank == 0 else batch[3:])
    return center.mean


def test_two_ranks_have_the_center_of_the_whole_batch(gloo_pair) -> None:  # type: ignore[no-untyped-def]
    batches = [F.normalize(torch.randn(8, 4), dim=1) for _ in range(2)]
    expected = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    for mean in gloo_pair(centre_on_rank, batches):
        torch.testing.assert_close(mean, expected)
