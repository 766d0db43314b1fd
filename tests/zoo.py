"""Networks written by others, scaled down, for checking that decomposition works on code it has never seen.

Every entry is built from a configuration class of ``transformers`` or ``diffusers`` with random weights, so
nothing is downloaded. Widths lie mostly between 64 and 256 channels: wide enough for the convolutions to be
eligible, narrow enough for a decomposition to take no time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Build = Callable[[], nn.Module]
Inputs = Callable[[], dict[str, object]]


@dataclass(frozen=True)
class Architecture:
    """A network and the keyword arguments that its forward takes."""

    name: str
    build: Build
    inputs: Inputs


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal noise that leaves the global random state alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _tensors(**shapes: tuple[int, ...]) -> Inputs:
    """Noise of the given shapes, a different stream for each argument."""
    return lambda: {name: _noise(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}


def _pixels(size: int, channels: int = 3) -> Inputs:
    """One square image under the name that transformers gives it."""
    return _tensors(pixel_values=(1, channels, size, size))


def _denoising(**shapes: tuple[int, ...]) -> Inputs:
    """Noise of the given shapes and the timestep that a diffusion network asks for."""
    return lambda: {**_tensors(**shapes)(), "timestep": torch.tensor([10])}


def _oneformer_inputs() -> dict[str, object]:
    return {"pixel_values": _noise(1, 3, 64, 64), "task_inputs": torch.arange(77).unsqueeze(0)}


def _clipseg_inputs() -> dict[str, object]:
    return {"pixel_values": _noise(1, 3, 64, 64), "input_ids": torch.tensor([[0, 5, 7, 98]])}


def _sam_inputs() -> dict[str, object]:
    return {"pixel_values": _noise(1, 3, 64, 64), "input_points": torch.tensor([[[[20.0, 30.0]]]])}


def _inpainting_inputs() -> dict[str, object]:
    return {"sample": _noise(1, 3, 32, 32), "mask": (_noise(1, 1, 32, 32, seed=1) > 0).float()}


def _kandinsky_inputs() -> dict[str, object]:
    noise = _denoising(sample=(1, 4, 16, 16), encoder_hidden_states=(1, 8, 32))
    return {**noise(), "encoder_attention_mask": torch.ones(1, 8)}


def _frames_inputs() -> dict[str, object]:
    return {"sample": _noise(2, 3, 32, 32), "num_frames": 2}


def _lively(build: Build) -> Build:
    """The same network with convolutions that keep the variance of what they are given.

    Several libraries start from weights so small, or even zero, that the image has no bearing on the output
    until the network is trained. Any decomposition of such a network would look perfect.
    """

    def lively() -> nn.Module:
        model = build()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
        return model

    return lively


# Typed loosely because the same settings are spread over configuration classes with different fields.
_VIT: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "image_size": 64,
    "patch_size": 16,
}

_DETR_HEAD: dict[str, Any] = {
    "d_model": 64,
    "num_queries": 10,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}

_HGNET: dict[str, Any] = {
    "hidden_sizes": [128, 128, 128, 128],
    "depths": [1, 1, 1, 1],
    "stem_channels": [3, 32, 64],
    "stage_in_channels": [64, 128, 128, 128],
    "stage_mid_channels": [64, 64, 64, 64],
    "stage_out_channels": [128, 128, 128, 128],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [2, 2, 2, 2],
}

_UNET: dict[str, Any] = {"sample_size": 16, "block_out_channels": (64, 128), "layers_per_block": 1}

_AUTOENCODER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
}

_STAGES = ["stage1", "stage2", "stage3", "stage4"]


def _resnet_backbone() -> dict[str, object]:
    return {
        "model_type": "resnet",
        "embedding_size": 64,
        "hidden_sizes": [64, 64, 128, 128],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": _STAGES,
    }


def _resnet_basic() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(hidden_sizes=[64, 64, 128, 128], depths=[2, 1, 1, 1], layer_type="basic")
    return ResNetForImageClassification(config)


def _resnet_bottleneck() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig(hidden_sizes=[256, 256, 512], depths=[1, 2, 1]))


def _regnet() -> nn.Module:
    from transformers import RegNetConfig, RegNetForImageClassification

    # Stages up to groups_width channels have one group, the last has two.
    config = RegNetConfig(embedding_size=64, hidden_sizes=[64, 128, 128, 256], depths=[1, 2, 1, 1], groups_width=128)
    return RegNetForImageClassification(config)


def _bit() -> nn.Module:
    from transformers import BitConfig, BitForImageClassification

    return BitForImageClassification(BitConfig(hidden_sizes=[256, 256, 512], depths=[1, 1, 1]))


def _efficientnet() -> nn.Module:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(image_size=64, width_coefficient=0.5, depth_coefficient=0.3, hidden_dim=640)
    return EfficientNetForImageClassification(config)


def _mobilenet_v2() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    return MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35))


def _convnext() -> nn.Module:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    return ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[64] * 4, depths=[1] * 4))


def _textnet() -> nn.Module:
    from transformers import TextNetConfig, TextNetForImageClassification

    config = TextNetConfig(
        image_size=[64, 64],
        hidden_sizes=[64, 64, 64, 128, 128],
        conv_layer_kernel_sizes=[
            [[3, 3], [3, 3]],
            [[3, 3], [1, 3]],
            [[3, 3], [3, 1]],
            [[3, 3], [3, 3]],
        ],
        conv_layer_strides=[[1, 2], [2, 1], [2, 1], [2, 1]],
    )
    return TextNetForImageClassification(config)


def _hgnet_v2() -> nn.Module:
    from transformers import HGNetV2Config, HGNetV2ForImageClassification

    return HGNetV2ForImageClassification(HGNetV2Config(**_HGNET))


def _focalnet() -> nn.Module:
    from transformers import FocalNetConfig, FocalNetForImageClassification

    config = FocalNetConfig(
        image_size=64,
        embed_dim=64,
        use_conv_embed=True,
        hidden_sizes=[64, 128, 256],
        depths=[1, 1, 1],
        focal_levels=[2, 2, 2],
        focal_windows=[3, 3, 3],
    )
    return FocalNetForImageClassification(config)


def _levit() -> nn.Module:
    from transformers import LevitConfig, LevitForImageClassification

    config = LevitConfig(image_size=64, hidden_sizes=[128, 128, 128], depths=[1, 1, 1], num_attention_heads=[2, 2, 2])
    return LevitForImageClassification(config)


def _cvt() -> nn.Module:
    from transformers import CvtConfig, CvtForImageClassification

    config = CvtConfig(embed_dim=[64, 64, 128], num_heads=[1, 1, 2], depth=[1, 2, 3], drop_path_rate=[0.0, 0.0, 0.0])
    return CvtForImageClassification(config)


def _swiftformer() -> nn.Module:
    from transformers import SwiftFormerConfig, SwiftFormerForImageClassification

    return SwiftFormerForImageClassification(SwiftFormerConfig(depths=[1, 1, 1, 1], embed_dims=[64, 64, 128, 128]))


def _poolformer() -> nn.Module:
    from transformers import PoolFormerConfig, PoolFormerForImageClassification

    return PoolFormerForImageClassification(PoolFormerConfig(depths=[1, 1, 1, 1], hidden_sizes=[64, 64, 128, 128]))


def _pvt_v2() -> nn.Module:
    from transformers import PvtV2Config, PvtV2ForImageClassification

    config = PvtV2Config(depths=[1, 1, 1, 1], hidden_sizes=[64, 64, 128, 128], num_attention_heads=[1, 1, 2, 2])
    return PvtV2ForImageClassification(config)


def _detr_segmentation() -> nn.Module:
    from transformers import DetrConfig, DetrForSegmentation

    settings = {**_DETR_HEAD, "d_model": 128, "encoder_attention_heads": 8, "decoder_attention_heads": 8}
    config = DetrConfig(backbone_config=_resnet_backbone(), encoder_layers=1, decoder_layers=1, **settings)
    return DetrForSegmentation(config)


def _rt_detr() -> nn.Module:
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        hidden_sizes=[64, 64, 128, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=64,
        encoder_in_channels=[64, 128, 128],
        decoder_in_channels=[64, 64, 64],
        decoder_layers=2,
        num_labels=5,
        **_DETR_HEAD,
    )
    return RTDetrForObjectDetection(config)


def _d_fine() -> nn.Module:
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    config = DFineConfig(
        backbone_config=HGNetV2Config(use_learnable_affine_block=True, out_indices=[2, 3, 4], **_HGNET),
        encoder_hidden_dim=128,
        encoder_in_channels=[128, 128, 128],
        decoder_in_channels=[128, 128, 128],
        decoder_layers=2,
        decoder_n_points=[2, 2, 2],
        depth_mult=0.34,
        num_labels=5,
        **_DETR_HEAD,
    )
    return DFineForObjectDetection(config)


def _lw_detr() -> nn.Module:
    from transformers import LwDetrConfig, LwDetrForObjectDetection, LwDetrViTConfig

    backbone = LwDetrViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=64,
        pretrain_image_size=64,
        window_block_indices=[0],
        num_windows=4,
        out_indices=[1, 2],
    )
    config = LwDetrConfig(
        backbone_config=backbone,
        projector_scale_factors=[1.0],
        hidden_expansion=1.0,
        d_model=64,
        decoder_ffn_dim=64,
        decoder_layers=2,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        num_queries=10,
        group_detr=1,
    )
    return LwDetrForObjectDetection(config)


def _superpoint() -> nn.Module:
    from transformers import SuperPointConfig, SuperPointForKeypointDetection

    # Every pixel is a keypoint, so that the shape of the output does not depend on the weights.
    config = SuperPointConfig(decoder_hidden_size=128, keypoint_threshold=0.0, nms_radius=0)
    return SuperPointForKeypointDetection(config)


def _efficientloftr() -> nn.Module:
    from transformers import EfficientLoFTRConfig, EfficientLoFTRModel

    config = EfficientLoFTRConfig(
        stage_num_blocks=[1, 1, 1, 1],
        out_features=[64, 64, 128, 128],
        stage_stride=[2, 1, 2, 2],
        hidden_size=128,
        num_attention_layers=1,
    )
    return EfficientLoFTRModel(config)


def _vitpose() -> nn.Module:
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    backbone = VitPoseBackboneConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=[64, 64],
        patch_size=[16, 16],
        out_indices=[2],
    )
    return VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=64))


def _pp_ocr_v5_server_det() -> nn.Module:
    from transformers import (
        HGNetV2Config,
        PPOCRV5ServerDetConfig,
        PPOCRV5ServerDetForObjectDetection,
    )

    intraclass: dict[str, list[object]] = {"reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0]}
    for ratio, size in (("longratio", 7), ("midratio", 5), ("shortratio", 3)):
        pad = size // 2
        intraclass[f"symmetric_conv_long_{ratio}"] = [[size, size], [1, 1], [pad, pad]]
        intraclass[f"vertical_long_to_small_conv_{ratio}"] = [[size, 1], [1, 1], [pad, 0]]
        intraclass[f"horizontal_small_to_long_conv_{ratio}"] = [[1, size], [1, 1], [0, pad]]
    config = PPOCRV5ServerDetConfig(
        backbone_config=HGNetV2Config(out_features=_STAGES, **_HGNET),
        neck_out_channels=256,
        reduce_factor=1,
        intraclass_block_config=intraclass,
        scale_factor_list=[1, 2, 4, 8],
        kernel_list=[3, 2, 2],
    )
    return PPOCRV5ServerDetForObjectDetection(config)


def _florence2_vision() -> nn.Module:
    from transformers import Florence2VisionConfig
    from transformers.models.florence2.modeling_florence2 import Florence2VisionBackbone

    config = Florence2VisionConfig(
        embed_dim=[64, 64, 128, 128],
        depths=[1, 1, 1, 1],
        num_heads=[2, 2, 2, 2],
        num_groups=[2, 2, 2, 2],
        window_size=4,
    )
    return Florence2VisionBackbone(config)


def _dpt() -> nn.Module:
    from transformers import DPTConfig, DPTForDepthEstimation

    config = DPTConfig(backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[64] * 4, fusion_hidden_size=64, **_VIT)
    return DPTForDepthEstimation(config)


def _dpt_hybrid() -> nn.Module:
    from transformers import DPTConfig, DPTForSemanticSegmentation

    backbone = {
        "model_type": "bit",
        "global_padding": "same",
        "layer_type": "bottleneck",
        "depths": [1, 1, 1],
        "hidden_sizes": [256, 256, 256],
        "out_features": ["stage1", "stage2", "stage3"],
        "embedding_dynamic_padding": True,
    }
    config = DPTConfig(
        is_hybrid=True,
        backbone_config=backbone,
        backbone_featmap_shape=[1, 256, 4, 4],
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[256, 256, 64, 64],
        fusion_hidden_size=64,
        num_labels=5,
        **_VIT,
    )
    return DPTForSemanticSegmentation(config)


def _depth_anything() -> nn.Module:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=56,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=64,
        neck_hidden_sizes=[64, 64, 64, 64],
        fusion_hidden_size=64,
    )
    return DepthAnythingForDepthEstimation(config)


def _depth_pro() -> nn.Module:
    from transformers import DepthProConfig, DepthProForDepthEstimation

    encoder = {
        "model_type": "dinov2",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": 64,
        "patch_size": 16,
    }
    config = DepthProConfig(
        fusion_hidden_size=64,
        patch_size=64,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[64, 64],
        scaled_images_feature_dims=[64, 64, 64],
        image_model_config=encoder,
        patch_model_config=encoder,
        fov_model_config=encoder,
        use_fov_model=True,
    )
    return DepthProForDepthEstimation(config)


def _zoedepth() -> nn.Module:
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation

    backbone = BeitConfig(
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False, use_relative_position_bias=True, **_VIT
    )
    config = ZoeDepthConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[64, 64, 64, 64],
        fusion_hidden_size=64,
        bottleneck_features=64,
        bin_embedding_dim=32,
        bin_configurations=[{"n_bins": 16, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
    )
    return ZoeDepthForDepthEstimation(config)


def _glpn() -> nn.Module:
    from transformers import GLPNConfig, GLPNForDepthEstimation

    config = GLPNConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[64, 64, 64, 128],
        num_attention_heads=[1, 2, 2, 4],
        mlp_ratios=[2, 2, 2, 2],
    )
    return GLPNForDepthEstimation(config)


def _segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[64, 64, 128, 128],
        num_attention_heads=[1, 2, 2, 4],
        mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=64,
        num_labels=5,
    )
    return SegformerForSemanticSegmentation(config)


def _mobilevit() -> nn.Module:
    from transformers import MobileViTConfig, MobileViTForSemanticSegmentation

    config = MobileViTConfig(
        image_size=64,
        hidden_sizes=[64, 64, 64],
        neck_hidden_sizes=[16, 32, 64, 64, 64, 64, 64],
        aspp_out_channels=64,
        num_labels=5,
    )
    return MobileViTForSemanticSegmentation(config)


def _upernet() -> nn.Module:
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = ConvNextConfig(hidden_sizes=[64] * 4, depths=[1] * 4, out_features=_STAGES)
    config = UperNetConfig(
        backbone_config=backbone,
        hidden_size=64,
        auxiliary_in_channels=64,
        auxiliary_channels=64,
        num_labels=5,
    )
    return UperNetForSemanticSegmentation(config)


def _beit_segmentation() -> nn.Module:
    from transformers import BeitConfig, BeitForSemanticSegmentation

    config = BeitConfig(
        out_indices=[1, 2, 3, 4],
        auxiliary_channels=64,
        use_relative_position_bias=True,
        num_labels=5,
        **_VIT,
    )
    return BeitForSemanticSegmentation(config)


def _mask2former() -> nn.Module:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    config = Mask2FormerConfig(
        backbone_config=_resnet_backbone(),
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_feedforward_dim=64,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=64,
        num_queries=5,
    )
    return Mask2FormerForUniversalSegmentation(config)


def _maskformer() -> nn.Module:
    from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation

    config = MaskFormerConfig(
        fpn_feature_size=64,
        mask_feature_size=64,
        backbone_config=_resnet_backbone(),
        decoder_config=DetrConfig(encoder_layers=1, decoder_layers=1, **_DETR_HEAD),
    )
    return MaskFormerForInstanceSegmentation(config)


def _oneformer() -> nn.Module:
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation

    config = OneFormerConfig(
        backbone_config=_resnet_backbone(),
        num_queries=5,
        text_encoder_width=64,
        text_encoder_num_layers=1,
        text_encoder_vocab_size=99,
        conv_dim=64,
        mask_dim=64,
        hidden_dim=64,
        encoder_feedforward_dim=64,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=64,
    )
    return OneFormerForUniversalSegmentation(config)


def _clipseg() -> nn.Module:
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    tower = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config={
            **tower,
            "vocab_size": 99,
            "num_hidden_layers": 2,
            "max_position_embeddings": 16,
            "bos_token_id": 0,
            "eos_token_id": 98,
        },
        vision_config={**tower, "num_hidden_layers": 4, "image_size": 64, "patch_size": 16},
        projection_dim=64,
        extract_layers=[1, 2, 3],
        reduce_dim=64,
        decoder_intermediate_size=64,
        use_complex_transposed_convolution=True,
    )
    return CLIPSegForImageSegmentation(config)


def _seggpt() -> nn.Module:
    from transformers import SegGptConfig, SegGptForImageSegmentation

    config = SegGptConfig(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=[64, 32],
        patch_size=16,
        pretrain_image_size=64,
        mlp_dim=64,
        merge_index=0,
        intermediate_hidden_state_indices=[1, 2, 3],
    )
    return SegGptForImageSegmentation(config)


def _sam() -> nn.Module:
    from transformers import SamConfig, SamModel

    config = SamConfig(
        vision_config={
            "hidden_size": 64,
            "output_channels": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [1],
            "num_pos_feats": 32,
            "mlp_dim": 64,
        },
        prompt_encoder_config={"hidden_size": 64, "image_size": 64, "patch_size": 8},
        mask_decoder_config={
            "hidden_size": 64,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 64,
        },
    )
    return SamModel(config)


def _sam2_vision() -> nn.Module:
    from transformers import Sam2HieraDetConfig, Sam2VisionConfig, Sam2VisionModel

    backbone = Sam2HieraDetConfig(
        hidden_size=32,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[32, 64, 96, 128],
        num_attention_heads_per_stage=[1, 2, 2, 4],
        window_size_per_stage=[8, 4, 4, 2],
        global_attention_blocks=[3],
    )
    # The neck asks a convolution for the dtype of its weight; with 3x3 kernels that one is eligible.
    config = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 96, 64, 32],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=64,
        fpn_kernel_size=3,
        fpn_padding=1,
    )
    return Sam2VisionModel(config)


def _swin2sr() -> nn.Module:
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

    config = Swin2SRConfig(image_size=32, embed_dim=64, depths=[2, 2], num_heads=[2, 2], window_size=4)
    return Swin2SRForImageSuperResolution(config)


def _vitmatte() -> nn.Module:
    from transformers import VitDetConfig, VitMatteConfig, VitMatteForImageMatting

    backbone = VitDetConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=64,
        pretrain_image_size=64,
        num_channels=4,
        residual_block_indices=[1],
        out_features=["stage2"],
    )
    config = VitMatteConfig(
        backbone_config=backbone,
        hidden_size=64,
        convstream_hidden_sizes=[64, 64, 128],
        fusion_hidden_sizes=[128, 64, 64, 64],
    )
    return VitMatteForImageMatting(config)


def _uvdoc() -> nn.Module:
    from transformers import UVDocBackboneConfig, UVDocConfig, UVDocModel

    backbone = UVDocBackboneConfig(
        resnet_head=[[3, 64], [64, 64]],
        resnet_configs=[
            [[64, 64, 1, False], [64, 64, 3, False]],
            [[64, 128, 1, True], [128, 128, 3, False]],
        ],
        stage_configs=[[[128, 1]], [[128, 2]], [[128, 3], [128, 1]]],
        out_features=["stage1", "stage2", "stage3"],
    )
    # The first convolution of the head pads by reflection and is wide enough to be eligible.
    return UVDocModel(UVDocConfig(backbone_config=backbone, out_point_positions2D=[[128, 64], [64, 2]]))


def _janus_vqvae() -> nn.Module:
    from transformers import JanusVQVAE, JanusVQVAEConfig

    config = JanusVQVAEConfig(
        num_embeddings=32,
        latent_channels=32,
        num_patches=16,
        base_channels=64,
        channel_multiplier=[1, 2],
        num_res_blocks=1,
    )
    return JanusVQVAE(config)


def _unet() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        **_UNET,
    )


def _unet_fir() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32,
        block_out_channels=(64, 64, 128),
        layers_per_block=1,
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
        up_block_types=("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
        attention_head_dim=32,
        time_embedding_type="fourier",
        center_input_sample=True,
    )


def _unet_consistency_decoder() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        in_channels=7,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
        up_block_types=("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
        add_attention=False,
        time_embedding_type="learned",
        num_train_timesteps=1024,
        resnet_time_scale_shift="scale_shift",
        **_UNET,
    )


def _unet_condition() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=64,
        **_UNET,
    )


def _unet_condition_simple() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        attention_head_dim=32,
        cross_attention_dim=64,
        resnet_time_scale_shift="scale_shift",
        **_UNET,
    )


def _unet_3d_condition() -> nn.Module:
    from diffusers import UNet3DConditionModel

    return UNet3DConditionModel(
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        attention_head_dim=32,
        cross_attention_dim=64,
        **_UNET,
    )


def _kandinsky3() -> nn.Module:
    from diffusers import Kandinsky3UNet

    return Kandinsky3UNet(
        time_embedding_dim=64,
        groups=8,
        attention_head_dim=32,
        layers_per_block=2,
        block_out_channels=(64, 128),
        cross_attention_dim=64,
        encoder_hid_dim=32,
    )


def _controlnet() -> nn.Module:
    from diffusers import ControlNetModel

    return ControlNetModel(
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=64,
        conditioning_embedding_out_channels=(16, 64, 64),
    )


def _t2i_adapter() -> nn.Module:
    from diffusers import T2IAdapter

    return T2IAdapter(channels=[64, 64, 128, 128], num_res_blocks=1)


def _t2i_adapter_light() -> nn.Module:
    from diffusers import T2IAdapter

    return T2IAdapter(channels=[256, 256, 512], num_res_blocks=1, adapter_type="light_adapter")


def _autoencoder_kl() -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(block_out_channels=(64, 128), **_AUTOENCODER)


def _vq_model() -> nn.Module:
    from diffusers import VQModel

    return VQModel(
        block_out_channels=(64, 128),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_type="spatial",
    )


def _autoencoder_tiny() -> nn.Module:
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1))


def _autoencoder_dc() -> nn.Module:
    from diffusers import AutoencoderDC

    blocks = ("ResBlock", "ResBlock", "EfficientViTBlock")
    multiscales: tuple[tuple[int, ...], ...] = ((), (), (5,))
    return AutoencoderDC(
        latent_channels=8,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=(64, 64, 128),
        decoder_block_out_channels=(64, 64, 128),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=multiscales,
        decoder_qkv_multiscales=multiscales,
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
    )


def _autoencoder_asymmetric() -> nn.Module:
    from diffusers import AsymmetricAutoencoderKL

    return AsymmetricAutoencoderKL(down_block_out_channels=(64, 64), up_block_out_channels=(64, 128), **_AUTOENCODER)


def _autoencoder_temporal() -> nn.Module:
    from diffusers import AutoencoderKLTemporalDecoder

    return AutoencoderKLTemporalDecoder(block_out_channels=(64, 64), down_block_types=_AUTOENCODER["down_block_types"])


def _autoencoder_kvae() -> nn.Module:
    from diffusers import AutoencoderKLKVAE

    return AutoencoderKLKVAE(channels=64, num_enc_blocks=1, num_dec_blocks=1, z_channels=4, ch_mult=(1, 2))


def _autoencoder_hunyuan_image() -> nn.Module:
    from diffusers import AutoencoderKLHunyuanImage

    return AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=32,
        block_out_channels=(64, 128),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=32,
    )


_LATENT_AND_TEXT = _denoising(sample=(1, 4, 16, 16), encoder_hidden_states=(1, 8, 64))
_SAMPLE = _tensors(sample=(1, 3, 32, 32))

ZOO: tuple[Architecture, ...] = (
    Architecture("resnet-basic", _lively(_resnet_basic), _pixels(64)),
    Architecture("resnet-bottleneck", _lively(_resnet_bottleneck), _pixels(64)),
    Architecture("regnet", _lively(_regnet), _pixels(64)),
    Architecture("bit", _lively(_bit), _pixels(64)),
    Architecture("efficientnet", _lively(_efficientnet), _pixels(64)),
    Architecture("mobilenet-v2", _lively(_mobilenet_v2), _pixels(64)),
    Architecture("convnext", _lively(_convnext), _pixels(64)),
    Architecture("textnet", _lively(_textnet), _pixels(64)),
    Architecture("hgnet-v2", _lively(_hgnet_v2), _pixels(64)),
    Architecture("focalnet", _lively(_focalnet), _pixels(64)),
    Architecture("levit", _lively(_levit), _pixels(64)),
    Architecture("cvt", _lively(_cvt), _pixels(64)),
    Architecture("swiftformer", _lively(_swiftformer), _pixels(64)),
    Architecture("poolformer", _lively(_poolformer), _pixels(64)),
    Architecture("pvt-v2", _lively(_pvt_v2), _pixels(64)),
    Architecture("detr-segmentation", _lively(_detr_segmentation), _pixels(64)),
    Architecture("rt-detr", _lively(_rt_detr), _pixels(64)),
    Architecture("d-fine", _lively(_d_fine), _pixels(64)),
    Architecture("lw-detr", _lively(_lw_detr), _pixels(64)),
    Architecture("superpoint", _lively(_superpoint), _pixels(32)),
    Architecture("efficientloftr", _lively(_efficientloftr), _tensors(pixel_values=(1, 2, 3, 64, 64))),
    Architecture("vitpose", _lively(_vitpose), _pixels(64)),
    Architecture("pp-ocr-v5-server-det", _lively(_pp_ocr_v5_server_det), _pixels(64)),
    Architecture("florence2-vision", _lively(_florence2_vision), _tensors(hidden_states=(1, 3, 64, 64))),
    Architecture("dpt", _lively(_dpt), _pixels(64)),
    Architecture("dpt-hybrid", _lively(_dpt_hybrid), _pixels(64)),
    Architecture("depth-anything", _lively(_depth_anything), _pixels(56)),
    Architecture("depth-pro", _lively(_depth_pro), _pixels(256)),
    Architecture("zoedepth", _lively(_zoedepth), _pixels(64)),
    Architecture("glpn", _lively(_glpn), _pixels(64)),
    Architecture("segformer", _lively(_segformer), _pixels(64)),
    Architecture("mobilevit", _lively(_mobilevit), _pixels(64)),
    Architecture("upernet", _lively(_upernet), _pixels(64)),
    Architecture("beit-segmentation", _lively(_beit_segmentation), _pixels(64)),
    Architecture("mask2former", _lively(_mask2former), _pixels(64)),
    Architecture("maskformer", _lively(_maskformer), _pixels(64)),
    Architecture("oneformer", _lively(_oneformer), _oneformer_inputs),
    Architecture("clipseg", _lively(_clipseg), _clipseg_inputs),
    Architecture(
        "seggpt",
        _lively(_seggpt),
        _tensors(pixel_values=(1, 3, 32, 32), prompt_pixel_values=(1, 3, 32, 32), prompt_masks=(1, 3, 32, 32)),
    ),
    Architecture("sam", _lively(_sam), _sam_inputs),
    Architecture("sam2-vision", _lively(_sam2_vision), _pixels(64)),
    Architecture("swin2sr", _lively(_swin2sr), _pixels(32)),
    Architecture("vitmatte", _lively(_vitmatte), _pixels(64, channels=4)),
    Architecture("uvdoc", _lively(_uvdoc), _pixels(64)),
    Architecture("janus-vqvae", _lively(_janus_vqvae), _pixels(32)),
    Architecture("unet", _lively(_unet), _denoising(sample=(1, 3, 16, 16))),
    Architecture("unet-fir", _lively(_unet_fir), _denoising(sample=(1, 3, 32, 32))),
    Architecture("unet-consistency-decoder", _lively(_unet_consistency_decoder), _denoising(sample=(1, 7, 16, 16))),
    Architecture("unet-condition", _lively(_unet_condition), _LATENT_AND_TEXT),
    Architecture("unet-condition-simple", _lively(_unet_condition_simple), _LATENT_AND_TEXT),
    Architecture(
        "unet-3d-condition",
        _lively(_unet_3d_condition),
        _denoising(sample=(1, 4, 2, 16, 16), encoder_hidden_states=(1, 8, 64)),
    ),
    Architecture("kandinsky3", _lively(_kandinsky3), _kandinsky_inputs),
    Architecture(
        "controlnet",
        _lively(_controlnet),
        _denoising(sample=(1, 4, 16, 16), encoder_hidden_states=(1, 8, 64), controlnet_cond=(1, 3, 64, 64)),
    ),
    Architecture("t2i-adapter", _lively(_t2i_adapter), _tensors(x=(1, 3, 64, 64))),
    Architecture("t2i-adapter-light", _lively(_t2i_adapter_light), _tensors(x=(1, 3, 64, 64))),
    Architecture("autoencoder-kl", _lively(_autoencoder_kl), _SAMPLE),
    Architecture("vq-model", _lively(_vq_model), _SAMPLE),
    Architecture("autoencoder-tiny", _lively(_autoencoder_tiny), _SAMPLE),
    Architecture("autoencoder-dc", _lively(_autoencoder_dc), _SAMPLE),
    Architecture("autoencoder-asymmetric", _lively(_autoencoder_asymmetric), _inpainting_inputs),
    Architecture("autoencoder-temporal", _lively(_autoencoder_temporal), _frames_inputs),
    Architecture("autoencoder-kvae", _lively(_autoencoder_kvae), _SAMPLE),
    Architecture("autoencoder-hunyuan-image", _lively(_autoencoder_hunyuan_image), _SAMPLE),
)
