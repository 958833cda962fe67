"""What the sizes of tensors are called in a ``config.json``, so that a wrong one is named with its field."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_DECODER: dict[str, tuple[str, ...]] = {
    r"model\.embed_tokens\.weight": ("vocab_size", "hidden_size"),
    r"lm_head\.weight": ("vocab_size", "hidden_size"),
    r"model\.layers\.\d+\.self_attn\.[kv]_proj\.\w+": ("num_key_value_heads", "hidden_size"),
    r"model\.layers\.\d+\.mlp\.(gate|up)_proj\.\w+": ("intermediate_size", "hidden_size"),
    r"model\.layers\.\d+\.mlp\.down_proj\.weight": ("hidden_size", "intermediate_size"),
    r"model\..+": ("hidden_size", "hidden_size"),
}
_DECODER_COUNTS = {r"model\.layers\.\d+\..+": "num_hidden_layers", r"lm_head\.weight": "tie_word_embeddings"}
_DEFAULTS = "a field that is left out has the default of transformers' class"


@dataclass(frozen=True)
class SizeFields:
    """The fields by tensor.

    Attributes:
        axes: for a regular expression of whole names, the field that each axis follows; the first that matches counts.
        counts: the same for the field that says whether there is such a tensor.
    """

    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    counts: Mapping[str, str] = field(default_factory=dict)

    def of_shape(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str:
        """Returns what to say of a tensor with another shape, nothing where no field is known for it."""
        for pattern, axes in {**self.axes, **_DECODER}.items():
            if re.fullmatch(pattern, name):
                if len(found) != len(expected):
                    return ""
                wrong = [axes[axis] for axis in range(min(len(axes), len(found))) if found[axis] != expected[axis]]
                return _see(*dict.fromkeys(wrong))
        return ""

    def of_count(self, name: str) -> str:
        """Returns what to say of a tensor that is missing or too much."""
        for pattern, key in {**self.counts, **_DECODER_COUNTS}.items():
            if re.fullmatch(pattern, name):
                return _see(key)
        return ""


def _see(*keys: str) -> str:
    return f"; or {' and '.join(keys)} in its config.json is wrong ({_DEFAULTS})" if keys else ""
