# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Weights in and out: other people's checkpoints with a receipt, and our own exports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .building import build_slice_aggregator as build_slice_aggregator
    from .building import build_slice_encoder as build_slice_encoder
    from .building import side_file as side_file
    from .export import export_bundle_model as export_bundle_model
    from .export import export_safetensors as export_safetensors
    from .export import export_torchvision as export_torchvision
    from .finetuning import build_network as build_network
    from .finetuning import load_pretrained_into as load_pretrained_into
    from .finetuning import pretrained_architecture as pretrained_architecture
    from .load import load_aggregator_weights as load_aggregator_weights
    from .load import load_encoder_weights as load_encoder_weights
    from .load import load_network_weights as load_network_weights
    from .onnx_file import export_onnx as export_onnx
    from .pretrained import build_untrained as build_untrained
    from .pretrained import load_pretrained as load_pretrained
    from .receipt import LoadReceipt as LoadReceipt
    from .save import save_encoder as save_encoder
    from .torchscript_file import export_torchscript as export_torchscript
    from .torchvision_layout import to_torchvision_state_dict as to_torchvision_state_dict

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "building": ["build_slice_aggregator", "build_slice_encoder", "side_file"],
        "export": ["export_bundle_model", "export_safetensors", "export_torchvision"],
        "finetuning": ["build_network", "load_pretrained_into", "pretrained_architecture"],
        "load": ["load_aggregator_weights", "load_encoder_weights", "load_network_weights"],
        "onnx_file": ["export_onnx"],
        "pretrained": ["build_untrained", "load_pretrained"],
        "receipt": ["LoadReceipt"],
        "save": ["save_encoder"],
        "torchscript_file": ["export_torchscript"],
        "torchvision_layout": ["to_torchvision_state_dict"],
    },
)
