# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Each way of failing is named once, with what to change; healthy runs are left in peace."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
from ignite.engine import Engine, Events

from monai_cluster.handlers import LossDiagnosis

LOG_K = math.log(64)
HEALTHY = {
    "image_loss": 2.0, "image_uniform": LOG_K, "image_target_perplexity": 3.0, "image_queue_active": 0.0,
    "mask_loss": 0.5, "mask_ratio_to_neighbours": 0.7,
}  # fmt: skip
HEALTHY_METRICS = {"image_feature_std": 0.8, "image_rank_me": 20.0, "image_occupancy": 0.9}


def diagnosed(epochs: list[dict[str, float]], **options: Any) -> LossDiagnosis:
    """Run one iteration per epoch that reports these values; names of ClusterHealth go to the metrics."""
    engine = Engine(lambda engine, batch: [{k: v for k, v in (HEALTHY | batch).items() if k not in HEALTHY_METRICS}])
    engine.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda: engine.state.metrics.update(
            HEALTHY_METRICS | {k: v for k, v in epochs[engine.state.epoch - 1].items() if k in HEALTHY_METRICS}
        ),
    )
    diagnosis = LossDiagnosis(**options)
    diagnosis.attach(engine)
    rounds = iter(epochs)

    class Loader:
        def __iter__(self) -> Any:
            return iter([next(rounds)])

    engine.run(Loader(), max_epochs=len(epochs), epoch_length=1)
    return diagnosis


def test_a_healthy_run_is_left_in_peace(caplog: pytest.LogCaptureFixture) -> None:
    assert diagnosed([{}] * 20).findings == []
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("sign", "cause", "advice"),
    [
        ({"image_loss": 0.985 * LOG_K}, "image_log_k", "Lower epsilon, freeze the prototypes longer"),
        ({"image_target_perplexity": 22.0}, "image_prototypes", "spread over 22 of 64 prototypes"),
        ({"image_feature_std": 0.09}, "image_collapse", "larger batch or stronger augmentation"),
        ({"image_rank_me": 1.9}, "image_collapse", "Lower the learning rate"),
        ({"image_occupancy": 0.05}, "image_occupancy", "only 5.0% of the image prototypes"),
        ({"mask_ratio_to_neighbours": 1.0}, "mask_neighbours", "Hide more slices or contiguous blocks"),
    ],
)
def test_each_sign_held_for_the_patience_is_warned_of_with_its_cure(
    sign: dict[str, float], cause: str, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="monai_cluster.handlers.loss_diagnosis"):
        diagnosis = diagnosed([sign] * 6, warmup_epochs=2, patience=3)
    assert [(epoch, name) for epoch, name, _ in diagnosis.findings] == [(5, cause)]
    (message,) = caplog.messages
    assert message.startswith("epoch 5: ")
    assert advice in message


@pytest.mark.parametrize(
    "sign",
    [
        {"image_loss": 0.975 * LOG_K},
        {"image_target_perplexity": 21.0},
        {"image_feature_std": 0.11},
        {"image_rank_me": 2.1},
        {"image_occupancy": 0.11},
        {"mask_ratio_to_neighbours": 0.99},
    ],
)
def test_values_just_inside_the_healthy_range_are_not_warned_of(sign: dict[str, float]) -> None:
    assert diagnosed([sign] * 6).findings == []


def test_a_sign_that_comes_and_goes_is_not_warned_of() -> None:
    assert diagnosed([{"image_loss": LOG_K}, {"image_loss": LOG_K}, {}] * 4, warmup_epochs=0).findings == []


def test_a_persistent_cause_is_named_again_only_after_the_given_epochs() -> None:
    findings = diagnosed([{"image_loss": LOG_K}] * 15, warmup_epochs=0, patience=1, repeat_every=6).findings
    assert [epoch for epoch, _, _ in findings] == [1, 7, 13]


@pytest.mark.parametrize(
    ("losses", "active", "expected"),
    [
        ([2.0, 2.0, 2.3, 2.3], [0, 0, 1, 1], [3]),
        ([2.0, 2.0, 2.19, 2.5], [0, 0, 1, 1], []),  # a later rise is not the queue's start
        ([2.0, 2.0, 2.05, 2.3], [0, 0, 0.2, 1], [4]),  # it started in the middle of epoch 3
        ([2.0, 3.0, 3.0, 3.0], [1, 1, 1, 1], []),  # it ran from the beginning
        ([2.0, 2.5, 2.5, 2.5], [0, 0, 0, 0], []),
    ],
)
def test_a_jump_is_blamed_on_the_queue_only_when_the_queue_starts(
    losses: list[float], active: list[float], expected: list[int]
) -> None:
    epochs = [{"image_loss": loss, "image_queue_active": share} for loss, share in zip(losses, active, strict=True)]
    findings = diagnosed(epochs).findings
    assert [epoch for epoch, _, _ in findings] == expected
    assert all(cause == "image_queue" and "Start the queue later" in text for _, cause, text in findings)


def test_what_is_not_reported_is_not_judged() -> None:
    engine = Engine(lambda engine, batch: [{"image_loss": 4.0, "mask_loss": 1.0}])
    diagnosis = LossDiagnosis(warmup_epochs=0, patience=1)
    diagnosis.attach(engine)
    engine.run([0], max_epochs=5)
    assert diagnosis.findings == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_epochs": -1}, "warmup_epochs must be 0 or more"),
        ({"patience": 0}, "patience and repeat_every must be at least 1"),
        ({"repeat_every": 0}, "patience and repeat_every must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossDiagnosis(**options)
