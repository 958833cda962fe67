"""Models and cases with every option that a checkpoint or an adapter may set."""

from typing import Any

TWO = ((84, 112), (56, 28))


def rope(*section: int) -> dict[str, Any]:
    return {"type": "default", "mrope_section": list(section)}


# Options of the model, and of its cases by name.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "head size 12, one KV head, float16, sharded, tied": (
        {
            "text": {
                "hidden_size": 48,
                "num_key_value_heads": 1,
                "rope_scaling": rope(2, 1, 3),
                "rope_theta": 1e4,
                "rms_norm_eps": 1e-5,
                "tie_word_embeddings": True,
            },
            "vision": {"fullatt_block_indexes": []},
            "dtype": "float16",
            "shards": 3,
        },
        {"one": {}, "two": {"sizes": TWO}, "last": {"image_last": True}},
    ),
    "head size 6, KV heads = heads, bfloat16, other activations": (
        {
            "text": {
                "hidden_size": 30,
                "num_attention_heads": 5,
                "num_key_value_heads": 5,
                "rope_scaling": rope(1, 1, 1),
                "hidden_act": "gelu_pytorch_tanh",
            },
            "vision": {"hidden_size": 36, "num_heads": 3, "hidden_act": "gelu", "fullatt_block_indexes": [0, 1, 2, 3]},
            "glimpse": {"attn_fuse_hidden_act": "relu", "attn_fuse_num_heads": 1, "attn_fuse_size": 20},
            "dtype": "bfloat16",
        },
        {"one": {}, "two": {"sizes": TWO}},
    ),
    "head size 40, windows of nine tokens": (
        {
            "text": {"hidden_size": 80, "num_attention_heads": 2, "rope_scaling": rope(8, 6, 6)},
            "vision": {"hidden_size": 80, "num_heads": 1, "window_size": 84, "fullatt_block_indexes": [3]},
        },
        {"one": {"sizes": ((140, 112),)}},
    ),
    "pruned after layer 0": (
        {
            "glimpse": {
                "reduce_layer": 0,
                "selected_layers": [0],
                "le_length": 2,
                "le_norm_type": "layernorm",
                "le_layers": [0, 3],
            }
        },
        {"one": {}, "two": {"sizes": TWO}},
    ),
    "pruned after the last layer": (
        {"glimpse": {"reduce_layer": 3, "selected_layers": [2, 0], "le_layers": [3, 0, 1], "deep_supervision": True}},
        {"one": {}, "last": {"image_last": True}},
    ),
    "reduce_layer beyond the model": (
        {"glimpse": {"reduce_layer": 1000, "selected_layers": [3, 1], "ori_attn_supervision": True}},
        {"one": {}, "mask": {"mask": True}},
    ),
    "three layers in no order, log-softmax": (
        {
            "glimpse": {
                "reduce_layer": 2,
                "selected_layers": [2, 0, 1],
                "use_attention_logits": False,
                "ori_attn_supervision": True,
            }
        },
        {"one": {}, "two": {"sizes": TWO}},
    ),
    "glimpse embeddings listed in no order": (
        {"glimpse": {"reduce_layer": 2, "selected_layers": [2], "le_layers": [2, 0], "le_length": 3}},
        {"one": {}, "last": {"image_last": True, "sizes": ((56, 140),)}},
    ),
    "no glimpse token": (
        {"glimpse": {"le_layers": [], "le_length": 0}},
        {"one": {}},
    ),
    "scorer within windows": (
        {
            "vision": {"window_size": 84, "fullatt_block_indexes": [0]},
            "glimpse": {
                "attn_fuse_global": False,
                "ori_attn_supervision": True,
                "selected_visual_layers": [2],
                "attn_fuse_hidden_act": "gelu",
            },
        },
        {"one": {"sizes": ((140, 112),)}, "two": {"sizes": TWO}},
    ),
    "scorer without condition": (
        {
            "glimpse": {
                "attn_fuse_type": "AttnFuserV2",
                "attn_fuse_num_heads": 4,
                "attn_fuse_hidden_act": "gelu_pytorch_tanh",
                "selected_visual_layers": [1, 3, 0],
                "use_attention_logits": False,
            }
        },
        {"one": {}, "two": {"sizes": TWO}},
    ),
    "scorer with value heads of three": (
        {"glimpse": {"attn_fuse_size": 6, "visual_cond_size": 10, "selected_visual_layers": [0, 2, 3]}},
        {"one": {}},
    ),
    "selection and requests": (
        {"glimpse": {"max_remain_ratio": 0.4, "min_remain_num": 2}},
        {
            "cap": {},
            "joint cap": {"sizes": TWO, "changes": {"max_remain_ratio": 0.3}},
            "cap and corners": {"changes": {"max_remain_ratio": 0.2, "anchor_positions": ["tl", "tr", "bl", "br"]}},
            "minimum above the cap": {"changes": {"max_remain_ratio": 0.1, "min_remain_num": 4}},
            "minimum": {"changes": {"reduce_threshold": 0.97, "min_remain_num": 6}},
            "nothing kept": {
                "changes": {"reduce_threshold": 0.9999, "min_remain_num": 0, "max_remain_ratio": None},
            },
            "mask": {"mask": True, "changes": {"max_remain_ratio": None, "min_remain_num": None}},
            "off": {"enabled": False},
            "off, image last": {"enabled": False, "image_last": True},
            "text": {"sizes": ()},
            "one token": {"sizes": ((28, 28),), "changes": {"min_remain_num": 1}},
            "three images": {"sizes": (*TWO, (28, 140))},
            "wide": {"sizes": ((560, 28),)},
        },
    ),
}
