"""Fields that an adapter's ``config.json`` may have beside the options of the method: they change nothing here.

The reference saves its whole configuration: what transformers writes of every model, the decoder once more, which the
base says too, and what training or the way of computing needs. A family adds its own; any other field is refused.
"""

# Of every configuration of transformers, 4.37 to 5.24; how to sample is a caller's choice.
_TRANSFORMERS = {
    *("_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures"),
    *("attn_implementation", "auto_map", "dtype", "model_type", "torch_dtype", "transformers_version"),
    *("chunk_size_feed_forward", "finetuning_task", "id2label", "label2id", "problem_type", "task_specific_params"),
    *("output_attentions", "output_hidden_states", "output_scores", "return_dict", "return_dict_in_generate"),
    *("tf_legacy_loss", "tie_encoder_decoder", "torchscript", "use_bfloat16", "use_cache", "use_return_dict"),
    *("add_cross_attention", "cross_attention_hidden_size", "is_decoder", "is_encoder_decoder", "tokenizer_class"),
    *("prefix", "pruned_heads", "remove_invalid_values", "sep_token_id", "decoder_start_token_id"),
    *("bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping"),
    *("encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id"),
    *("forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups"),
    *("num_beams", "num_return_sequences", "repetition_penalty", "suppress_tokens", "temperature", "top_k", "top_p"),
    "typical_p",
}
# The base's decoder, of which its sizes are compared.
_DECODER = {
    *("attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "head_dim", "hidden_act", "hidden_size"),
    *("initializer_range", "intermediate_size", "layer_types", "max_position_embeddings", "max_window_layers"),
    *("mlp_bias", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "pad_token_id", "pretraining_tp"),
    *("rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "tie_word_embeddings"),
    *("tokenizer_padding_side", "use_sliding_window", "vocab_size"),
}
# Of training, and of how the reference computes rather than what.
_COMPUTING = {"attn_fuse_use_flash_attn", "le_dropout_prob", "unsloth_fixed", "unsloth_version"}

HARMLESS = frozenset(_TRANSFORMERS | _DECODER | _COMPUTING)

SWITCH = "enable_frame_redundancy_merge"
"""Drops tokens of video frames that are alike; this version does not, so it must be off."""

SWITCHED = frozenset(f"frame_redundancy_{name}" for name in ("pooling_mode", "min_keep_ratio", "min_keep_tokens")) | {
    "frame_redundancy_similarity_threshold"
}
"""What only counts where ``SWITCH`` is on."""
