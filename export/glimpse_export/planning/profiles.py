"""The ranges of all named dimensions, from the model's facts and the user's limits."""

from typing import Any

from glimpse_export.errors import UnsupportedError
from glimpse_export.model.architecture import Architecture
from glimpse_export.model.family import Family
from glimpse_export.planning.options import ExportOptions
from glimpse_runtime.bundle.manifest import Profile

_DEFAULT_CONTEXT = 4096
_TEXT_ROWS = 512
_USUAL_VISUAL_TOKENS = 256


def make_profiles(
    options: ExportOptions, family: Family, architecture: Architecture, images: Any
) -> dict[str, Profile]:
    """Returns smallest, usual and largest length of every named dimension.

    Raises:
        UnsupportedError: the limits are too small for the model, or larger than it allows.
    """
    text = architecture.text
    context = options.max_context or min(text.max_positions, _DEFAULT_CONTEXT)
    if context > text.max_positions:
        raise UnsupportedError(f"--max-context {context} is more than the model's {text.max_positions} positions")
    smallest, largest = family.visual_tokens(images)
    if context <= smallest:
        raise UnsupportedError(
            f"--max-context {context} leaves no room for text beside the smallest image ({smallest} visual tokens)"
        )
    fitting = max(min(largest, max(context - _TEXT_ROWS, context // 2)), smallest)
    # A larger limit than the largest image has would only make engines larger.
    visual = min(options.max_visual_tokens or fitting, largest)
    if visual >= context:
        raise UnsupportedError(f"--max-visual-tokens {visual} leaves no room for text in --max-context {context}")
    if visual < smallest:
        raise UnsupportedError(
            f"--max-visual-tokens {visual} is less than the model's smallest image, {smallest} visual tokens"
        )
    usual, unit = max(min(_USUAL_VISUAL_TOKENS, visual), smallest), architecture.merge_unit
    return {
        "patches": Profile(unit, usual * unit, visual * unit),
        "visual_tokens": Profile(1, usual, visual),
        "rows": Profile(1, min(usual + 64, context), context),
        "kept": Profile(1, min(usual // 8 + 64, context), context),
        "context": Profile(1, context, context),
        **family.profiles(architecture, usual, visual),
    }
