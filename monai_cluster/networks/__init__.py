# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The slice encoder, the aggregators over slices, prototypes and heads, and the joint network made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .attention_pooling import GatedAttentionPool as GatedAttentionPool
    from .attention_pooling import MaxPool as MaxPool
    from .attention_pooling import MeanPool as MeanPool
    from .attention_pooling import QueryAttentionPool as QueryAttentionPool
    from .classification import ClusterClassifier as ClusterClassifier
    from .cluster_head import ClusterHead as ClusterHead
    from .cluster_head import ProjectionHead as ProjectionHead
    from .deformable_attention import DeformableSliceAttention as DeformableSliceAttention
    from .detection import ClusterDetector as ClusterDetector
    from .detection import build_detector as build_detector
    from .dynunet_baseline import DynUNetBaseline as DynUNetBaseline
    from .feature_pyramid import InflatedPyramidExtractor as InflatedPyramidExtractor
    from .feature_pyramid import SlicePyramidExtractor as SlicePyramidExtractor
    from .feature_pyramid import StackedPyramidExtractor as StackedPyramidExtractor
    from .feature_pyramid import anchor_strides as anchor_strides
    from .flexible_unet import ClusterResNetEncoder as ClusterResNetEncoder
    from .flexible_unet import register_flexible_unet_encoders as register_flexible_unet_encoders
    from .full_attention import FullSliceAttention as FullSliceAttention
    from .inflate import inflate_kernel as inflate_kernel
    from .inflate import inflate_state_dict as inflate_state_dict
    from .inflated_unet import InflatedUNet as InflatedUNet
    from .joint_network import JointClusterNet as JointClusterNet
    from .masked_slices import MaskedSliceDecoder as MaskedSliceDecoder
    from .nms import batched_nms as batched_nms
    from .nms import fast_nms as fast_nms
    from .prototypes import Prototypes as Prototypes
    from .prototypes import auto_num_prototypes as auto_num_prototypes
    from .resnet_stages import ResNetStages as ResNetStages
    from .slice_aggregator import DeformableAggregator as DeformableAggregator
    from .slice_aggregator import TransformerAggregator as TransformerAggregator
    from .slice_encoder import SliceEmbedder as SliceEmbedder
    from .slice_encoder import SliceEncoder as SliceEncoder
    from .slice_unet import ContextSliceUNet as ContextSliceUNet

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "attention_pooling": ["GatedAttentionPool", "MaxPool", "MeanPool", "QueryAttentionPool"],
        "classification": ["ClusterClassifier"],
        "cluster_head": ["ClusterHead", "ProjectionHead"],
        "deformable_attention": ["DeformableSliceAttention"],
        "detection": ["ClusterDetector", "build_detector"],
        "dynunet_baseline": ["DynUNetBaseline"],
        "feature_pyramid": [
            "InflatedPyramidExtractor",
            "SlicePyramidExtractor",
            "StackedPyramidExtractor",
            "anchor_strides",
        ],
        "flexible_unet": ["ClusterResNetEncoder", "register_flexible_unet_encoders"],
        "full_attention": ["FullSliceAttention"],
        "inflate": ["inflate_kernel", "inflate_state_dict"],
        "inflated_unet": ["InflatedUNet"],
        "joint_network": ["JointClusterNet"],
        "masked_slices": ["MaskedSliceDecoder"],
        "nms": ["batched_nms", "fast_nms"],
        "prototypes": ["Prototypes", "auto_num_prototypes"],
        "resnet_stages": ["ResNetStages"],
        "slice_aggregator": ["DeformableAggregator", "TransformerAggregator"],
        "slice_encoder": ["SliceEmbedder", "SliceEncoder"],
        "slice_unet": ["ContextSliceUNet"],
    },
)
