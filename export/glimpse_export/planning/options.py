"""What a user may ask of an export."""

from dataclasses import dataclass, field

from glimpse_export.planning.boards import Budget
from glimpse_export.planning.targets import DEFAULT_TARGET
from glimpse_export.weights.precision import Precision
from glimpse_runtime.bundle.certificate import LEVELS
from glimpse_runtime.bundle.dialects import DIALECTS, ORT

CERTIFY_LEVELS = (*LEVELS, "off")


@dataclass(frozen=True)
class ExportOptions:
    """One export.

    Attributes:
        model: a name of the registry, a hub id (``owner/name`` or ``owner/name@revision``), or a folder.
        adapter: hub id or folder of the GlimpsePrune adapter; None is the registry's, or the model's own folder.
        lora: hub id or folder of a LoRA adapter that is merged into the base; None is the registry's, or none.
        vision_tower: hub id or folder of the vision tower of a model whose base does not hold it; None is the one that
            the base's configuration names.
        revision: branch, tag or commit of the model's hub repository; None is the registry's, or the main branch.
        target: where the bundle is going to run, in ``targets.TARGETS``; memory is estimated for it.
        dialects: which families of inference engines there are graphs for; in the order of ``DIALECTS`` and each
            once, whatever was given.
        precision: what every stage's matrices are written in.
        head_parts: how many products the LM head is made of; more than one where a board has too little memory for
            what one product needs in between.
        vision_attention: True makes the vision encoder also give how much attention each visual token receives, for
            pruning methods that choose by it.
        max_context: rows of the KV cache; None is 4,096 or the model's limit.
        max_visual_tokens: largest image in visual tokens; None follows from pixels and context.
        budget: refuse what would need more memory than this at run time; None refuses nothing.
        tokenizer: False makes a bundle that takes token ids only.
        trace: True adds intermediate states to the graphs' outputs, for conformance tests.
        certify: how thoroughly the bundle is checked against the original: ``full``, ``quick`` or ``off``.
        force: True begins from nothing, and replaces a bundle that is already there.
    """

    model: str
    adapter: str | None = None
    lora: str | None = None
    vision_tower: str | None = None
    revision: str | None = None
    target: str = DEFAULT_TARGET
    dialects: tuple[str, ...] = (ORT,)
    precision: Precision = field(default_factory=Precision)
    head_parts: int = 1
    vision_attention: bool = False
    max_context: int | None = None
    max_visual_tokens: int | None = None
    budget: Budget | None = None
    tokenizer: bool = True
    trace: bool = False
    certify: str = "quick"
    force: bool = False

    def __post_init__(self) -> None:
        """Puts the dialects in order; unknown ones come last."""
        known = [name for name in DIALECTS if name in self.dialects]
        unknown = [name for name in self.dialects if name not in DIALECTS]
        object.__setattr__(self, "dialects", (*known, *unknown))
