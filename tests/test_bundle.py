# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The bundle `joint_pretraining`: what MONAI checks of a bundle, and tiny runs of every configuration on phantoms."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow, ckpt_export, verify_net_in_out
from monai.utils import set_determinism
from safetensors.torch import load_file

from monai_cluster.apps.bundle_files import bundle_root
from monai_cluster.apps.embeddings import load_embeddings
from monai_cluster.data import write_phantoms
from monai_cluster.networks import SliceEmbedder
from monai_cluster.weights import load_pretrained

from . import bundle_checks as checks
from .bundle_checks import cause_of, epochs_of, finished

BUNDLE = bundle_root("joint_pretraining")
META = checks.meta_file(BUNDLE)
OVERRIDES = ("cpu", "gpu", "paper", "deepcluster", "stages", "multi_gpu_train")
TINY: dict[str, Any] = {
    "model": "resnet18", "embedding_dim": 16, "aggregator_layers": 1, "aggregator_heads": 2, "head_dim": 8,
    "ffn_dim": 16,
    "image_projection_hidden": 16, "image_projection_dim": 8, "image_size": 32, "local_size": 16, "num_local": 1,
    "source_image_size": 32, "volume_size": 32, "num_slices": 4, "max_slices": 8, "slices_per_volume": 2,
    "image_batch_size": 8, "volume_batch_size": 4, "image_prototypes": 6, "volume_prototypes": 4,
    "image_queue_length": 8, "image_queue_start_epoch": 2, "volume_queue_length": 4, "volume_queue_start_epoch": 2,
    "freeze_prototypes_iterations": 1, "epoch_length": 2, "max_epochs": 1, "warmup_epochs": 0, "num_workers": 0,
    "cache_workers": 1, "amp": False, "device": "$torch.device('cpu')", "pictures": False,
}  # fmt: skip


def files(*names: str) -> list[str]:
    return checks.files(BUNDLE, *names)


@pytest.fixture(autouse=True)
def _determinism_as_before() -> Iterator[None]:
    """The bundle sets MONAI's determinism, which is global."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    set_determinism(None)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    return write_phantoms(
        tmp_path_factory.mktemp("data") / "phantoms",
        num_volumes_per_class=2,
        num_images_per_class=4,
        size=32,
        test_share=0.5,
    )


def workflow(out: Path, phantoms: Path, *configs: str, **changes: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=files(*(configs or ("train",))), meta_file=META, logging_file=False, workflow_type="train",
        **{"bundle_root": str(BUNDLE), "output_dir": str(out), "datalist": str(phantoms)} | TINY | changes,
    )  # fmt: skip


def losses_of(epoch: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in epoch.items() if name.endswith("_loss")}


# files


def test_no_configuration_has_a_key_twice() -> None:
    checks.check_that_no_key_is_given_twice(BUNDLE)


@pytest.mark.parametrize("name", checks.config_names(BUNDLE))
def test_targets_are_full_names_in_four_packages_and_exist(name: str) -> None:
    checks.check_targets(checks.read(BUNDLE, name))


def test_expressions_import_nothing_but_the_four_packages_and_the_standard_library() -> None:
    checks.check_imports(BUNDLE)


@pytest.mark.parametrize("names", [(), *[(name,) for name in OVERRIDES], OVERRIDES], ids="+".join)
def test_override_files_override_and_add_nothing_that_nobody_reads(names: tuple[str, ...], monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    checks.check_overrides(BUNDLE, "train", names)


def test_several_processes_prepare_everything_that_one_process_prepares() -> None:
    checks.check_that_several_processes_prepare_what_one_does(BUNDLE)


# MONAI's checks


def test_metadata_has_what_the_schema_requires_and_the_packages_version() -> None:
    checks.check_metadata(BUNDLE)


def test_metadata_pins_the_versions_of_the_constraints() -> None:
    checks.check_pins(BUNDLE)


def test_metadata_passes_monais_schema(tmp_path: Path) -> None:
    checks.check_schema(BUNDLE, tmp_path)


def test_network_of_embed_takes_and_gives_what_the_metadata_says(tmp_path: Path) -> None:
    verify_net_in_out(net_id="network_def", meta_file=META, config_file=files("embed"), device="cpu")
    wrong = checks.read(BUNDLE, "metadata")
    wrong["network_data_format"]["outputs"]["pred"]["num_channels"] = 641
    (tmp_path / "metadata.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="641"):
        verify_net_in_out(
            net_id="network_def", meta_file=str(tmp_path / "metadata.json"), config_file=files("embed"), device="cpu"
        )


def test_network_of_embed_exports_by_scripting_and_computes_the_same(tmp_path: Path) -> None:
    embedder = SliceEmbedder(model="resnet18", embedding_dim=16).eval()
    torch.save(embedder.state_dict(), tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def", filepath=str(tmp_path / "model.ts"), ckpt_file=str(tmp_path / "model.pt"), meta_file=META,
        config_file=files("embed"), model="resnet18", embedding_dim=16,
    )  # fmt: skip
    scripted = torch.jit.load(tmp_path / "model.ts").eval()
    image = torch.rand(3, 1, 64, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scripted(image), embedder(image))


# runs


@pytest.fixture(scope="module")
def swav_run(tmp_path_factory, phantoms: Path) -> tuple[Path, ConfigWorkflow]:
    """One finished run of SwAV with all three losses."""
    out = tmp_path_factory.mktemp("runs") / "swav"
    made = finished(workflow(out, phantoms, max_epochs=2))
    return out, made


def test_the_train_workflow_has_all_properties_that_monai_asks_for(swav_run) -> None:
    _, made = swav_run
    assert made.check_properties() == []


def test_a_joint_run_reports_three_losses_and_health_and_exports_what_it_trained(swav_run) -> None:
    out, made = swav_run
    first, second = epochs_of(out)
    for epoch in (first, second):
        assert set(losses_of(epoch)) == {"image_loss", "volume_loss", "mask_loss"}
        assert epoch["loss"] == pytest.approx(sum(losses_of(epoch).values()), rel=1e-6)
    assert first["image_uniform"] == pytest.approx(math.log(6))
    assert second["volume_uniform"] == pytest.approx(math.log(4))
    assert (first["image_queue_active"], second["image_queue_active"]) == (0, 1)
    assert 0 < second["image_occupancy"] <= 1 <= second["volume_rank_me"]
    encoder, aggregator, _ = load_pretrained(out / "exported" / "encoder.safetensors")
    trained = made.parser.get_parsed_content("slice_encoder").state_dict()
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, trained[name], rtol=0, atol=0)
    assert type(aggregator).__name__ == "DeformableAggregator"
    assert int(encoder.state_dict()["backbone.bn1.num_batches_tracked"]) > 0, "it never saw a batch"


def test_a_run_refuses_a_folder_that_holds_one(swav_run, phantoms: Path) -> None:
    out, _ = swav_run
    before = (out / "exported" / "encoder.safetensors").read_bytes()
    with pytest.raises(Exception) as failure:
        workflow(out, phantoms).initialize()
    assert isinstance(cause_of(failure), FileExistsError)
    assert "already holds a run" in str(cause_of(failure))
    assert (out / "exported" / "encoder.safetensors").read_bytes() == before


def test_a_mistyped_key_stops_the_bundle_with_the_right_one(tmp_path: Path, phantoms: Path) -> None:
    with pytest.raises(Exception) as failure:
        workflow(tmp_path / "out", phantoms, max_epoch=1).initialize()
    assert "unknown configuration key 'max_epoch': did you mean 'max_epochs'?" in str(cause_of(failure))
    assert not (tmp_path / "out").exists()


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(swav_run, tmp_path: Path, phantoms: Path) -> None:
    out, _ = swav_run
    # the schedule is that of two epochs, the run stops after one
    finished(workflow(tmp_path / "out", phantoms, max_epochs=2, total_epochs=1))
    assert [epoch["epoch"] for epoch in epochs_of(tmp_path / "out")] == [1]
    halfway = load_file(tmp_path / "out" / "exported" / "encoder.safetensors")
    finished(workflow(tmp_path / "out", phantoms, max_epochs=2, resume=True))
    assert [epoch["epoch"] for epoch in epochs_of(tmp_path / "out")] == [1, 2]
    straight = load_file(out / "exported" / "encoder.safetensors")
    resumed = load_file(tmp_path / "out" / "exported" / "encoder.safetensors")
    assert [name for name in straight if not torch.equal(straight[name], resumed[name])] == []
    assert not torch.equal(
        halfway["slice_encoder.backbone.conv1.weight"], straight["slice_encoder.backbone.conv1.weight"]
    )
    ours, theirs = epochs_of(tmp_path / "out")[1], epochs_of(out)[1]
    assert losses_of(ours) == losses_of(theirs)
    assert ours["image_churn"] == theirs["image_churn"]  # absent if the checkpoint forgot the last clusters


def test_resuming_where_nothing_lies_says_so(tmp_path: Path, phantoms: Path) -> None:
    with pytest.raises(Exception) as failure:
        workflow(tmp_path / "out", phantoms, resume=True).initialize()
    assert isinstance(cause_of(failure), FileNotFoundError)
    assert "nothing to resume" in str(cause_of(failure))


def test_the_papers_stages_run_in_order_and_the_mask_stage_freezes_the_encoder(tmp_path: Path, phantoms: Path) -> None:
    made = workflow(tmp_path / "out", phantoms, "train", "stages")
    made.initialize()
    encoder = made.parser.get_parsed_content("slice_encoder")
    aggregator = made.parser.get_parsed_content("slice_aggregator")
    states: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []

    def remember(engine: Any) -> None:
        states.append(tuple({k: v.clone() for k, v in part.state_dict().items()} for part in (encoder, aggregator)))

    made.parser.get_parsed_content("train#trainer").add_event_handler(Events.EPOCH_COMPLETED, remember)
    made.run()
    made.finalize()
    assert [set(losses_of(epoch)) for epoch in epochs_of(tmp_path / "out")] == [
        {"image_loss"}, {"mask_loss"}, {"volume_loss"},
    ]  # fmt: skip
    changed = [
        [any(not torch.equal(before[part][name], after[part][name]) for name in before[part]) for part in (0, 1)]
        for before, after in pairwise(states)
    ]
    assert changed == [[False, True], [True, True]], "mask: the aggregator only; volume: both"


def test_deepcluster_has_targets_from_the_start_and_centroids_as_prototypes(tmp_path: Path, phantoms: Path) -> None:
    made = finished(workflow(tmp_path / "out", phantoms, "train", "deepcluster", num_heads=2, epoch_length="longest"))
    (epoch,) = epochs_of(tmp_path / "out")
    assert set(losses_of(epoch)) == {"image_loss", "volume_loss", "mask_loss"}
    assert epoch["image_seen"] == epoch["volume_seen"] == 1
    for term, size in (("image", 6), ("volume", 4)):
        criterion = made.parser.get_parsed_content(f"{term}_criterion")
        prototypes = made.parser.get_parsed_content(f"{term}_prototypes_module")
        assert criterion.num_prototypes == prototypes.num_prototypes == (size, size)
        assert int(criterion.num_clusterings) > 0
        assert not prototypes.weight.requires_grad
        assert set(criterion.assignments.unique().tolist()) <= set(range(size)), "a sample has no cluster"
        torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(2 * size))


def test_embed_and_evaluate_use_the_run(swav_run, phantoms: Path, tmp_path: Path) -> None:
    out, _ = swav_run
    common = {"bundle_root": str(BUNDLE), "datalist": str(phantoms), "device": "$torch.device('cpu')"}
    for name, settings in (
        ("embed", {"embeddings_file": str(tmp_path / "found.npz")}),
        ("evaluate", {"results_file": str(tmp_path / "probe.json"), "label": "label", "level": "image"}),
    ):
        finished(
            ConfigWorkflow(
                config_file=files(name),
                meta_file=META,
                logging_file=False,
                workflow_type="train",
                weights=str(out),
                **common,
                **settings,
            )
        )
    found = load_embeddings(tmp_path / "found.npz")
    assert found.volume_embedding.shape == (6, 16)
    assert found.image_features.shape == (12, 512)
    assert set(found.column("volume", "label")) == {"head", "chest", "abdomen", "pelvis", "knee", "heart"}
    results = json.loads((tmp_path / "probe.json").read_text())["results"]
    assert {name.split(":")[0] for name in results} == {"pretrained", "untrained"}
    assert all(0 <= values["knn_accuracy"] <= 1 and values["num_test"] == 12 for values in results.values())


@pytest.mark.slow
def test_two_processes_train_through_torchrun_and_write_once(tmp_path: Path, phantoms: Path) -> None:
    settings = tmp_path / "tiny.json"
    settings.write_text(json.dumps(TINY | {"output_dir": str(tmp_path / "out"), "datalist": str(phantoms)}))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2",
        "-m", "monai.bundle", "run", "--config_file", str([*files("train", "cpu", "multi_gpu_train"), str(settings)]),
        "--meta_file", META, "--bundle_root", str(BUNDLE), "--max_epochs", "2",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [epoch["epoch"] for epoch in epochs_of(tmp_path / "out")] == [1, 2]
    assert set(losses_of(epochs_of(tmp_path / "out")[1])) == {"image_loss", "volume_loss", "mask_loss"}
    encoder, _, _ = load_pretrained(tmp_path / "out" / "exported" / "encoder.safetensors")
    assert encoder.embedding_dim == 16
    (checkpoint,) = (tmp_path / "out" / "checkpoints").glob("*epoch=2.pt")
    state = torch.load(checkpoint, weights_only=True)
    assert not any(name.startswith("module.") for name in state["network"])
    queue = state["image_criterion"]["queues.0.num_pushed"]
    assert int(queue) == 2 * 2 * TINY["image_batch_size"], "each step pushes the batch of both ranks"
