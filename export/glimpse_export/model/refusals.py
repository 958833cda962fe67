"""Settings that change a model's answers and that this version does not follow: refused by name, never ignored."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from glimpse_export.errors import UnsupportedError
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
    "quantization_config": None,
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
HOW_TO_MERGE = "merge the adapter with peft (merge_and_unload, then save_pretrained) and export the result as --model"

_ADAPTER_PREFIXES = (
    *("anchor", "attn_fuse", "deep_", "fixed_remain", "le_", "max_remain", "min_remain", "ori_attn", "reduce"),
    *("selected", "use_", "visual_cond"),
)
# Fields of every transformers configuration, of training, and of how the reference computes rather than what.
_ADAPTER_HARMLESS = {
    *("use_cache", "use_sliding_window", "use_bfloat16", "use_return_dict"),
    *("le_dropout_prob", "attn_fuse_use_flash_attn"),
}


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


def refuse_unknown_options(adapter: Config, known: Iterable[str], where: str) -> None:
    """Refuses fields of the adapter that look like options of the method and are none that this version knows.

    Raises:
        UnsupportedError: naming the first such field.
    """
    names = set(known)
    for key in sorted(set(adapter) - names - _ADAPTER_HARMLESS):
        if key.startswith(_ADAPTER_PREFIXES) and adapter[key] is not None:
            close = difflib.get_close_matches(key, names, n=1, cutoff=0.8)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UnsupportedError(f"{where}: option {key!r} is not known to this version{hint}")


def refuse_lora(config: Config, where: str) -> None:
    """Refuses variants of LoRA whose weights are merged in another way than LoRA's.

    Raises:
        UnsupportedError: naming the field that asks for one.
    """
    variants = {key: False for key in sorted(config) if _LORA_VARIANTS.fullmatch(key) and key not in _LORA_HARMLESS}
    _refuse_active(config, {**_LORA, **variants}, where, advice=HOW_TO_MERGE)


def _refuse_active(
    config: Config, neutral: Mapping[str, Any], where: str, advice: str = "it changes what the model does"
) -> None:
    for key, idle in neutral.items():
        value = config.get(key)
        if value is None or value == idle or (isinstance(value, (list, dict, str)) and not value):
            continue
        raise UnsupportedError(f"{where}: {key} = {str(value)[:40]} is not supported; {advice}")
