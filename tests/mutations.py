"""Breaks formulas on purpose, one at a time in a copy of the tree, and sees a test fail for each.

    python tests/mutations.py [WORD ...]      all of them, or those whose file or text holds a word
    python tests/mutations.py --part 3/10     every tenth, beginning with the third

A mutation that goes unnoticed is a hole in the tests: the script names it and exits with 1. Each mutation starts
pytest again, so they are no part of the tests themselves; a job tries another tenth of them every night.
`tests/test_mutations.py` holds the table to the code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[1]
CORE, TYPES, FEATURES = "cogvideox_core", "nodes/host/types", "nodes/host/features"
PLACES = f"{CORE}/weights/places"


class Mutation(NamedTuple):
    """Replace `right`, which occurs once in `file`, by `wrong`; and the tests that must notice."""

    file: str
    right: str
    wrong: str
    tests: str


TRANSFORMER = "tests/core/models/transformer/test_model.py"
SHAPES = "tests/core/models/test_shapes.py"
LENGTHS = "tests/nodes/test_lengths.py"
CHOICES = "tests/core/kernels/test_choices.py"
CONFIG = "tests/core/models/test_config.py"
POSITIONS = "tests/core/models/transformer/test_positions.py"
LAYERS = "tests/core/kernels/test_layers.py"
CPU_ATTENTION = "tests/core/kernels/test_cpu_attention.py"
ATTENTION = "tests/core/models/transformer/test_attention.py"
STREAMING = "tests/core/pipeline/test_offload.py"
BLOCK_OPS = "tests/core/models/transformer/test_block_ops.py"
COMPILATION = "tests/core/models/transformer/test_compilation.py"
KERNELS = "tests/core/kernels/test_triton_tokens.py"
TRITON_TRIAL = "tests/core/kernels/test_triton_trial.py"
AVAILABILITY = "tests/core/kernels/test_availability.py"
SYMBOLS = "tests/core/kernels/test_torch_symbols.py"
PRODUCTS = "tests/core/kernels/test_int8.py"
TRITON_INT8 = "tests/core/kernels/test_triton_int8.py"
COLOURS = "tests/core/videos/test_preview_colours.py"
UPLOAD = "tests/core/weights/test_upload.py"
MODULATION = "tests/core/models/transformer/test_adaln_table.py"
VAE = "tests/core/models/vae/test_autoencoder.py"
CAUSAL_CONV = "tests/core/models/vae/test_causal_conv.py"
FEATURE_MAPS = "tests/core/models/vae/test_feature_maps.py"
MEMORY_PLAN = "tests/core/models/vae/test_memory_plan.py"
DEVICES = "tests/core/kernels/test_devices.py"
DTYPES = "tests/core/pipeline/test_dtype_choice.py"
TILES = "tests/core/models/vae/test_tiling.py"
WINOGRAD = "tests/core/models/vae/test_winograd.py"
VAE_MEMORY = "tests/core/models/vae/test_memory.py"
VAE_NODES = "tests/nodes/test_vae.py"
SCHEDULE = "tests/core/sampling/test_samplers.py"
CONDITIONING = "tests/core/pipeline/test_conditioning.py"
RUNS = "tests/core/pipeline/test_pipeline.py"
SAMPLING = "tests/nodes/test_sampling.py"
MODEL_SAMPLING = "tests/nodes/test_model_sampling.py"
GUIDANCE = "tests/nodes/test_guidance_nodes.py"
OTHER_NODES = "tests/nodes/test_other_nodes.py"
APPROXIMATION = "tests/core/sampling/test_approximation.py"
SPEED = "tests/nodes/test_speed.py"
PACK = "tests/core/training/test_frame_pack.py"
DIFFUSION = "tests/core/training/test_diffusion_objective.py"
TRAINING = "tests/core/training/test_training_loop.py"
FORMS = "tests/core/weights/test_key_names.py"
CODECS = "tests/core/weights/test_codecs.py"
BLOCKS = "tests/core/weights/test_ggml_blocks.py"
LIBRARIES = "tests/core/weights/test_library_entries.py"
PACKED_NODES = "tests/nodes/test_packed_weights.py"
LORA = "tests/core/weights/test_lora.py"
ADAPTERS = "tests/core/weights/test_adapters.py"
ADAPTER_KINDS = "tests/core/weights/test_adapter_kinds.py"
ADAPTER_SCALES = "tests/core/weights/test_adapter_scales.py"
APPLIED = "tests/core/weights/test_applied_lora.py"
SAFETENSORS = "tests/core/weights/test_safetensors_file.py"
PICKLES = "tests/core/weights/test_torch_file.py"
FILE_BYTES = "tests/core/weights/test_file_bytes.py"
FOLDER_FILES = "tests/core/weights/test_folder_files.py"
INSPECT = "tests/core/weights/test_inspect.py"
VIDEO_FILES = "tests/core/videos/test_video_files.py"
PIXELS = "tests/core/videos/test_pixels.py"
FILM_WRITERS = "tests/core/videos/test_film_writers.py"
CONVERT = "tests/core/weights/test_convert.py"
DERIVED = "tests/nodes/test_derived.py"
HOST_TYPES = "tests/nodes/test_host_types.py"
INT8 = "tests/core/weights/test_quantize.py"
QUANTIZE = "tests/nodes/test_quantize.py"
PREVIEW = "tests/nodes/test_preview.py"
LISTING = "tests/core/weights/places/test_listing.py"
HUB_CACHE = "tests/core/weights/places/test_hub_cache.py"
NAMES = "tests/core/weights/places/test_names.py"
FOLDER = "tests/core/pipeline/test_folder.py"

MUTATIONS = [
    Mutation(f"{CORE}/kernels/int8.py", ".mul_(by_row).mul_(by_column)", ".mul_(by_column)", PRODUCTS),
    Mutation(f"{CORE}/kernels/int8.py", "amax(dim=1, keepdim=True)", "amax(dim=0, keepdim=True)", PRODUCTS),
    Mutation(f"{CORE}/kernels/triton_int8.py", "values * 0.0", "largest * 0.0", TRITON_INT8),
    Mutation(f"{CORE}/kernels/triton_int8.py", "0.044715 * y", "0.044 * y", TRITON_INT8),
    Mutation(f"{CORE}/weights/quantize.py", 'or (method == "int8" and _MODULATION', "or (False and _MODULATION", INT8),
    Mutation(f"{CORE}/weights/quantize.py", "if not (is_quantizable(key) and", "if not (", INT8),
    Mutation(f"{TYPES}/quantize.py", "    _merge(fresh.model, patcher.patches)\n", "", QUANTIZE),
    Mutation(f"{TYPES}/packed_weights.py", "or not is_quantizable(key)", "or False", QUANTIZE),
    Mutation(
        f"{TYPES}/packed_weights.py",
        "tensor.float().reshape(-1, 1) / 127",
        "tensor.float().reshape(-1, 1)",
        QUANTIZE,
    ),
    Mutation(f"{CORE}/weights/ggml_blocks.py", "return _fields(b, 4).flatten(1)", "return _in_turn(b, 4)", BLOCKS),
    Mutation(f"{CORE}/weights/ggml_blocks.py", "(_in_turn(b[:, :4], 1) << 4)", "(_in_turn(b[:, :4], 1) << 3)", BLOCKS),
    Mutation(f"{CORE}/weights/ggml_blocks.py", "else groups - minima[..., None]", "else groups", BLOCKS),
    Mutation(f"{CORE}/weights/ggml_blocks.py", "+ 4 * top - 4", "- 4 * top", BLOCKS),
    Mutation(f"{CORE}/weights/ggml_blocks.py", "[low & 63, (high & 15)", "[low & 63, (high >> 4)", BLOCKS),
    Mutation(f"{CORE}/weights/ggml_blocks.py", "(sevens | (parity << 7))", "(sevens)", BLOCKS),
    Mutation(f"{CORE}/weights/ggml_blocks.py", "-0.125, 0.125", "0.125, -0.125", BLOCKS),
    Mutation(
        f"{CORE}/weights/codecs.py", "torch.stack([data >> 4, data & 15]", "torch.stack([data & 15, data >> 4]", CODECS
    ),
    Mutation(f"{CORE}/weights/library_entries.py", "largest.read().float() / 127", "largest.read().float()", LIBRARIES),
    Mutation(f"{CORE}/weights/library_entries.py", "+ note.nested_offset", "", LIBRARIES),
    Mutation(f"{CORE}/weights/library_entries.py", "if group < note.blocksize:", "if False:", LIBRARIES),
    Mutation(f"{CORE}/weights/library_entries.py", "zero_point.read().any()", "False", LIBRARIES),
    Mutation(f"{TYPES}/packed_weights.py", "params.stored(qdata)).to(", "dict(data=qdata)).to(", PACKED_NODES),
    Mutation(f"{TYPES}/packed_weights.py", "scale is None or scale.ndim == 0)", "True)", PACKED_NODES),
    Mutation(
        f"{CORE}/weights/key_names.py", "RowBlocks((0, 1, 2, 6, 7, 8), 12)", "RowBlocks((0, 1, 2, 3, 4, 5), 12)", FORMS
    ),
    Mutation(f"{CORE}/weights/safetensors_file.py", "data_start + offset for", "8 + offset for", SAFETENSORS),
    Mutation(f"{CORE}/weights/safetensors_file.py", "start != end or", "", SAFETENSORS),
    Mutation(f"{CORE}/weights/safetensors_file.py", "if end != size:", "if end > size:", SAFETENSORS),
    Mutation(f"{CORE}/weights/file_bytes.py", "file.seek(start)", "pass", FILE_BYTES),
    Mutation(f"{CORE}/weights/file_bytes.py", '"not enough memory", ', "", FILE_BYTES),
    Mutation(f"{CORE}/weights/torch_file.py", "torch.serialization.clear_safe_globals()", "pass", PICKLES),
    Mutation(f"{CORE}/weights/torch_file.py", "torch.serialization.add_safe_globals(others)", "pass", PICKLES),
    Mutation(f"{CORE}/weights/torch_file.py", '    "numpy.core.multiarray._reconstruct",\n', "", PICKLES),
    Mutation(
        f"{CORE}/weights/folder_files.py",
        '_ENDINGS = (".safetensors", ".bin")',
        '_ENDINGS = (".bin", ".safetensors")',
        FOLDER_FILES,
    ),
    Mutation(f"{CORE}/weights/folder_files.py", "|^\\.|^$", "|^$", FOLDER_FILES),
    Mutation(f"{CORE}/weights/folder_files.py", "(?!00_)", "", FOLDER_FILES),
    Mutation(f"{CORE}/weights/inspect.py", "and key not in tied", "", INSPECT),
    Mutation(f"{CORE}/weights/adapter_scales.py", "Scale(alpha / rank,", "Scale(alpha,", LORA),
    Mutation(f"{CORE}/weights/adapter_scales.py", "sqrt(rank) if self.use_rslora else rank", "rank", LORA),
    Mutation(f"{CORE}/weights/adapter_scales.py", r'rf"(.*\.)?({pattern})$"', r'rf"({pattern})$"', LORA),
    Mutation(f"{CORE}/weights/adapter_scales.py", "rank in (None, config.rank_of(module))", "True", ADAPTER_SCALES),
    Mutation(f"{CORE}/weights/adapters.py", '"ac,bd...->abcd..."', '"ac,bd...->bacd..."', ADAPTERS),
    Mutation(
        f"{CORE}/weights/adapters.py",
        "(self.up1 @ self.down1) * (self.up2",
        "(self.up1 @ self.down1) + (self.up2",
        ADAPTERS,
    ),
    Mutation(f"{CORE}/weights/adapters.py", "        weight = self.direction.changed(weight)\n", "", ADAPTERS),
    Mutation(f"{CORE}/weights/adapters.py", "if dim != self.axis]", "if dim == self.axis]", ADAPTERS),
    Mutation(f"{CORE}/weights/adapters.py", "* 2**stage // 2", "// 2", ADAPTERS),
    Mutation(
        f"{CORE}/weights/adapters.py",
        "identity - skewed, identity + skewed",
        "identity + skewed, identity - skewed",
        ADAPTERS,
    ),
    Mutation(f"{CORE}/weights/adapters.py", "(1 if exponent == last > 1 else 2)", "2", ADAPTERS),
    Mutation(f"{CORE}/weights/adapter_kinds.py", "rotations.mT[None]", "rotations[None]", ADAPTERS),
    Mutation(f"{CORE}/weights/adapter_kinds.py", "parts.alpha * num_rows", "parts.alpha", ADAPTERS),
    Mutation(f"{CORE}/weights/adapter_kinds.py", "Rotation(blocks.mT) if", "Rotation(blocks) if", ADAPTER_KINDS),
    Mutation(
        f"{CORE}/weights/applied_lora.py", "self.lora.strength * self.weight.scale *", "self.lora.strength *", LORA
    ),
    Mutation(
        f"{CORE}/kernels/layers.py",
        "for delta in self.deltas:\n            weight",
        "for delta in self.deltas[:1]:\n            weight",
        APPLIED,
    ),
    Mutation(f"{CORE}/videos/film_writers.py", "**coding.video_options, **_COLOUR", "**_COLOUR", VIDEO_FILES),
    Mutation(
        f"{CORE}/videos/film_writers.py", "**coding.video_options, **_COLOUR", "**coding.video_options", VIDEO_FILES
    ),
    Mutation(f"{CORE}/videos/film_writers.py", "crf=lambda crf: crf // 2", "crf=lambda crf: crf * 2", VIDEO_FILES),
    Mutation(f"{CORE}/videos/film_writers.py", "_WEBM[target.codec or WEBM_CODECS[0]]", '_WEBM["vp9"]', VIDEO_FILES),
    Mutation(f"{CORE}/videos/film_writers.py", "math.ceil(seconds * sound.sample_rate)", "None", VIDEO_FILES),
    Mutation(
        f"{CORE}/videos/film_writers.py",
        "1000 * number / target.rate",
        "int(1000 / target.rate) * number",
        FILM_WRITERS,
    ),
    Mutation(f"{CORE}/videos/pixels.py", "KR, KB = 0.2126, 0.0722", "KR, KB = 0.299, 0.114", PIXELS),
    Mutation(f"{CORE}/videos/pixels.py", "uv.flatten()]).round()", "uv.flatten()])", PIXELS),
    Mutation(f"{CORE}/videos/pixels.py", "mul(255).round()", "mul(255)", PIXELS),
    Mutation(
        f"{CORE}/videos/file_tags.py", "3 << (flags & 7) + 1", "3 << (flags & 7)", "tests/core/videos/test_file_tags.py"
    ),
    Mutation(
        f"{CORE}/weights/convert.py",
        "if tensor.codec == codec and _has_our_scales(tensor, entry):",
        "if False:",
        CONVERT,
    ),
    Mutation(f"{CORE}/pipeline/conditioning.py", "known = 1.0 - (mask > 0.5)", "known = (mask > 0.5)", DERIVED),
    Mutation(
        f"{CORE}/pipeline/conditioning.py", "video.masked_fill(mask > 0.5", "video.masked_fill(mask <= 0.5", DERIVED
    ),
    Mutation(f"{CORE}/pipeline/conditioning.py", "known = 1.0 - mask", "known = mask", HOST_TYPES),
    Mutation(
        f"{CORE}/pipeline/conditioning.py", "masks[: size.num_frames, :, top:bottom, left:right]", "masks", CONDITIONING
    ),
    Mutation(
        f"{CORE}/pipeline/conditioning.py", "[first, between, *ends[1:]]", "[first, *ends[1:], between]", CONDITIONING
    ),
    Mutation(
        f"{CORE}/pipeline/conditioning.py", "latents[:, :, :1].expand(-1", "latents[:, :, -1:].expand(-1", CONDITIONING
    ),
    Mutation(
        f"{CORE}/models/transformer/block_ops.py",
        "(text, video), _by_part(modulation, packing)",
        "(video, text), _by_part(modulation, packing)",
        TRANSFORMER,
    ),
    Mutation(f"{CORE}/models/transformer/block_ops.py", "(shift, scale, _) in", "(scale, shift, _) in", TRANSFORMER),
    Mutation(
        f"{CORE}/models/transformer/model.py", "shift, scale = per_token", "scale, shift = per_token", TRANSFORMER
    ),
    Mutation(f"{CORE}/kernels/torch_symbols.py", '"gelu", [], "tanh"', '"gelu", [], "none"', LAYERS),
    Mutation(f"{CORE}/kernels/torch_symbols.py", "if not error <", "if error < -", SYMBOLS),
    Mutation(f"{CORE}/kernels/torch_symbols.py", "function._dynamo_marked_constant = True", "pass", AVAILABILITY),
    Mutation(f"{CORE}/kernels/availability.py", "if error is None:", "if True:", AVAILABILITY),
    Mutation(f"{CORE}/kernels/availability.py", "if capability < _VOLTA:", "if False:", AVAILABILITY),
    Mutation(f"{CORE}/kernels/availability.py", "except Exception as", "except ImportError as", AVAILABILITY),
    Mutation(f"{CORE}/kernels/triton_trial.py", "if not error < bound:", "if error == 7:", TRITON_TRIAL),
    Mutation(f"{CORE}/kernels/layers.py", "and not (layer.deltas or layer._forward_hooks)", "", LAYERS),
    Mutation(f"{CORE}/kernels/layers.py", "(layer.deltas or layer._forward_hooks)", "layer._forward_hooks", LORA),
    Mutation(f"{CORE}/kernels/layers.py", "        not torch.compiler.is_compiling()\n", "        True\n", COMPILATION),
    Mutation(
        f"{CORE}/weights/applied_lora.py",
        "if not isinstance(layer, TakesDeltas):\n        return",
        "if True:\n        return",
        COMPILATION,
    ),
    Mutation(
        f"{CORE}/models/transformer/adaln_table.py",
        "- len(rows)\n",
        "- (1 << (len(rows) - 1).bit_length())\n",
        COMPILATION,
    ),
    Mutation(f"{CORE}/models/transformer/attention.py", "if apart > self.off_by:", "if False:", ATTENTION),
    Mutation(f"{CORE}/models/transformer/attention.py", "if not found.isfinite().all():", "if False:", ATTENTION),
    Mutation(f"{CORE}/sampling/predictor.py", "if self.attention.may_fall_back and not", "if False and not", ATTENTION),
    Mutation(
        f"{CORE}/sampling/predictor.py", "if self.split else [embeds[::-1]]", "if False else [embeds[::-1]]", STREAMING
    ),
    Mutation(
        f"{CORE}/pipeline/block_buffers.py", "buffer = 1 - self._last_used", "buffer = self._last_used", STREAMING
    ),
    Mutation(
        f"{CORE}/pipeline/offload.py", "                group.assign(group.own)", "                pass", STREAMING
    ),
    Mutation(f"{CORE}/pipeline/offload.py", "if not same_tensors(found, self._block_groups)", "if False", STREAMING),
    Mutation(f"{CORE}/pipeline/offload.py", "excluded = _submodules(self._resting)", "excluded = set()", STREAMING),
    Mutation(f"{CORE}/pipeline/offload.py", "group.assign(group.copies_on(CPU))", "pass", STREAMING),
    Mutation(f"{CORE}/models/transformer/adaln_table.py", "sorted(set(timesteps))", "list(timesteps)", MODULATION),
    Mutation(f"{CORE}/kernels/triton_tokens.py", "normed * (1.0 + scale) + shift", "normed * scale + shift", KERNELS),
    Mutation(f"{CORE}/kernels/triton_tokens.py", "even * c - odd * s", "even * c + odd * s", KERNELS),
    Mutation(f"{CORE}/kernels/triton_maps.py", "x * tl.sigmoid(x)", "x", "tests/core/kernels/test_triton_maps.py"),
    Mutation(f"{CORE}/weights/upload.py", "source[start:stop]", "source[: stop - start]", UPLOAD),
    Mutation(f"{CORE}/kernels/cpu_attention.py", "head_dim**-0.5", "(head_dim + 1)**-0.5", CPU_ATTENTION),
    Mutation(f"{TYPES}/transformer.py", "mask is None and not any(others)", "True", "tests/nodes/test_attention.py"),
    Mutation(f"{PLACES}/listing.py", "< _COARSEST_TIME", "< 0", LISTING),
    Mutation(f"{PLACES}/listing.py", "folder.stat().st_mtime_ns == time_ns for", "True for", LISTING),
    Mutation(f"{PLACES}/listing.py", "and (repository is None or _is_of_cogvideox(path, kind))", "", LISTING),
    Mutation(f"{PLACES}/hub_cache.py", "max(commits", "min(commits", HUB_CACHE),
    Mutation(f"{PLACES}/hub_cache.py", 'os.environ.get("HF_HUB_CACHE") or', "", HUB_CACHE),
    Mutation(f"{PLACES}/names.py", "same or [", "[", NAMES),
    Mutation(f"{CORE}/pipeline/folder.py", "if made != taken:", "if False:", FOLDER),
    Mutation(f"{CORE}/pipeline/sources.py", "model if _holds(model, component) else None", "None", FOLDER),
    Mutation(f"{TYPES}/quantize.py", "        made.patches = {}\n", "", QUANTIZE),
    Mutation(
        f"{FEATURES}/installation.py",
        "except Exception as error:",
        "except KeyError as error:",
        "tests/nodes/test_features.py",
    ),
    Mutation(f"{CORE}/kernels/cpu_attention.py", "short or q.dtype", "q.dtype", CPU_ATTENTION),
    Mutation(f"{CORE}/kernels/cpu_attention.py", " or torch.compiler.is_compiling()", "", CPU_ATTENTION),
    Mutation(f"{CORE}/models/vae/feature_maps.py", "split(_ADDED_UP)", "split(1 << 30)", FEATURE_MAPS),
    Mutation(f"{CORE}/models/vae/winograd.py", "yield third - second", "yield second - third", WINOGRAD),
    Mutation(
        f"{CORE}/models/vae/causal_conv.py",
        "lambda x: (onednn_conv3d(x, weight, bias), None)",
        "partial(convolved, layer)",
        CAUSAL_CONV,
    ),
    Mutation(f"{CORE}/models/vae/winograd.py", "if rows % 2 and even_frames", "if False", WINOGRAD),
    Mutation(f"{CORE}/models/vae/upsample_conv.py", "[first, middle + last]", "[first, middle]", VAE),
    Mutation(f"{CORE}/models/transformer/adaln_table.py", "norm.linear = layer", "pass", MODULATION),
    Mutation(f"{CORE}/models/transformer/model.py", "OFS = 2.0", "OFS = 1.0", TRANSFORMER),
    Mutation(
        f"{CORE}/models/transformer/model.py",
        "text = text + table[:, : config.max_text_seq_length]",
        "pass",
        TRANSFORMER,
    ),
    Mutation(
        f"{CORE}/models/transformer/model.py",
        "permute(0, 2, 4, 6, 1, 3, 5, 7)",
        "permute(0, 2, 4, 6, 3, 1, 5, 7)",
        TRANSFORMER,
    ),
    Mutation(
        f"{CORE}/models/transformer/positions.py",
        "cat([angles.cos(), angles.sin()]",
        "cat([angles.sin(), angles.cos()]",
        TRANSFORMER,
    ),
    Mutation(
        f"{CORE}/models/transformer/positions.py", "def rotary_table(", "@lru_cache\ndef rotary_table(", POSITIONS
    ),
    Mutation(f"{CORE}/models/transformer/adaln_table.py", "transformer.kept_rotary = {}", "pass", POSITIONS),
    Mutation(f"{CORE}/kernels/choices.py", "_CLEARLY * times[default]", "2 * times[default]", CHOICES),
    Mutation(f"{CORE}/kernels/layers.py", '"onednn") == "onednn"', '"onednn") != ""', CHOICES),
    Mutation(f"{CORE}/models/config.py", "prod(self.training_grid)", "1", CONFIG),
    Mutation(f"{CORE}/models/shapes.py", "(1 - num_frames) % frame_group(vae)", "0", SHAPES),
    Mutation(f"{CORE}/models/transformer/positions.py", "[:, : grid[0]]  # [1, T, H, W, D]", "", RUNS),
    Mutation(f"{CORE}/pipeline/pipeline.py", "yield chunk[:, :, :left]", "yield chunk", RUNS),
    Mutation(f"{TYPES}/lengths.py", "computed_frames(asked, vae) == computed", "True", LENGTHS),
    Mutation(f"{CORE}/models/variants.py", 'or_conditioning="image",', "", RUNS),
    Mutation(f"{CORE}/models/transformer/positions.py", "odd, sin, value=-1", "odd, sin", POSITIONS),
    Mutation(f"{CORE}/models/transformer/positions.py", "complex(cos, sin)", "complex(sin, cos)", POSITIONS),
    Mutation(f"{CORE}/models/transformer/positions.py", "pairs.contiguous()", "pairs", POSITIONS),
    Mutation(
        f"{CORE}/models/transformer/block_ops.py",
        "for whole in (clip,",
        "for whole in (x[0],",
        BLOCK_OPS,
    ),
    Mutation(
        f"{CORE}/models/transformer/positions.py", "(positions - positions[0]) * axis", "positions * axis", POSITIONS
    ),
    Mutation(
        f"{CORE}/models/transformer/attention.py", "return v.transpose(1, 2)", "return q.transpose(1, 2)", TRANSFORMER
    ),
    Mutation(f"{CORE}/models/transformer/positions.py", "round((base_columns - fit_columns) / 2)", "0", TRANSFORMER),
    Mutation(f"{CORE}/models/vae/causal_conv.py", "= inner[:, :, 2:3]", "= 0 * inner[:, :, 2:3]", VAE),
    Mutation(
        f"{CORE}/models/vae/causal_conv.py",
        "padded[:, :, -2:, 1:-1]",
        "padded[:, :, -1:, 1:-1].expand(-1, -1, 2, -1, -1)",
        VAE,
    ),
    Mutation(f"{CORE}/models/vae/blocks.py", "F.pad(_frames(rows), (0, 1, 0", "F.pad(_frames(rows), (1, 0, 0", VAE),
    Mutation(f"{CORE}/models/vae/feature_maps.py", "num_frames > 1 and num_frames % 2 == 1", "False", VAE),
    Mutation(f"{CORE}/models/vae/chunks.py", "LATENTS_PER_CHUNK = 2", "LATENTS_PER_CHUNK = 4", VAE),
    Mutation(f"{CORE}/models/vae/blocks.py", "            x.free_above(band.stop)\n", "", VAE_MEMORY),
    Mutation(f"{CORE}/models/vae/causal_conv.py", "source, cache.device)", "source)", CAUSAL_CONV),
    Mutation(f"{CORE}/models/vae/causal_conv.py", "if past is None or past.requires_grad", "if True", VAE_MEMORY),
    Mutation(f"{CORE}/models/vae/causal_conv.py", "else above[:, :, :, -2:]", "else above[:, :, :, -3:-1]", VAE),
    Mutation(f"{CORE}/models/vae/feature_maps.py", "mean - total[..., None]", "mean - mean", VAE),
    Mutation(
        f"{CORE}/models/vae/memory_plan.py",
        "if needed <= free",
        "if needed >= free",
        "tests/core/models/vae/test_memory_plan.py",
    ),
    Mutation(f"{CORE}/models/vae/memory.py", "x._replace(frames=2)", "x._replace(frames=1)", VAE_MEMORY),
    Mutation(f"{CORE}/models/vae/autoencoder.py", "waiting = [joined[:, :, length:]]", "waiting = [joined]", VAE),
    Mutation(f"{CORE}/models/vae/autoencoder.py", "0.5 * self.logvar", "self.logvar", VAE),
    Mutation(
        f"{CORE}/models/vae/tiling.py", "end * (1 - ramp) + start * ramp", "end * ramp + start * (1 - ramp)", TILES
    ),
    Mutation(f"{CORE}/kernels/devices.py", "and torch.version.hip is None", "", DEVICES),
    Mutation(f"{CORE}/kernels/devices.py", "_AMPERE = (8, 0)", "_AMPERE = (7, 0)", DEVICES),
    Mutation(f"{CORE}/kernels/devices.py", "return capability[0] != _RDNA", "return True", DEVICES),
    Mutation(f"{CORE}/kernels/int8.py", "if not is_nvidia(device) or", "if device.type != 'cuda' or", PRODUCTS),
    Mutation(
        f"{CORE}/models/transformer/attention.py",
        "is_nvidia(device)\n        and torch.cuda",
        "device.type == 'cuda'\n        and torch.cuda",
        ATTENTION,
    ),
    Mutation(f"{CORE}/pipeline/dtype_choice.py", "if trained == torch.float16 != stored", "if False", DTYPES),
    Mutation(f"{CORE}/pipeline/dtype_choice.py", "if fault is None:", "if True:", DTYPES),
    Mutation(f"{CORE}/models/vae/tiling.py", "last = max(size - length, 0)", "last = (size - 1) // 5 * 5", TILES),
    Mutation(
        f"{CORE}/models/vae/tiling.py", "covered - start, following", "length // 6 * (start > 0), following", TILES
    ),
    Mutation(
        f"{CORE}/sampling/noise_schedule.py", "shift + (1 - shift) * alphas", "1 + (shift - 1) * alphas", SCHEDULE
    ),
    Mutation(f"{CORE}/sampling/noise_schedule.py", "[timestep - stride for", "[timestep - stride - 1 for", SCHEDULE),
    Mutation(
        f"{CORE}/sampling/samplers.py",
        "            noise = self.draw(latents)\n            x0",
        "            x0",
        SCHEDULE,
    ),
    Mutation(f"{CORE}/sampling/samplers.py", "math.log(ratio_back)) / 2", "math.log(ratio_back))", SCHEDULE),
    Mutation(f"{CORE}/sampling/guidance.py", "** 5.0", "** 4.0", RUNS),
    Mutation(f"{CORE}/pipeline/conditioning.py", 'return 1.0 if scale == "sat" else 1.0 / s', "return s", RUNS),
    Mutation(
        f"{CORE}/pipeline/pipeline.py",
        "latents[:, :, size.leading :] /",
        "latents[:, :, : size.frames - size.leading] /",
        RUNS,
    ),
    Mutation(
        f"{CORE}/models/noise.py",
        "return draw((batch, rest[0], channels",
        "return draw((batch, channels, rest[0]",
        RUNS,
    ),
    Mutation(
        f"{CORE}/training/frame_pack.py", "cos.repeat(group.count, 1)", "cos.repeat_interleave(group.count, 0)", PACK
    ),
    Mutation(
        f"{CORE}/training/frame_pack.py", "_unpack(part[index], group.count)", "_unpack(part[0], group.count)", PACK
    ),
    Mutation(
        f"{CORE}/training/timesteps.py",
        "seeded_random(seed, step).shuffle(intervals)",
        "pass",
        "tests/core/training/test_timesteps.py",
    ),
    Mutation(f"{CORE}/training/diffusion_objective.py", "noise - (1 - alpha)", "noise + (1 - alpha)", DIFFUSION),
    Mutation(f"{CORE}/training/diffusion_objective.py", "clip.last[None] if", "clip.first[None] if", DIFFUSION),
    Mutation(
        f"{CORE}/training/training_loop.py",
        "            part.load_state_dict(state[name])",
        "            pass",
        TRAINING,
    ),
    Mutation(f"{CORE}/training/training_loop.py", 'self.recent = state.get("recent", [])', "pass", TRAINING),
    Mutation(f"{CORE}/training/training_loop.py", "self.average.copy_to(self.trained)", "pass", TRAINING),
    Mutation(
        f"{CORE}/training/starting_models.py",
        "weight.new_zeros(len(weight), missing, *weight.shape[2:])",
        "weight[:, :missing]",
        "tests/core/training/test_starting_models.py",
    ),
    Mutation(
        f"{CORE}/training/autoencoder_objective.py",
        "2 * factors.log()",
        "factors.log()",
        "tests/core/training/test_autoencoder_objective.py",
    ),
    Mutation(
        f"{CORE}/training/lora_pairs.py",
        "transformer.requires_grad_(False)",
        "pass",
        "tests/core/training/test_lora_pairs.py",
    ),
    Mutation(
        f"{CORE}/sampling/step_cache.py", "reach = (index - last) / (last - before)", "reach = 1.0", APPROXIMATION
    ),
    Mutation(f"{CORE}/sampling/step_cache.py", "share.clamp(0.0, 1.0)", "torch.ones_like(share)", APPROXIMATION),
    Mutation(
        f"{CORE}/sampling/step_cache.py",
        "(change * slope).sum(dims, keepdim=True)",
        "(change * slope).sum()",
        APPROXIMATION,
    ),
    Mutation(f"{CORE}/sampling/step_cache.py", "        self.spent = spent\n", "", APPROXIMATION),
    Mutation(f"{CORE}/sampling/step_cache.py", "            added = 0.0\n", "            pass\n", APPROXIMATION),
    Mutation(f"{CORE}/sampling/step_cache.py", "total + weight * x0", "total", APPROXIMATION),
    Mutation(f"{CORE}/sampling/approximation.py", "or index == self.count - 1", "", APPROXIMATION),
    Mutation(
        f"{CORE}/sampling/approximation.py",
        "x0 - (1 - alpha) * self._difference",
        "x0 - self._difference",
        APPROXIMATION,
    ),
    Mutation(f"{CORE}/sampling/approximation.py", "if index < self._next:", "if index < 0:", APPROXIMATION),
    Mutation(f"{CORE}/models/variants.py", "teacache=(250.210439,", "teacache=(25.0210439,", APPROXIMATION),
    Mutation(f"{FEATURES}/speed.py", "1 / (1 + sigma**2)", "1 / (1 + sigma)", SPEED),
    Mutation(f"{FEATURES}/speed.py", "self.cfg if guided", "1.0 if guided", SPEED),
    Mutation(f"{FEATURES}/speed.py", "negative if with_negative else None", "negative", SPEED),
    Mutation(
        f"{TYPES}/model.py",
        "CogVideoXLatentFormat(variant.vae.scaling_factor, rgb)",
        "CogVideoXLatentFormat(1.0, rgb)",
        SAMPLING,
    ),
    Mutation(f"{TYPES}/model.py", "* image_latent_factor(self.variant.vae, scale)", "* 1.0", SAMPLING),
    Mutation(f"{TYPES}/sampler.py", "following = [timestep - stride for timestep in timesteps]", "pass", SAMPLING),
    Mutation(f"{TYPES}/sampler.py", "    draw(noise)\n", "", SAMPLING),
    Mutation(f"{TYPES}/model_sampling.py", "isinstance(sampling, _FLOW)", "False", MODEL_SAMPLING),
    Mutation(f"{TYPES}/model_sampling.py", "not 1 < highest", "not 0 < highest", MODEL_SAMPLING),
    Mutation(f"{TYPES}/model_sampling.py", '"noise": (root, 1.0, -1.0)', '"noise": (root, 0.0, 1.0)', MODEL_SAMPLING),
    Mutation(
        f"{TYPES}/official_sampling.py", "official_table(rules.schedule)", "rules.model_sampling.sigmas", MODEL_SAMPLING
    ),
    Mutation(f"{TYPES}/transformer.py", "in self.options.get(VALUES_ONLY, ())", "in ()", GUIDANCE),
    Mutation(f"{TYPES}/other_nodes.py", '("t", "y", "x")', '("t", "x", "y")', GUIDANCE),
    Mutation(f"{TYPES}/other_nodes.py", "    not_called.discard(None)\n", "", OTHER_NODES),
    Mutation(f"{TYPES}/sampling_wrappers.py", "    take_out_halves(model_options)\n", "", OTHER_NODES),
    Mutation(f"{TYPES}/sampler.py", "return x * torch.sqrt(1 + sigmas[-1] ** 2)", "return x", SAMPLING),
    Mutation(f"{TYPES}/leading_frames.py", "return drawn.to(noise)", "return 0 * drawn.to(noise)", SAMPLING),
    Mutation(f"{TYPES}/leading_frames.py", "z[:, :, :1], torch.zeros_like", "z[:, :, 1:2], torch.zeros_like", SAMPLING),
    Mutation(f"{TYPES}/vae.py", "cache_device=cache_device).mode()", "cache_device=cache_device).logvar", VAE_NODES),
    Mutation(
        f"{TYPES}/vae.py",
        '"decode", VideoSize(tiling.tile_height, tiling.tile_width',
        '"decode", VideoSize(999, 999',
        VAE_NODES,
    ),
    Mutation(
        f"{TYPES}/vae.py",
        '"encode", VideoSize(tiling.tile_height, tiling.tile_width',
        '"encode", VideoSize(999, 999',
        VAE_NODES,
    ),
    Mutation(
        f"{CORE}/videos/preview_colours.py",
        "(red / scale,",
        "(red * scale,",
        "tests/core/videos/test_preview_colours.py",
    ),
    Mutation(f"{FEATURES}/previews/pictures.py", "self.latent_format.process_out(x0)", "x0", PREVIEW),
    Mutation(f"{FEATURES}/previews/pictures.py", "(pixels.movedim(-1, 2) + 1) / 2", "pixels.movedim(-1, 2)", PREVIEW),
    Mutation(f"{FEATURES}/previews/sampling_wrapper.py", "self.bar is None or step + 1 == steps", "True", PREVIEW),
    Mutation(f"{FEATURES}/previews/sampling_wrapper.py", "and host.left is not None", "and False", PREVIEW),
    Mutation(f"{FEATURES}/previews/reports.py", 'client.preview_method == "none"', "False", PREVIEW),
    Mutation(f"{FEATURES}/previews/film.py", "0 if last else", "", PREVIEW),
    Mutation(
        f"{FEATURES}/previews/newest_only.py",
        "            except Exception as error:\n                self.failed",
        "            except KeyError as error:\n                self.failed",
        PREVIEW,
    ),
    Mutation(
        f"{FEATURES}/previews/client.py",
        "await self.server.send_bytes(event, message, self.client_id)",
        "await self.server.send_bytes(event, message, None)",
        PREVIEW,
    ),
    Mutation(
        f"{TYPES}/sampling_wrappers.py",
        "[*_features.items(), *ours]",
        "[*ours, *_features.items()]",
        PREVIEW,
    ),
    Mutation(
        f"{TYPES}/clip.py",
        "[*pairs[: MAX_LENGTH - 1], pairs[count - 1]]",
        "pairs[:MAX_LENGTH]",
        "tests/nodes/test_text.py",
    ),
]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Break formulas on purpose and see the tests notice.")
    parser.add_argument("words", nargs="*", metavar="WORD", help="only mutations whose file or text holds one of these")
    parser.add_argument("--part", metavar="K/N", help="every Nth mutation, beginning with the Kth, for example 3/10")
    options = parser.parse_args(arguments)
    chosen = part_of(chosen_by(options.words), options.part)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repo"
        shutil.copytree(REPO, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__", "*.egg-info"))
        broken = [tests for tests in dict.fromkeys(m.tests for m in chosen) if not _passes(copy, tests)]
        for tests in broken:
            print(f"{tests} fails without any mutation, so it can notice none", flush=True)
        unnoticed = _try(copy, [mutation for mutation in chosen if mutation.tests not in broken])
    tried = sum(mutation.tests not in broken for mutation in chosen)
    print(f"{tried - len(unnoticed)} of {len(chosen)} mutations were noticed")
    return 1 if unnoticed or broken else 0


def chosen_by(words: list[str]) -> list[Mutation]:
    """The mutations whose file or text holds one of the words; all where there are none."""
    return [m for m in MUTATIONS if not words or any(word in f"{m.file} {m.right}" for word in words)]


def part_of(mutations: list[Mutation], part: str | None) -> list[Mutation]:
    """Every Nth of them, beginning with the Kth, for "K/N"; all for None.

    Raises: ValueError for another form, or K outside 1 to N.
    """
    if part is None:
        return mutations
    first, slash, count = part.partition("/")
    if not (slash and first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise ValueError(f"--part {part}; it is K/N with K from 1 to N, for example 3/10")
    return mutations[int(first) - 1 :: int(count)]


def _try(copy: Path, mutations: list[Mutation]) -> list[str]:
    """Try each in turn; the labels of those that no test noticed."""
    unnoticed = []
    for number, mutation in enumerate(mutations, start=1):
        start = time.monotonic()
        noticed = _noticed(copy, mutation)
        verdict = "noticed" if noticed else "NOT NOTICED"
        label = f"{mutation.file}: {mutation.right.strip()!r} -> {mutation.wrong.strip()!r}"
        print(f"{number}/{len(mutations)} {verdict} ({time.monotonic() - start:.0f} s) {label}", flush=True)
        if not noticed:
            unnoticed.append(label)
    return unnoticed


def _noticed(copy: Path, mutation: Mutation) -> bool:
    """Whether a test fails with the mutation in place; the copy is restored afterwards."""
    path = copy / mutation.file
    sound = path.read_text(encoding="utf-8")
    assert sound.count(mutation.right) == 1, f"{mutation.file} does not hold {mutation.right!r} once"
    path.write_text(sound.replace(mutation.right, mutation.wrong), encoding="utf-8")
    try:
        done = _run(copy, mutation.tests)
        return done.returncode == 1 and " failed" in done.stdout
    finally:
        path.write_text(sound, encoding="utf-8")


def _passes(copy: Path, tests: str) -> bool:
    """Whether a file's tests pass as they are, and there are any."""
    return _run(copy, tests).returncode == 0


def _run(copy: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """pytest on one file of the copy, up to the first failure; tests of the canvas are left out."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--comfy", "--slow", tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())
