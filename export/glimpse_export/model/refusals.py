"""Settings that change a model's answers and that this version does not follow: refused by name, never ignored."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from glimpse_export.errors import UnsupportedError
from glimpse_export.model.adapter_keys import HARMLESS, SWITCH, SWITCHED
from glimpse_export.model.fields import Config

# What each setting is when it does nothing; None means not set. How to sample is a caller's choice, so do_sample,
# temperature, top_k, top_p and max_length are not here.
_GENERATION: dict[str, Any] = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "constraints": None,
    "dola_layers": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "forced_bos_token_id": None,
    "forced_decoder_ids": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "penalty_alpha": 0,
    "sequence_bias": None,
    "stop_strings": None,
    "suppress_tokens": None,
    "token_healing": False,
    "watermarking_config": None,
}
_TEXT: dict[str, Any] = {
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "mlp_bias": False,
    "num_nextn_predict_layers": 0,
    "partial_rotary_factor": 1,
}
_IMAGES: dict[str, Any] = {"do_center_crop": False, "do_pad": False}
# Of peft's adapter_config.json: what makes the trained weights more than W + scale * B @ A, or W another one.
_LORA: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "layer_replication": None,
    "lora_bias": False,
    "target_parameters": None,
    "trainable_token_indices": None,
}
# Variants are switched on by fields of such names; these say how training began or went, and nothing of the result.
_LORA_VARIANTS = re.compile(r"use_.+|.+_config")
_LORA_HARMLESS = {
    *("use_rslora", "corda_config", "eva_config", "loftq_config", "lora_ga_config", "runtime_config", "velora_config"),
}
# Read, or telling which modules have weights, which the file of weights shows itself; or nothing of the result.
_LORA_KNOWN = {
    *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "exclude_modules"),
    *("fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha"),
    *(
        "lora_dropout",
        "lorap_emb_lr",
        "lorap_lr_ratio",
        "megatron_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
    ),
    *("qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type", "unsloth_fixed"),
    "unsloth_version",
}
HOW_TO_MERGE = "merge the adapter with peft (merge_and_unload, then save_pretrained) and export the result as --model"

# By the value of quant_method, or by the field that says without one how weights are stored.
_QUANTISED = {
    "awq": "AWQ",
    "gptq": "GPTQ",
    "bitsandbytes": "bitsandbytes",
    "load_in_4bit": "bitsandbytes",
    "load_in_8bit": "bitsandbytes",
    "fp8": "fp8",
    "fbgemm_fp8": "fp8 (fbgemm)",
    "compressed-tensors": "compressed-tensors",
    "modelopt": "NVIDIA ModelOpt",
}
# The fields of a config.json that hold it, and what the field itself says.
_QUANTISATION = {"quantization_config": None, "compression_config": "compressed-tensors", "quantization": "MLX"}


def refuse_generation(config: Config, where: str) -> None:
    """Refuses settings of ``generation_config.json`` that change greedy decoding.

    Raises:
        UnsupportedError: naming the first such setting.
    """
    _refuse_active(config, _GENERATION, where)


def refuse_text(config: Config, where: str, qkv_bias: bool) -> None:
    """Refuses settings of the base model's ``config.json`` that the decoder graphs do not follow.

    Args:
        config: the decoder's fields.
        where: what to call the file in errors.
        qkv_bias: whether queries, keys and values of the family have biases.

    Raises:
        UnsupportedError: naming the first such setting.
    """
    _refuse_active(config, {**_TEXT, "attention_bias": qkv_bias}, where)
    kinds = config.get("layer_types") or []
    others = [kind for kind in kinds if kind != "full_attention"] if isinstance(kinds, list) else [kinds]
    if others:
        raise UnsupportedError(f"{where}: layer_types with {others[0]!r} is not supported, only 'full_attention'")


def refuse_images(config: Config, where: str) -> None:
    """Refuses steps of ``preprocessor_config.json`` that the runtime does not take.

    Raises:
        UnsupportedError: naming the first such step.
    """
    _refuse_active(config, _IMAGES, where)


def missing_images(where: str) -> str:
    """Returns what to say where there are no image rules; ``where`` is where they are looked for first."""
    return (
        f"{where} is missing, and there is no processor_config.json with an image_processor beside it; the checkpoint "
        "is incomplete: copy the base's"
    )


def refuse_quantised(base: Config, where: str) -> None:
    """Refuses weights that are stored rounded.

    Raises:
        UnsupportedError: naming the method.
    """
    parts = [base, *(part for key in ("text_config", "vision_config") if isinstance(part := base.get(key), dict))]
    for key, method in _QUANTISATION.items():
        for value in (part.get(key) for part in parts):
            if value:
                raise UnsupportedError(
                    f"{where}: {key} says that the checkpoint is quantised with {method or _method(value)}; take the "
                    "unquantised checkpoint and export it with --precision int4"
                )


def _method(config: object) -> str:
    if not isinstance(config, dict):
        return "an unknown method"
    name = config.get("quant_method")
    names = [name] if name else [key for key in _QUANTISED if config.get(key)]
    return _QUANTISED.get(str(names[0]), str(names[0])[:40]) if names else "an unknown method"


def refuse_unknown_options(adapter: Config, known: Iterable[str], where: str, harmless: Iterable[str] = ()) -> None:
    """Refuses fields of the adapter that this version does not know, and those that it does not follow.

    Args:
        adapter: its ``config.json``; a field that is null says nothing.
        known: the options of the method.
        where: what to call the file in errors.
        harmless: fields of the family's own that change nothing.

    Raises:
        UnsupportedError: naming the first such field.
    """
    options = set(known)
    said = {key for key, value in adapter.items() if value is not None}
    if adapter.get(SWITCH):
        raise UnsupportedError(
            f"{where}: {SWITCH} is not supported (it drops tokens of video frames that are alike); set it to false"
        )
    for key in sorted(said - options - HARMLESS - set(harmless) - SWITCHED - {SWITCH}):
        close = difflib.get_close_matches(key, options, n=1, cutoff=0.8)
        hint = f"did you mean {close[0]}?" if close else "delete the field if it changes nothing for inference"
        raise UnsupportedError(f"{where}: option {key!r} is not known to this version; {hint}")


def refuse_lora(config: Config, where: str) -> None:
    """Refuses variants of LoRA whose weights are merged in another way than LoRA's, and fields that are not known.

    Raises:
        UnsupportedError: naming the field that asks for one.
    """
    variants = {key: False for key in sorted(config) if _LORA_VARIANTS.fullmatch(key) and key not in _LORA_HARMLESS}
    _refuse_active(config, {**_LORA, **variants}, where, advice=HOW_TO_MERGE)
    unknown = set(config) - set(_LORA) - _LORA_HARMLESS - _LORA_KNOWN
    neutral = dict.fromkeys(sorted(unknown), False)
    _refuse_active(
        config, neutral, where, advice=f"delete the field if it changes nothing of the sum, or {HOW_TO_MERGE}"
    )


def _refuse_active(
    config: Config, neutral: Mapping[str, Any], where: str, advice: str = "it changes what the model does"
) -> None:
    for key, idle in neutral.items():
        value = config.get(key)
        if value is None or value == idle or (isinstance(value, (list, dict, str)) and not value):
            continue
        raise UnsupportedError(f"{where}: {key} = {str(value)[:40]} is not supported; {advice}")
