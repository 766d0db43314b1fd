"""Networks of other libraries, scaled down: a table of their classes, settings and inputs.

Every network is a class of ``transformers`` or ``diffusers`` with random weights, so nothing is downloaded. Widths are
mostly between 64 and 256 channels: wide enough for the convolutions to be eligible, narrow enough for a fast
decomposition. Those that are decomposed at full ranks, by methods without such a limit, are narrower.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """A network of another library.

    Parameters
    ----------
    name : str
        Name of the test case.
    model : str
        Full name of the class; the packages are optional, so that nothing is imported before `build`.
    arguments : mapping
        Arguments of the forward by name: a shape means noise of that shape, anything else is passed as it is.
    settings : mapping
        Arguments of the configuration class, or of the class itself if it has none.
    """

    name: str
    model: str
    arguments: Mapping[str, Shape | Tensor | int]
    settings: Mapping[str, Any]

    def build(self) -> nn.Module:
        """The network, with weights drawn from the global generator."""
        model = resolve_name(self.model)
        settings = copy.deepcopy(dict(self.settings))  # configurations modify the lists and dicts passed to them
        network = model(model.config_class(**settings)) if hasattr(model, "config_class") else model(**settings)
        return _with_variance_kept(network)

    def inputs(self) -> dict[str, object]:
        """The keyword arguments of the forward: always the same values, in new tensors."""
        return {
            name: _noise(*value, seed=seed) if isinstance(value, tuple) else copy.deepcopy(value)
            for seed, (name, value) in enumerate(self.arguments.items())
        }


def _noise(*shape: int, seed: int) -> Tensor:
    """Normal noise that leaves the global random state alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _with_variance_kept(network: nn.Module) -> nn.Module:
    """The network with weights under which convolutions preserve the variance of their inputs.

    Several libraries initialise weights so small, or to zero, that the output does not depend on the image until the
    network is trained. Any decomposition of such a network would look perfect.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return network


def _net(name: str, model: str, arguments: Mapping[str, Shape | Tensor | int], /, **settings: object) -> Architecture:
    return Architecture(name, model, arguments, settings)


# Arguments that several networks take.
_IMAGE = {"pixel_values": (1, 3, 64, 64)}
_SMALL_IMAGE = {"pixel_values": (1, 3, 32, 32)}
_SAMPLE = {"sample": (1, 3, 32, 32)}
_TIMESTEP = {"timestep": torch.tensor([10])}
_WORDS = {"input_ids": torch.arange(2, 14).reshape(2, 6)}
_WORDS_AND_WORDS = {**_WORDS, "decoder_input_ids": torch.arange(5, 17).reshape(2, 6)}
_SOUND = {"input_values": (2, 400)}
_VIDEO = {"pixel_values": (1, 4, 3, 32, 32)}
_LATENT_AND_TEXT = {"sample": (1, 4, 16, 16), "encoder_hidden_states": (1, 8, 64), **_TIMESTEP}

# Settings that several networks share; typed loosely, as each lands in configurations with different fields.
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_VIT: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 128, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip
_SHALLOW_VIT: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 64,
}  # fmt: skip
_TRANSFORMER: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
_LANGUAGE: dict[str, Any] = {**_TRANSFORMER, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_T5: dict[str, Any] = {
    "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 50,
    "decoder_start_token_id": 0,
}  # fmt: skip
_SPEECH: dict[str, Any] = {
    **_TRANSFORMER, "vocab_size": 32, "conv_dim": (16, 16), "conv_kernel": (5, 3), "conv_stride": (3, 2),
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
_DINOV2: dict[str, Any] = {"model_type": "dinov2", **_SHALLOW_VIT, "patch_size": 16}
_RESNET: dict[str, Any] = {
    "model_type": "resnet", "embedding_size": 64, "hidden_sizes": [64, 64, 128, 128], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_features": _STAGES,
}  # fmt: skip
_HGNET: dict[str, Any] = {
    "hidden_sizes": [128] * 4, "depths": [1] * 4, "stem_channels": [3, 32, 64],
    "stage_in_channels": [64, 128, 128, 128], "stage_mid_channels": [64] * 4, "stage_out_channels": [128] * 4,
    "stage_num_blocks": [1] * 4, "stage_numb_of_layers": [2] * 4,
}  # fmt: skip
_DETR: dict[str, Any] = {
    "d_model": 64, "num_queries": 10, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}  # fmt: skip
_MASK_DECODER: dict[str, Any] = {
    "backbone_config": _RESNET, "num_queries": 5, "hidden_dim": 64, "encoder_feedforward_dim": 64,
    "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 64,
}  # fmt: skip
_CLIP: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2}
_UNET: dict[str, Any] = {"sample_size": 16, "block_out_channels": (64, 128), "layers_per_block": 1}
_AUTOENCODER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip
_DC_BLOCKS = ("ResBlock", "ResBlock", "EfficientViTBlock")
_DC_SCALES: tuple[Shape, ...] = ((), (), (5,))


def _kernels_of_each_ratio() -> dict[str, Any]:
    """The intraclass blocks of PP-OCRv5: a square, an upright and a lying kernel of each of three lengths."""
    settings: dict[str, Any] = {"reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0]}
    for ratio, size in (("longratio", 7), ("midratio", 5), ("shortratio", 3)):
        pad = size // 2
        settings[f"symmetric_conv_long_{ratio}"] = [[size, size], [1, 1], [pad, pad]]
        settings[f"vertical_long_to_small_conv_{ratio}"] = [[size, 1], [1, 1], [pad, 0]]
        settings[f"horizontal_small_to_long_conv_{ratio}"] = [[1, size], [1, 1], [0, pad]]
    return settings


# fmt: off
ARCHITECTURES: tuple[Architecture, ...] = (
    # Image classification.
    _net("resnet-basic", "transformers.ResNetForImageClassification", _IMAGE,
         hidden_sizes=[64, 64, 128, 128], depths=[2, 1, 1, 1], layer_type="basic"),
    _net("resnet-bottleneck", "transformers.ResNetForImageClassification", _IMAGE,
         hidden_sizes=[256, 256, 512], depths=[1, 2, 1]),
    # Stages up to groups_width channels have one group, the last has two.
    _net("regnet", "transformers.RegNetForImageClassification", _IMAGE,
         embedding_size=64, hidden_sizes=[64, 128, 128, 256], depths=[1, 2, 1, 1], groups_width=128),
    _net("bit", "transformers.BitForImageClassification", _IMAGE,
         hidden_sizes=[256, 256, 512], depths=[1, 1, 1]),
    _net("efficientnet", "transformers.EfficientNetForImageClassification", _IMAGE,
         image_size=64, width_coefficient=0.5, depth_coefficient=0.3, hidden_dim=640),
    _net("mobilenet-v2", "transformers.MobileNetV2ForImageClassification", _IMAGE,
         depth_multiplier=0.35),
    _net("convnext", "transformers.ConvNextForImageClassification", _IMAGE,
         hidden_sizes=[64] * 4, depths=[1] * 4),
    _net("textnet", "transformers.TextNetForImageClassification", _IMAGE,
         image_size=[64, 64], hidden_sizes=[64, 64, 64, 128, 128],
         conv_layer_kernel_sizes=[[[3, 3], [3, 3]], [[3, 3], [1, 3]], [[3, 3], [3, 1]], [[3, 3], [3, 3]]],
         conv_layer_strides=[[1, 2], [2, 1], [2, 1], [2, 1]]),
    _net("hgnet-v2", "transformers.HGNetV2ForImageClassification", _IMAGE, **_HGNET),
    _net("focalnet", "transformers.FocalNetForImageClassification", _IMAGE,
         image_size=64, embed_dim=64, use_conv_embed=True, hidden_sizes=[64, 128, 256], depths=[1, 1, 1],
         focal_levels=[2, 2, 2], focal_windows=[3, 3, 3]),
    _net("levit", "transformers.LevitForImageClassification", _IMAGE,
         image_size=64, hidden_sizes=[128, 128, 128], depths=[1, 1, 1], num_attention_heads=[2, 2, 2]),
    _net("cvt", "transformers.CvtForImageClassification", _IMAGE,
         embed_dim=[64, 64, 128], num_heads=[1, 1, 2], depth=[1, 2, 3], drop_path_rate=[0.0, 0.0, 0.0]),
    _net("swiftformer", "transformers.SwiftFormerForImageClassification", _IMAGE,
         depths=[1, 1, 1, 1], embed_dims=[64, 64, 128, 128]),
    _net("poolformer", "transformers.PoolFormerForImageClassification", _IMAGE,
         depths=[1, 1, 1, 1], hidden_sizes=[64, 64, 128, 128]),
    _net("pvt-v2", "transformers.PvtV2ForImageClassification", _IMAGE,
         depths=[1, 1, 1, 1], hidden_sizes=[64, 64, 128, 128], num_attention_heads=[1, 1, 2, 2]),

    # Detection, keypoints, matching, poses, text, and a vision tower.
    _net("detr-segmentation", "transformers.DetrForSegmentation", _IMAGE,
         backbone_config=_RESNET, encoder_layers=1, decoder_layers=1,
         **{**_DETR, "d_model": 128, "encoder_attention_heads": 8, "decoder_attention_heads": 8}),
    _net("rt-detr", "transformers.RTDetrForObjectDetection", _IMAGE,
         backbone_config={"model_type": "rt_detr_resnet", "hidden_sizes": [64, 64, 128, 128], "depths": [1, 1, 1, 1],
                          "layer_type": "basic", "out_features": _STAGES[1:]},
         encoder_hidden_dim=64, encoder_in_channels=[64, 128, 128], decoder_in_channels=[64, 64, 64],
         decoder_layers=2, num_labels=5, **_DETR),
    _net("d-fine", "transformers.DFineForObjectDetection", _IMAGE,
         backbone_config={"model_type": "hgnet_v2", "use_learnable_affine_block": True, "out_indices": [2, 3, 4],
                          **_HGNET},
         encoder_hidden_dim=128, encoder_in_channels=[128, 128, 128], decoder_in_channels=[128, 128, 128],
         decoder_layers=2, decoder_n_points=[2, 2, 2], depth_mult=0.34, num_labels=5, **_DETR),
    _net("lw-detr", "transformers.LwDetrForObjectDetection", _IMAGE,
         backbone_config={"model_type": "lw_detr_vit", **_SHALLOW_VIT, "pretrain_image_size": 64,
                          "window_block_indices": [0], "num_windows": 4, "out_indices": [1, 2]},
         projector_scale_factors=[1.0], hidden_expansion=1.0, d_model=64, decoder_ffn_dim=64, decoder_layers=2,
         decoder_self_attention_heads=2, decoder_cross_attention_heads=2, num_queries=10, group_detr=1),
    # Every pixel is a keypoint, so that the shape of the output does not depend on the weights.
    _net("superpoint", "transformers.SuperPointForKeypointDetection", _SMALL_IMAGE,
         decoder_hidden_size=128, keypoint_threshold=0.0, nms_radius=0),
    _net("efficientloftr", "transformers.EfficientLoFTRModel", {"pixel_values": (1, 2, 3, 64, 64)},
         stage_num_blocks=[1, 1, 1, 1], out_features=[64, 64, 128, 128], stage_stride=[2, 1, 2, 2], hidden_size=128,
         num_attention_layers=1),
    _net("vitpose", "transformers.VitPoseForPoseEstimation", _IMAGE,
         backbone_config={"model_type": "vitpose_backbone", **_SHALLOW_VIT, "image_size": [64, 64],
                          "patch_size": [16, 16], "out_indices": [2]},
         num_labels=64),
    _net("pp-ocr-v5-server-det", "transformers.PPOCRV5ServerDetForObjectDetection", _IMAGE,
         backbone_config={"model_type": "hgnet_v2", "out_features": _STAGES, **_HGNET}, neck_out_channels=256,
         reduce_factor=1, intraclass_block_config=_kernels_of_each_ratio(), scale_factor_list=[1, 2, 4, 8],
         kernel_list=[3, 2, 2]),
    _net("florence2-vision", "transformers.models.florence2.modeling_florence2.Florence2VisionBackbone",
         {"hidden_states": (1, 3, 64, 64)},
         embed_dim=[64, 64, 128, 128], depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2], num_groups=[2, 2, 2, 2],
         window_size=4),

    # Depth estimation.
    _net("dpt", "transformers.DPTForDepthEstimation", _IMAGE,
         backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[64] * 4, fusion_hidden_size=64, **_VIT),
    _net("dpt-hybrid", "transformers.DPTForSemanticSegmentation", _IMAGE,
         is_hybrid=True, backbone_config={"model_type": "bit", "global_padding": "same", "layer_type": "bottleneck",
                                          "depths": [1, 1, 1], "hidden_sizes": [256, 256, 256],
                                          "out_features": _STAGES[:3], "embedding_dynamic_padding": True},
         backbone_featmap_shape=[1, 256, 4, 4], backbone_out_indices=[0, 1, 2, 3],
         neck_hidden_sizes=[256, 256, 64, 64], fusion_hidden_size=64, num_labels=5, **_VIT),
    _net("depth-anything", "transformers.DepthAnythingForDepthEstimation", {"pixel_values": (1, 3, 56, 56)},
         backbone_config={**_DINOV2, "num_hidden_layers": 4, "image_size": 56, "patch_size": 14,
                          "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False},
         reassemble_hidden_size=64, neck_hidden_sizes=[64, 64, 64, 64], fusion_hidden_size=64),
    _net("depth-pro", "transformers.DepthProForDepthEstimation", {"pixel_values": (1, 3, 256, 256)},
         fusion_hidden_size=64, patch_size=64, intermediate_hook_ids=[1, 0], intermediate_feature_dims=[64, 64],
         scaled_images_feature_dims=[64, 64, 64], use_fov_model=True, image_model_config=_DINOV2,
         patch_model_config=_DINOV2, fov_model_config=_DINOV2),
    _net("zoedepth", "transformers.ZoeDepthForDepthEstimation", _IMAGE,
         backbone_config={"model_type": "beit", "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False,
                          "use_relative_position_bias": True, **_VIT},
         neck_hidden_sizes=[64, 64, 64, 64], fusion_hidden_size=64, bottleneck_features=64, bin_embedding_dim=32,
         bin_configurations=[{"n_bins": 16, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}]),
    _net("glpn", "transformers.GLPNForDepthEstimation", _IMAGE,
         depths=[1, 1, 1, 1], hidden_sizes=[64, 64, 64, 128], num_attention_heads=[1, 2, 2, 4],
         mlp_ratios=[2, 2, 2, 2]),

    # Segmentation.
    _net("segformer", "transformers.SegformerForSemanticSegmentation", _IMAGE,
         depths=[1, 1, 1, 1], hidden_sizes=[64, 64, 128, 128], num_attention_heads=[1, 2, 2, 4],
         mlp_ratios=[2, 2, 2, 2], decoder_hidden_size=64, num_labels=5),
    _net("mobilevit", "transformers.MobileViTForSemanticSegmentation", _IMAGE,
         image_size=64, hidden_sizes=[64, 64, 64], neck_hidden_sizes=[16, 32, 64, 64, 64, 64, 64],
         aspp_out_channels=64, num_labels=5),
    _net("upernet", "transformers.UperNetForSemanticSegmentation", _IMAGE,
         backbone_config={"model_type": "convnext", "hidden_sizes": [64] * 4, "depths": [1] * 4,
                          "out_features": _STAGES},
         hidden_size=64, auxiliary_in_channels=64, auxiliary_channels=64, num_labels=5),
    _net("beit-segmentation", "transformers.BeitForSemanticSegmentation", _IMAGE,
         out_indices=[1, 2, 3, 4], auxiliary_channels=64, use_relative_position_bias=True, num_labels=5, **_VIT),
    _net("mask2former", "transformers.Mask2FormerForUniversalSegmentation", _IMAGE,
         feature_size=64, mask_feature_size=64, **_MASK_DECODER),
    _net("maskformer", "transformers.MaskFormerForInstanceSegmentation", _IMAGE,
         fpn_feature_size=64, mask_feature_size=64, backbone_config=_RESNET,
         decoder_config={"model_type": "detr", "encoder_layers": 1, "decoder_layers": 1, **_DETR}),
    _net("oneformer", "transformers.OneFormerForUniversalSegmentation",
         {**_IMAGE, "task_inputs": torch.arange(77).unsqueeze(0)},
         text_encoder_width=64, text_encoder_num_layers=1, text_encoder_vocab_size=99, conv_dim=64, mask_dim=64,
         **_MASK_DECODER),
    _net("clipseg", "transformers.CLIPSegForImageSegmentation",
         {**_IMAGE, "input_ids": torch.tensor([[0, 5, 7, 98]])},
         text_config={**_CLIP, "vocab_size": 99, "num_hidden_layers": 2, "max_position_embeddings": 16,
                      "bos_token_id": 0, "eos_token_id": 98},
         vision_config={**_CLIP, "num_hidden_layers": 4, "image_size": 64, "patch_size": 16},
         projection_dim=64, extract_layers=[1, 2, 3], reduce_dim=64, decoder_intermediate_size=64,
         use_complex_transposed_convolution=True),
    _net("seggpt", "transformers.SegGptForImageSegmentation",
         dict.fromkeys(("pixel_values", "prompt_pixel_values", "prompt_masks"), (1, 3, 32, 32)),
         hidden_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=[64, 32], patch_size=16,
         pretrain_image_size=64, mlp_dim=64, merge_index=0, intermediate_hidden_state_indices=[1, 2, 3]),
    _net("sam", "transformers.SamModel", {**_IMAGE, "input_points": torch.tensor([[[[20.0, 30.0]]]])},
         vision_config={"hidden_size": 64, "output_channels": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                        "image_size": 64, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1],
                        "num_pos_feats": 32, "mlp_dim": 64},
         prompt_encoder_config={"hidden_size": 64, "image_size": 64, "patch_size": 8},
         mask_decoder_config={"hidden_size": 64, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 64}),
    # The neck asks a convolution for the dtype of its weight; with 3×3 kernels that one is eligible.
    _net("sam2-vision", "transformers.Sam2VisionModel", _IMAGE,
         backbone_config={"model_type": "sam2_hiera_det_model", "hidden_size": 32, "image_size": [64, 64],
                          "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [32, 64, 96, 128],
                          "num_attention_heads_per_stage": [1, 2, 2, 4], "window_size_per_stage": [8, 4, 4, 2],
                          "global_attention_blocks": [3]},
         backbone_channel_list=[128, 96, 64, 32], backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
         fpn_hidden_size=64, fpn_kernel_size=3, fpn_padding=1),

    # From image to image.
    _net("swin2sr", "transformers.Swin2SRForImageSuperResolution", _SMALL_IMAGE,
         image_size=32, embed_dim=64, depths=[2, 2], num_heads=[2, 2], window_size=4),
    _net("vitmatte", "transformers.VitMatteForImageMatting", {"pixel_values": (1, 4, 64, 64)},
         backbone_config={"model_type": "vitdet", **_SHALLOW_VIT, "pretrain_image_size": 64, "num_channels": 4,
                          "residual_block_indices": [1], "out_features": ["stage2"]},
         hidden_size=64, convstream_hidden_sizes=[64, 64, 128], fusion_hidden_sizes=[128, 64, 64, 64]),
    # The first convolution of the head pads by reflection and is wide enough to be eligible.
    _net("uvdoc", "transformers.UVDocModel", _IMAGE,
         backbone_config={"model_type": "uvdoc_backbone", "resnet_head": [[3, 64], [64, 64]],
                          "resnet_configs": [[[64, 64, 1, False], [64, 64, 3, False]],
                                             [[64, 128, 1, True], [128, 128, 3, False]]],
                          "stage_configs": [[[128, 1]], [[128, 2]], [[128, 3], [128, 1]]],
                          "out_features": _STAGES[:3]},
         out_point_positions2D=[[128, 64], [64, 2]]),
    _net("janus-vqvae", "transformers.JanusVQVAE", _SMALL_IMAGE,
         num_embeddings=32, latent_channels=32, num_patches=16, base_channels=64, channel_multiplier=[1, 2],
         num_res_blocks=1),

    # Diffusion: denoising networks, and the networks that condition them.
    _net("unet", "diffusers.UNet2DModel", {"sample": (1, 3, 16, 16), **_TIMESTEP},
         down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
         attention_head_dim=32, **_UNET),
    _net("unet-fir", "diffusers.UNet2DModel", {**_SAMPLE, **_TIMESTEP},
         sample_size=32, block_out_channels=(64, 64, 128), layers_per_block=1,
         down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
         up_block_types=("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"), attention_head_dim=32,
         time_embedding_type="fourier", center_input_sample=True),
    _net("unet-consistency-decoder", "diffusers.UNet2DModel", {"sample": (1, 7, 16, 16), **_TIMESTEP},
         in_channels=7, out_channels=6, down_block_types=("ResnetDownsampleBlock2D",) * 2,
         up_block_types=("ResnetUpsampleBlock2D",) * 2, add_attention=False, time_embedding_type="learned",
         num_train_timesteps=1024, resnet_time_scale_shift="scale_shift", **_UNET),
    _net("unet-condition", "diffusers.UNet2DConditionModel", _LATENT_AND_TEXT,
         down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
         attention_head_dim=2, cross_attention_dim=64, **_UNET),
    _net("unet-condition-simple", "diffusers.UNet2DConditionModel", _LATENT_AND_TEXT,
         down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
         mid_block_type="UNetMidBlock2DSimpleCrossAttn",
         up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), attention_head_dim=32,
         cross_attention_dim=64, resnet_time_scale_shift="scale_shift", **_UNET),
    _net("unet-3d-condition", "diffusers.UNet3DConditionModel",
         {"sample": (1, 4, 2, 16, 16), "encoder_hidden_states": (1, 8, 64), **_TIMESTEP},
         down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
         attention_head_dim=32, cross_attention_dim=64, **_UNET),
    _net("kandinsky3", "diffusers.Kandinsky3UNet",
         {"sample": (1, 4, 16, 16), "encoder_hidden_states": (1, 8, 32), **_TIMESTEP,
          "encoder_attention_mask": torch.ones(1, 8)},
         time_embedding_dim=64, groups=8, attention_head_dim=32, layers_per_block=2, block_out_channels=(64, 128),
         cross_attention_dim=64, encoder_hid_dim=32),
    _net("controlnet", "diffusers.ControlNetModel",
         {"sample": (1, 4, 16, 16), "encoder_hidden_states": (1, 8, 64), "controlnet_cond": (1, 3, 64, 64),
          **_TIMESTEP},
         block_out_channels=(64, 128), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
         attention_head_dim=2, cross_attention_dim=64, conditioning_embedding_out_channels=(16, 64, 64)),
    _net("t2i-adapter", "diffusers.T2IAdapter", {"x": (1, 3, 64, 64)},
         channels=[64, 64, 128, 128], num_res_blocks=1),
    _net("t2i-adapter-light", "diffusers.T2IAdapter", {"x": (1, 3, 64, 64)},
         channels=[256, 256, 512], num_res_blocks=1, adapter_type="light_adapter"),

    # Autoencoders.
    _net("autoencoder-kl", "diffusers.AutoencoderKL", _SAMPLE, block_out_channels=(64, 128), **_AUTOENCODER),
    _net("vq-model", "diffusers.VQModel", _SAMPLE,
         block_out_channels=(64, 128), down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
         up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), latent_channels=4, norm_type="spatial"),
    _net("autoencoder-tiny", "diffusers.AutoencoderTiny", _SAMPLE,
         num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1)),
    _net("autoencoder-dc", "diffusers.AutoencoderDC", _SAMPLE,
         latent_channels=8, encoder_block_types=_DC_BLOCKS, decoder_block_types=_DC_BLOCKS,
         encoder_block_out_channels=(64, 64, 128), decoder_block_out_channels=(64, 64, 128),
         encoder_layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1),
         encoder_qkv_multiscales=_DC_SCALES, decoder_qkv_multiscales=_DC_SCALES, upsample_block_type="interpolate",
         downsample_block_type="Conv"),
    _net("autoencoder-asymmetric", "diffusers.AsymmetricAutoencoderKL",
         {**_SAMPLE, "mask": (_noise(1, 1, 32, 32, seed=1) > 0).float()},
         down_block_out_channels=(64, 64), up_block_out_channels=(64, 128), **_AUTOENCODER),
    _net("autoencoder-temporal", "diffusers.AutoencoderKLTemporalDecoder", {"sample": (2, 3, 32, 32), "num_frames": 2},
         block_out_channels=(64, 64), down_block_types=_AUTOENCODER["down_block_types"]),
    _net("autoencoder-kvae", "diffusers.AutoencoderKLKVAE", _SAMPLE,
         channels=64, num_enc_blocks=1, num_dec_blocks=1, z_channels=4, ch_mult=(1, 2)),
    _net("autoencoder-hunyuan-image", "diffusers.AutoencoderKLHunyuanImage", _SAMPLE,
         in_channels=3, out_channels=3, latent_channels=32, block_out_channels=(64, 128), layers_per_block=1,
         spatial_compression_ratio=2, sample_size=32),
)

# Layers of every kind, by what reads the weights of some: embeddings, attention, parametrisations, tests of a type.
OF_EVERY_KIND: tuple[Architecture, ...] = (
    *(architecture for architecture in ARCHITECTURES if architecture.name in (
        "convnext", "segformer", "maskformer", "unet-condition", "unet-3d-condition", "autoencoder-kl"
    )),
    # Language; the last layer of some has the weight of the embedding.
    _net("bert", "transformers.BertForMaskedLM", _WORDS, **_LANGUAGE),
    _net("mobilebert", "transformers.MobileBertForMaskedLM", _WORDS,
         embedding_size=32, true_hidden_size=32, intra_bottleneck_size=32, **{**_LANGUAGE, "hidden_size": 64}),
    _net("deberta-v2", "transformers.DebertaV2Model", _WORDS,
         relative_attention=True, pos_att_type=["p2c", "c2p"], conv_kernel_size=3, **_LANGUAGE),
    _net("llama", "transformers.LlamaForCausalLM", _WORDS, **_LANGUAGE),
    _net("bloom", "transformers.BloomForCausalLM", _WORDS, hidden_size=32, n_layer=2, n_head=4, vocab_size=50),
    _net("mamba", "transformers.MambaForCausalLM", _WORDS,
         hidden_size=32, num_hidden_layers=2, vocab_size=50, state_size=8),
    # Asks a Linear layer for the type of its weight.
    _net("t5", "transformers.T5ForConditionalGeneration", _WORDS_AND_WORDS, **_T5),
    _net("t5-gated", "transformers.T5ForConditionalGeneration", _WORDS_AND_WORDS,
         feed_forward_proj="gated-gelu", tie_word_embeddings=False, **_T5),
    # One set of layers, which run again and again.
    _net("albert", "transformers.AlbertForMaskedLM", _WORDS, embedding_size=16, **_LANGUAGE),

    # Sound: Conv1d, some of them under weight normalisation.
    _net("whisper", "transformers.WhisperForConditionalGeneration",
         {"input_features": (2, 8, 20), "decoder_input_ids": _WORDS["input_ids"]},
         d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
         encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=60, num_mel_bins=8, max_source_positions=10,
         pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1),
    _net("wav2vec2", "transformers.Wav2Vec2ForCTC", _SOUND, **_SPEECH),
    _net("wav2vec2-conformer", "transformers.Wav2Vec2ConformerModel", _SOUND, conv_depthwise_kernel_size=5, **_SPEECH),
    _net("hifigan", "transformers.SpeechT5HifiGan", {"spectrogram": (10, 16)},
         model_in_dim=16, upsample_initial_channel=32, upsample_rates=[4, 4], upsample_kernel_sizes=[8, 8],
         resblock_kernel_sizes=[3, 5], resblock_dilation_sizes=[[1, 3], [1, 3]]),

    # Images and video.
    _net("vit", "transformers.ViTForImageClassification", _SMALL_IMAGE, image_size=32, patch_size=8, **_TRANSFORMER),
    _net("siglip-vision", "transformers.SiglipVisionModel", _SMALL_IMAGE, image_size=32, patch_size=8, **_TRANSFORMER),
    _net("videomae", "transformers.VideoMAEForVideoClassification", _VIDEO,
         image_size=32, patch_size=8, num_frames=4, tubelet_size=2, **_TRANSFORMER),
    _net("video-vae", "diffusers.AutoencoderKLLTXVideo", {"sample": (1, 3, 9, 32, 32)},
         latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
         layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5, patch_size=1, patch_size_t=1),
    _net("diffusion-transformer", "diffusers.SD3Transformer2DModel",
         {"hidden_states": (1, 4, 8, 8), "encoder_hidden_states": (1, 4, 32), "pooled_projections": (1, 64),
          **_TIMESTEP},
         sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
         num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=64),
)
# fmt: on
