# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Exports: what is read back computes the same, what does not is not kept, and no file says where it was made."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import monai.data
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cluster.networks import (
    ClusterClassifier,
    ClusterDetector,
    ContextSliceUNet,
    DeformableAggregator,
    DynUNetBaseline,
    InflatedUNet,
    QueryAttentionPool,
    SliceEmbedder,
    SliceEncoder,
    TransformerAggregator,
)
from monai_cluster.weights import (
    export,
    export_bundle_model,
    export_safetensors,
    export_torchscript,
    export_torchvision,
    torchscript_file,
)
from monai_cluster.weights.round_trip import other_sizes, require_agreement, tensors_of
from tests.networks.tiny import tiny_encoder

CHANNELS = (16, 16, 8, 8, 8)
ROOT = str(Path(__file__).resolve().parents[2])


def lived(network: nn.Module) -> nn.Module:
    """With statistics and zero-initialised layers as after training, so that none of them can be lost unnoticed."""
    generator = torch.Generator().manual_seed(3)
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
        elif name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif name.startswith("slice_context"):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return network


def encoder(in_channels: int = 1) -> SliceEncoder:
    return SliceEncoder("resnet18", in_channels, 8)


def context() -> DeformableAggregator:
    return DeformableAggregator(8, 2, 2, 4, 12, stride=3)


IMAGE, VOLUME = (1, 1, 64, 96), (2, 1, 64, 64, 5)
SCRIPTABLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "embedder": (lambda: SliceEmbedder(encoder()), IMAGE),
    "tiny embedder": (lambda: SliceEmbedder(tiny_encoder()), IMAGE),
    "unet on volumes": (lambda: ContextSliceUNet(encoder(), context(), 3, CHANNELS), VOLUME),
    "unet on images": (lambda: ContextSliceUNet(encoder(), context(), 3, CHANNELS), IMAGE),
    "inflated": (lambda: InflatedUNet("resnet18", 1, 3, CHANNELS), (1, 1, 33, 40, 5)),
    "classifier": (lambda: ClusterClassifier(encoder(), context(), 4), VOLUME),
    "transformer": (lambda: ClusterClassifier(encoder(), TransformerAggregator(8, 1, 2, 4, 12), 4), VOLUME),
    "queries": (lambda: ClusterClassifier(encoder(), QueryAttentionPool(8, 2, 4), 4), VOLUME),
}


@pytest.mark.parametrize("name", SCRIPTABLE)
def test_torchscript_predicts_the_same_on_images_of_other_sizes(name: str, tmp_path: Path) -> None:
    build, shape = SCRIPTABLE[name]
    torch.manual_seed(0)
    network = lived(build()).eval()
    path = export_torchscript(network, torch.rand(shape), tmp_path / "model.ts", {"classes": ["a", "b"]})
    found, description, _ = monai.data.load_net_with_metadata(str(path))
    other = torch.rand(3, *shape[1:2], *(length + 5 for length in shape[2:]))
    with torch.no_grad():
        torch.testing.assert_close(found(other), network(other), rtol=1e-4, atol=1e-5)
    assert description == {"classes": ["a", "b"]}


def test_torchscript_files_do_not_say_where_they_were_made(tmp_path: Path) -> None:
    path = export_torchscript(SliceEmbedder(tiny_encoder()), torch.rand(2, 1, 16, 16), tmp_path / "model.ts")
    with zipfile.ZipFile(path) as records:
        content = b"".join(records.read(name) for name in records.namelist())
        names = records.namelist()
    assert any(
        "SliceEmbedder" in records.filename or records.filename.endswith(".py")
        for records in zipfile.ZipFile(path).infolist()
    )
    for secret in (ROOT, str(tmp_path), "site-packages"):
        assert secret.encode() not in content
        assert not any(secret in name for name in names)


class Detector(ClusterDetector):
    """Small, with a threshold that noise does not reach."""

    def __init__(self) -> None:
        super().__init__(2, 2, slice_encoder=encoder(), channels=16, levels=(2, 3, 4), score_threshold=0.9)


STATES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "unet": SCRIPTABLE["unet on volumes"],
    "dynunet, blocks under two names": (lambda: DynUNetBaseline(2, 1, 2, (8, 16, 32), 1), (2, 1, 33, 64)),
    "detector": (Detector, (2, 1, 64, 64)),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize(
    ("write", "read"),
    [
        (export_safetensors, load_file),
        (export_bundle_model, lambda path: torch.load(path, weights_only=True)),
    ],
    ids=["safetensors", "bundle"],
)
def test_state_dicts_come_back_bit_by_bit(
    name: str, write: Callable[..., Path], read: Callable[[Path], dict[str, Tensor]], tmp_path: Path
) -> None:
    build, shape = STATES[name]
    network = lived(build()).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = read(write(network, torch.rand(shape), tmp_path / "new" / "model"))
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], before[key]) for key in before)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert getattr(network, "box_selector", None) is None or network.box_selector.score_thresh == 0.9


def torchvision_stages(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """torchvision's ResNet-18 written down from its names alone: what its own code does with such a file."""

    def norm(name: str, x: Tensor) -> Tensor:
        parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts, eps=1e-5)

    x = F.max_pool2d(norm("bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=3)).relu(), 3, 2, 1)
    stages = []
    for stage in range(1, 5):
        for block in range(2):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = norm(f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)).relu()
            out = norm(f"{name}.bn2", F.conv2d(out, state[f"{name}.conv2.weight"], padding=1))
            if f"{name}.downsample.0.weight" in state:
                x = norm(f"{name}.downsample.1", F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride))
            x = (out + x).relu()
        stages.append(x)
    return stages


@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (1, 1, 64, 64, 3)], ids=["images", "volume"])
def test_torchvisions_resnet_gives_our_features_on_a_repeated_grey_image(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = lived(ContextSliceUNet(encoder(), context(), 3, CHANNELS)).eval()
    path = export_torchvision(network, torch.rand(shape), tmp_path / "resnet18.pth")
    state = torch.load(path, weights_only=True)
    assert len(state) == 120  # torchvision's 122 without fc
    image = torch.rand(2, 1, 70, 50)
    with torch.no_grad():
        wanted = network.slice_encoder.pyramid(image)
        for mine, theirs in zip(wanted, torchvision_stages(state, image.repeat(1, 3, 1, 1)), strict=True):
            torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5)


def test_torchvisions_layout_refuses_what_is_no_2d_resnet(tmp_path: Path) -> None:
    image = torch.rand(2, 1, 32, 32)
    with pytest.raises(TypeError, match="InflatedUNet holds no SliceEncoder"):
        export_torchvision(InflatedUNet("resnet18", 1, 2, CHANNELS), image, tmp_path / "a")
    with pytest.raises(ValueError, match="takes 2 different channels, which cannot become 3: give in_channels=2"):
        export_torchvision(encoder(2), torch.rand(2, 2, 32, 32), tmp_path / "a")
    with pytest.raises(ValueError, match="only the named ResNets have torchvision's layout"):
        export_torchvision(tiny_encoder(), image, tmp_path / "a")
    export_torchvision(encoder(2), torch.rand(2, 2, 32, 32), tmp_path / "a", in_channels=2)
    assert torch.load(tmp_path / "a", weights_only=True)["conv1.weight"].shape[1] == 2


def test_a_file_that_loses_a_layer_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = SliceEmbedder(tiny_encoder()), torch.rand(2, 1, 16, 16)
    old = export_safetensors(network, image, tmp_path / "model.safetensors").read_bytes()

    def forgetful(path: Path) -> dict[str, Tensor]:
        state = load_file(path)
        state["slice_encoder.projection.bias"] += 0.001
        return state

    monkeypatch.setattr(export, "load_file", forgetful)
    with pytest.raises(RuntimeError, match=r"the safetensors file computes something else .* they differ by 0.001"):
        export_safetensors(network, image, tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == old


def test_a_scripted_network_that_forgets_its_input_size_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Upsampled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x.mean((2, 3), keepdim=True), size=(int(x.shape[2]), int(x.shape[3])))

    example = torch.rand(2, 1, 16, 16)
    traced = torch.jit.trace(Upsampled(), example)
    monkeypatch.setattr(torchscript_file.torch.jit, "script", lambda network: traced)
    with pytest.raises(RuntimeError, match="TorchScript file gives other shapes than the network on an input of"):
        export_torchscript(Upsampled(), example, tmp_path / "model.ts")
    assert not list(tmp_path.iterdir())


def test_what_torchscript_cannot_hold_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"TorchScript cannot compile Detector \(.*a detector goes as safetensors"):
        export_torchscript(Detector(), torch.rand(1, 1, 64, 64), tmp_path / "model.ts")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [export_safetensors, export_bundle_model, export_torchvision])
def test_broken_weights_are_not_exported(write: Callable[..., Path], tmp_path: Path) -> None:
    network = encoder()
    with torch.no_grad():
        network.backbone.conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"conv1.weight and 0 more hold NaN or infinite weights"):
        write(network, torch.rand(1, 1, 32, 32), tmp_path / "model")
    assert not list(tmp_path.iterdir())


class Scaled(nn.Module):
    """Multiplies; wants even heights."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % 2:
            raise ValueError("odd")
        return x * self.factor


@pytest.mark.parametrize(("size", "allowed"), [(1.0, 0.9e-4), (1000.0, 0.9e-1)])
def test_agreement_is_within_one_in_ten_thousand_of_the_largest_output(size: float, allowed: float) -> None:
    images = [torch.full((1, 1, 2, 2), size)]
    assert require_agreement(nn.Identity(), lambda x: x + allowed, images, "test") == pytest.approx(0.9e-4, rel=1e-2)
    with pytest.raises(RuntimeError, match="the test file computes something else than the network on an input of"):
        require_agreement(nn.Identity(), lambda x: x - 1.3 * allowed, images, "test")
    with pytest.raises(RuntimeError, match="differ by inf"):
        require_agreement(nn.Identity(), lambda x: x * torch.nan, images, "test")
    with pytest.raises(ValueError, match="the network gives NaN or infinite numbers"):
        require_agreement(Scaled(torch.inf), lambda x: x, images, "test")
    with pytest.raises(ValueError, match="gives no numbers for the example"):
        require_agreement(nn.Identity(), lambda x: x, [torch.zeros(0, 1, 2, 2)], "test")


def test_other_sizes_are_uneven_with_padded_slices_where_the_network_takes_them() -> None:
    alone, uneven = other_sizes(nn.Identity(), torch.rand(2, 1, 32, 32, 4))
    assert (tuple(alone.shape), tuple(uneven.shape)) == ((1, 1, 32, 32, 4), (3, 1, 35, 46, 6))
    assert (uneven[0, ..., -2:] == 0).all()
    assert (uneven[1:, ..., -2:] != 0).any()
    assert [tuple(other.shape) for other in other_sizes(Scaled(1), torch.rand(2, 1, 8, 8))] == [
        (1, 1, 8, 8),
        (3, 1, 8, 8),
    ]


def test_outputs_are_compared_in_whatever_they_come() -> None:
    a, b, c = torch.rand(3, 1)
    assert tensors_of({"z": [a, (b,)], "b": c}) == [c, a, b]
    with pytest.raises(TypeError, match="output must be tensors, got a str"):
        tensors_of([a, "b"])
