# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Detectors: losses, anchors, windows, and that they learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.nn import functional as F

from monai_cluster.data import labelled_preprocessing, load_datalist
from monai_cluster.metrics import score_detections
from monai_cluster.networks import ClusterDetector, DeformableAggregator, anchor_strides, build_detector
from monai_cluster.networks.aligned_windows import aligned_inferer
from monai_cluster.networks.retinanet import FocalLossPerPositive
from monai_cluster.weights import build_network

from .tiny import tiny_encoder

SIZES = {2: (48, 56), 3: (32, 32, 12)}


def tiny_detector(dims: int, **options: Any) -> ClusterDetector:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "slice_encoder": tiny_encoder(),
        "channels": 16,
        "levels": (1, 2),
        "anchor_shapes": [[12, 14, 7][:dims]],
        "anchor_scales": (1, 1.5),
    }
    if dims == 3:
        given |= {"kind": "stacked", "depth_strides": (2, 4)}
        given |= {"slice_aggregator": DeformableAggregator(8, 1, 2, 4, 12, dropout=0.0)}
    return ClusterDetector(dims, 2, **(given | options))


def bright_boxes(dims: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """An image with a grey box of class 0 in one half and a white one of class 1 in the other."""
    generator = torch.Generator().manual_seed(seed)
    size = SIZES[dims]
    image = torch.rand(1, *size, generator=generator) * 0.2
    boxes = []
    for label in range(2):
        side = torch.tensor([9, 12, 6][:dims]) + torch.randint(0, 4, (dims,), generator=generator)
        space = torch.tensor([size[0] // 2, *size[1:]]) - side
        low = (torch.rand(dims, generator=generator) * (space + 1)).long()
        low[0] += label * (size[0] // 2)
        image[(0, *(slice(int(a), int(a + b)) for a, b in zip(low, side, strict=True)))] = 0.6 + 0.4 * label
        boxes.append(torch.cat([low, low + side]).float())
    return image, {"box": torch.stack(boxes), "box_label": torch.tensor([0, 1])}


@pytest.mark.parametrize(("dims", "box_loss"), [(2, "giou"), (2, "l1"), (3, "giou")])
def test_a_detector_learns_two_images_by_heart(dims: int, box_loss: Any) -> None:
    detector = tiny_detector(dims, box_loss=box_loss)
    images, targets = zip(*(bright_boxes(dims, seed) for seed in (1, 2)), strict=True)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    scores: dict[str, float] = {}
    for step in range(200):
        losses = detector(list(images), list(targets))
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 19:
            detector.eval()
            with torch.no_grad():
                scores = score_detections(detector(list(images)), targets, ["grey", "white"])
            detector.train()
            if scores["ap_50"] == 1:
                break
    assert [scores["ap_10"], scores["ap_50"]] == [1, 1]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_without_boxes_has_a_box_loss_of_zero_with_gradients_of_zero(dims: int) -> None:
    detector = tiny_detector(dims)
    nothing = {"box": torch.zeros(0, 2 * dims), "box_label": torch.zeros(0, dtype=torch.int64)}
    losses = detector([bright_boxes(dims, 1)[0]] * 2, [nothing] * 2)
    assert float(losses["box_regression"].detach()) == 0
    assert float(losses["classification"].detach()) > 0
    sum(losses.values()).backward()
    trained = {name: value for name, value in detector.named_parameters() if value.requires_grad}
    assert [name for name, value in trained.items() if value.grad is None] == []
    assert not any(value.grad.any() for name, value in trained.items() if "regression_head" in name)


def test_focal_loss_is_summed_and_divided_by_the_positives() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 3, generator=generator)
    targets = (torch.rand(50, 3, generator=generator) < 0.1).float()
    probability = logits.sigmoid()
    right = torch.where(targets > 0, probability, 1 - probability)
    weight = torch.where(targets > 0, 0.3, 0.7)
    expected = -(weight * (1 - right) ** 1.5 * right.log()).sum() / targets.sum()
    torch.testing.assert_close(FocalLossPerPositive(1.5, 0.3)(logits, targets), expected)
    nothing = FocalLossPerPositive(0.0, None)(logits, torch.zeros_like(targets))
    torch.testing.assert_close(nothing, F.softplus(logits).sum())


def test_a_box_that_is_an_anchor_is_matched_with_it_alone_and_costs_no_box_loss() -> None:
    detector = tiny_detector(2, box_loss="l1", anchor_shapes=[[8, 8]], anchor_scales=(1, 4))
    for head in (detector.network.regression_head.bbox_reg,):
        torch.nn.init.zeros_(head.weight)
    box = torch.tensor([[18.0 + 2 - 4 - 1, 18 + 2 - 4 - 1, 18 + 2 + 4 - 1, 18 + 2 + 4 - 1]])  # centre 19 = 9·2 + 1
    target = {"box": box, "box_label": torch.tensor([1])}
    losses = detector([torch.rand(1, 64, 64)], [target])
    assert float(losses["box_regression"].detach()) == 0
    locations = [32 * 32, 16 * 16]
    (matched,) = detector.compute_anchor_matched_idxs(detector.anchors, [target], locations)
    assert (matched >= 0).nonzero()[:, 0].tolist() == [9 * 32 + 9]
    assert detector.anchors[0][9 * 32 + 9].tolist() == box[0].tolist()


def test_a_box_whose_candidates_overlap_it_alike_still_gets_an_anchor() -> None:
    detector = tiny_detector(2, anchor_shapes=[[8, 8]], anchor_scales=(1, 4))
    # Its centre is the corner of four cells on both levels: four overlaps of one size, four of another.
    target = {"box": torch.tensor([[28.0, 28, 36, 36]]), "box_label": torch.tensor([0])}
    detector([torch.rand(1, 64, 64)], [target])
    locations = [32 * 32, 16 * 16]
    alone = detector.proposal_matcher(target["box"], detector.anchors[0], locations, 1)[1]
    assert (alone < 0).all()
    (matched,) = detector.compute_anchor_matched_idxs(detector.anchors, [target], locations)
    (place,) = (matched >= 0).nonzero()[:, 0].tolist()
    centre = (detector.anchors[0][place, :2] + detector.anchors[0][place, 2:]) / 2
    assert (centre - 32).abs().tolist() == [1, 1]


def test_anchors_of_a_level_stand_on_the_centres_of_its_cells() -> None:
    detector = tiny_detector(3, depth_strides=(1, 3)).eval()
    with torch.no_grad():
        detector([torch.rand(1, 32, 64, 12)])
    centres = (detector.anchors[0][:, :3] + detector.anchors[0][:, 3:]) / 2
    fine, coarse = centres.split([16 * 32 * 12, 8 * 16 * 4])
    assert [fine.amin(0).tolist(), fine.amax(0).tolist()] == [[1, 1, 0], [31, 63, 11]]
    assert [coarse.amin(0).tolist(), coarse.amax(0).tolist()] == [[2, 2, 1], [30, 62, 10]]


@pytest.mark.parametrize("dims", [2, 3])
def test_images_of_any_size_give_boxes_inside_of_each(dims: int) -> None:
    detector = tiny_detector(dims, score_threshold=0.0, max_detections=20).eval()
    sizes = [(33, 47, 7)[:dims], (50, 20, 10)[:dims]]
    with torch.no_grad():
        found = detector([torch.rand(1, *size) for size in sizes])
    for size, case in zip(sizes, found, strict=True):
        assert set(case) == {"box", "box_label", "score"}
        assert len(case["box"]) == 20
        assert (case["box"] >= 0).all()
        assert (case["box"] <= torch.tensor(size * 2)).all()
        assert (case["score"].diff() <= 0).all()


def test_outputs_are_float32_in_autocast_since_bfloat16_cannot_count_pixels() -> None:
    detector = tiny_detector(2)
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(
            [torch.rand(1, 64, 320)],
            [{"box": torch.tensor([[3.0, 299, 15, 313]]), "box_label": [0]}][:1]
            and [{"box": torch.tensor([[3.0, 299, 15, 313]]), "box_label": torch.tensor([0])}],
        )
    assert detector.anchors[0].dtype == torch.float32
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert detector.anchors[0][:, 1].unique().numel() > 100


def test_only_sampled_anchors_count_where_negatives_are_mined() -> None:
    image, target = bright_boxes(2, 1)
    mined, every = tiny_detector(2, sampled_anchors=8), tiny_detector(2)
    assert float(mined([image], [target])["classification"].detach()) < float(
        every([image], [target])["classification"].detach()
    )


def test_meta_data_does_not_reach_the_losses() -> None:
    image, target = bright_boxes(2, 1)
    losses = tiny_detector(2)([MetaTensor(image)], [{key: MetaTensor(value) for key, value in target.items()}])
    assert {type(value) for value in losses.values()} == {Tensor}


def test_windows_tile_every_level_as_the_whole_image_does() -> None:
    image = torch.rand(1, 1, 160, 96, generator=torch.Generator().manual_seed(0))

    def levels(patches: Tensor) -> tuple[Tensor, ...]:
        return tuple(F.avg_pool2d(patches, stride) for stride in (4, 32))

    for overlap in (0.0, 0.3, 0.5, 0.9):
        inferer = aligned_inferer((150, 96), (64, 128), (32, 32), overlap, 2)
        for windowed, whole in zip(inferer(image, levels), levels(image), strict=True):
            torch.testing.assert_close(windowed, whole)


def test_a_window_as_large_as_the_image_changes_nothing_and_a_small_one_is_slid() -> None:
    image = torch.rand(1, 90, 60, generator=torch.Generator().manual_seed(0))
    options = {"score_threshold": 0.0, "max_detections": 10}
    whole, large, small = (tiny_detector(2, window=window, **options).eval() for window in (None, (96, 64), (64, 32)))
    calls: list[tuple[int, ...]] = []
    small.network.register_forward_pre_hook(lambda _, given: calls.append(tuple(given[0].shape[2:])))
    with torch.no_grad():
        expected, same = whole([image])[0], large([image])[0]
        small([image])
        assert set(calls) == {(64, 32)}
        assert len(calls) == 2 * 2  # 96 × 64 in steps of 32
        calls.clear()
        small([image], use_inferer=False)
        assert calls == [(96, 64)]
    torch.testing.assert_close(same["box"], expected["box"])


@pytest.mark.parametrize(
    ("dims", "kind", "context"),
    [(2, "slice", False), (3, "inflated", False), (3, "stacked", False), (3, "stacked", True)],
)
def test_architecture_and_state_dict_build_the_same_detector(dims: int, kind: Any, context: bool) -> None:
    torch.manual_seed(0)
    detector = build_detector(
        dims, 2, kind, slice_aggregator=DeformableAggregator(640, 1, 2, 4, 12) if context else None, model="resnet18",
        channels=16, score_threshold=0.0, max_detections=5,
    ).eval()  # fmt: skip
    state = detector.state_dict()
    assert len({value.data_ptr() for value in state.values() if value.numel()}) == len(
        [value for value in state.values() if value.numel()]
    )
    description = json.loads(json.dumps({"type": "ClusterDetector"} | detector.architecture()))
    other = build_network(description).eval()
    other.load_state_dict(state)
    image = torch.rand(1, *(32, 32, 16)[:dims])
    with torch.no_grad():
        torch.testing.assert_close(other([image])[0]["box"], detector([image])[0]["box"])
    assert (detector.slice_encoder is None) == (kind == "inflated")
    assert (detector.slice_aggregator is not None) == context


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "stacked"}, "with spatial_dims 2"),
        ({"kind": "cascade"}, "'slice' for images"),
        ({"slice_aggregator": DeformableAggregator(8, 1, 2, 4, 12)}, "belongs to kind 'stacked'"),
        ({"anchor_shapes": [[8, 8, 8]]}, "anchor_shapes must be 2"),
        ({"anchor_scales": (1, 2, 4)}, "for each of 2 levels"),
        ({"box_loss": "l2"}, "'giou' or 'l1'"),
        ({"window": (48, 64)}, "multiples of"),
        ({"window": (64, 64), "window_overlap": 1.0}, "window_overlap must"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_detector(2, **options)


def test_an_encoder_of_slices_cannot_be_inflated() -> None:
    with pytest.raises(ValueError, match="builds its own 3D ResNet"):
        ClusterDetector(3, 1, "inflated", slice_encoder=tiny_encoder())


def test_labels_count_from_zero() -> None:
    image, target = bright_boxes(2, 1)
    with pytest.raises(ValueError, match="count classes from 0"):
        tiny_detector(2)([image], [{**target, "box_label": target["box_label"] + 1}])


def test_training_needs_targets() -> None:
    with pytest.raises(ValueError, match="targets"):
        tiny_detector(2)([bright_boxes(2, 1)[0]])


@pytest.mark.shared_data
def test_a_detector_learns_from_real_tumour_boxes(shared_data: Path) -> None:
    rows = load_datalist(shared_data / "brain_tumor_det2d" / "datalist.json", require=["box", "box_label"]).rows
    prepare = labelled_preprocessing("detection", 2, image_size=128)
    samples = [prepare(row) for row in rows[:20:5]]
    detector = tiny_detector(2, anchor_shapes=[[12, 12], [24, 24]])
    images, targets = (
        [sample["image"] for sample in samples],
        [{key: sample[key] for key in ("box", "box_label")} for sample in samples],
    )
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    history = []
    for _ in range(15):
        loss = sum(detector(images, targets).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(float(loss.detach()))
    assert history[-1] < 0.7 * history[0]


@pytest.mark.parametrize(("dims", "kind"), [(2, "slice"), (3, "stacked"), (3, "inflated")])
def test_anchor_strides_are_the_input_over_the_feature_maps(dims: int, kind: str) -> None:
    detector = ClusterDetector(dims, 1, kind, channels=16, depth_strides=(1, 2, 4, 16))  # type: ignore[arg-type]
    size = (64, 96, 32)[:dims]
    with torch.no_grad():
        maps = detector.extractor(torch.rand(1, 1, *size))
    levels, depths = detector.arguments["levels"], detector.arguments["depth_strides"]
    wanted = [[side // cells for side, cells in zip(size, level.shape[2:], strict=True)] for level in maps]
    assert anchor_strides(dims, kind, levels, depths) == wanted
