"""Time per stage of one request."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SCOUT_STAGES = ("scout_vision", "scout_lower", "scout_score", "zoom_select")
"""Those of a request that zooms."""
STAGES = ("preprocess", *SCOUT_STAGES, "vision", "preselect", "lower", "score", "select", "compact", "upper", "decode")


@dataclass
class Stats:
    """What one request cost.

    Attributes:
        stage_ms: wall time per stage in milliseconds; ``decode`` is the sum over all steps.
        ttft_ms: from the call to the first token, in milliseconds.
        prompt_tokens: tokens of the prompt, visual tokens included.
        visual_tokens: visual tokens of the prompt.
        kept_tokens: visual tokens that were kept.
        new_tokens: tokens generated.
        decode_steps: tokens fed back for it, one at a time; choices need other steps than they have tokens.
    """

    stage_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    ttft_ms: float = 0.0
    prompt_tokens: int = 0
    visual_tokens: int = 0
    kept_tokens: int = 0
    new_tokens: int = 0
    decode_steps: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of a block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_ms[name] += (time.perf_counter() - start) * 1e3

    @property
    def decode_tokens_per_s(self) -> float:
        """Decode speed after the first token; 0.0 when there was no decode step."""
        spent_ms = self.stage_ms["decode"]
        return self.decode_steps / spent_ms * 1e3 if spent_ms else 0.0

    @property
    def peak_bytes(self) -> int | None:
        """Largest resident memory of this process until now; None where the system does not tell."""
        try:
            import resource
        except ImportError:  # Windows
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
