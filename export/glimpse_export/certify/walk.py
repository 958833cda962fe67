"""The way of one certification: both sides through all stages, with one layer's weights in memory at a time."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from glimpse_export.certify.checks.compact import check_compact
from glimpse_export.certify.checks.decode import Answers, check_answers
from glimpse_export.certify.checks.decoder import DecoderCheck, State, matrices_precision
from glimpse_export.certify.checks.entering import entering
from glimpse_export.certify.checks.head import HeadCheck
from glimpse_export.certify.checks.inventory import check_inventory
from glimpse_export.certify.checks.score import ScoreCheck
from glimpse_export.certify.checks.update import UpdateCheck
from glimpse_export.certify.checks.vision import Seen, VisionCheck
from glimpse_export.certify.measures import measure
from glimpse_export.certify.measures.bounds import Bounds, bounds_for
from glimpse_export.certify.measures.record import Recorder
from glimpse_export.certify.reference import glimpse
from glimpse_export.certify.reference.base import Cache, Layer, Reference
from glimpse_export.certify.trials.inputs import Inputs, prepare
from glimpse_export.certify.trials.packed import Packed
from glimpse_export.certify.written.stored import as_tensor
from glimpse_export.certify.written.weights import MEASURE, WeightCheck
from glimpse_export.planning.plan import Plan
from glimpse_runtime.arrays import BoolArray
from glimpse_runtime.bundle.checks import UPDATE_STAGE
from glimpse_runtime.bundle.embedding import EmbeddingTable, open_table
from glimpse_runtime.bundle.manifest import Manifest

_VECTOR_TOLERANCE = 1e-5
_STEPS = {"quick": 1, "full": 8}


@torch.no_grad()
def walk(
    checked: Plan,
    folder: Path,
    manifest: Manifest,
    level: str,
    recorder: Recorder,
    progress: Callable[[str], None],
) -> None:
    """Checks all stages in every dialect.

    Raises:
        Stop: nothing further can be measured; what was found is recorded.
    """
    progress("certificate: preprocessing")
    base = checked.family.reference(checked.configs)
    inputs = prepare(checked, folder, manifest, base, level, recorder, _STEPS[level])
    for dialect in manifest.dialects:
        name = f"certificate of {dialect}" if len(manifest.dialects) > 1 else "certificate"
        one = Walk(checked, folder, manifest, dialect, base, recorder.of(dialect), partial(_announce, progress, name))
        one.run(inputs, Answers.of(inputs, _STEPS[level]))


def _announce(progress: Callable[[str], None], name: str, step: str) -> None:
    progress(f"{name}: {step}")


class Walk:
    """Everything the certification of one dialect needs."""

    def __init__(
        self,
        checked: Plan,
        folder: Path,
        manifest: Manifest,
        dialect: str,
        base: Reference,
        recorder: Recorder,
        progress: Callable[[str], None],
    ) -> None:
        """Opens graphs and reference."""
        self._checked, self._folder, self._manifest = checked, folder, manifest
        self._dialect, self._stages = dialect, manifest.stages_of(dialect)
        self._base, self._recorder, self._progress = base, recorder, progress
        self._architecture = checked.architecture
        self._weights = WeightCheck(checked.checkpoint.read, recorder)
        self._tensors = {name: as_tensor(tensor) for name, tensor in checked.adapter.tensors.items()}
        precision = manifest.precision
        upstream = [precision["vision"], matrices_precision(manifest, "lower"), precision["kv_cache"]]
        self._middle_bounds = self._bounds(*upstream)
        self._end_bounds = self._bounds(*upstream, precision["upper"], precision["head"])

    def run(self, inputs: Inputs, answers: Answers) -> None:
        """Checks all stages.

        Args:
            inputs: images and prompts.
            answers: the answers to them, not begun.

        Raises:
            Stop: nothing further can be measured; what was found is recorded.
        """
        manifest, count = self._manifest, self._architecture.lower_layers
        lower, upper = (self._decoder(*part) for part in (("lower", range(count)), ("upper", self._upper_layers())))
        vision = VisionCheck(
            self._folder,
            manifest,
            self._stages,
            self._base,
            self._weights,
            inputs,
            self._recorder,
            self._bounds(manifest.precision["vision"]),
        )
        stored = {"vision": vision.stored, "lower": lower.stored, "upper": upper.stored}
        check_inventory(self._checked, self._base, stored, self._recorder)
        vectors = self._vectors(lower)
        score = ScoreCheck(
            self._folder,
            manifest,
            self._stages,
            self._architecture,
            self._tensors,
            self._recorder,
            self._bounds(manifest.precision["score"]),
            self._middle_bounds,
        )
        score.weights()
        self._progress("vision")
        seen = vision.run()
        if UPDATE_STAGE in self._stages:
            UpdateCheck(
                self._folder,
                manifest,
                self._stages,
                self._base,
                self._weights,
                inputs,
                self._recorder,
                self._bounds(manifest.precision["vision"]),
            ).run()
        head = HeadCheck(
            self._folder,
            manifest,
            self._architecture,
            self._checked.checkpoint,
            self._base,
            upper,
            self._weights,
            self._recorder,
            self._bounds(manifest.precision["head"]),
        )
        head.table()
        self._progress("lower layers")
        reference = self._lower(lower, head, inputs, seen, vectors, answers)
        self._progress("scorer")
        maps = lower.stacked_maps(0), lower.stacked_maps(1)
        worst = max(measure.relative_l2(*pair) for pair in zip(*maps, strict=True))
        self._recorder.at_most("lower", None, "attention_relative_l2", worst, self._middle_bounds.attention)
        kept = score.run(inputs, seen, maps)
        self._progress("upper layers")
        self._upper(upper, lower, head, kept, reference, answers)
        if answers.steps > 1:
            self._progress("decode")
        check_compact(self._folder, self._stages, self._recorder)
        check_answers(
            answers,
            self._base,
            (lower, upper),
            head,
            self._weights,
            self._embedding(),
            self._recorder,
            self._end_bounds,
        )

    def _bounds(self, *precisions: str) -> Bounds:
        return bounds_for(self._dialect, *precisions)

    def _decoder(self, stage: str, layers: range) -> DecoderCheck:
        parts = (matrices_precision(self._manifest, stage), self._manifest.precision["kv_cache"])
        return DecoderCheck(
            stage,
            layers,
            self._folder,
            self._manifest,
            self._stages,
            self._architecture,
            self._weights,
            self._recorder,
            self._bounds(*parts),
        )

    def _upper_layers(self) -> range:
        return range(self._architecture.lower_layers, self._architecture.text.layers)

    def _embedding(self) -> EmbeddingTable:
        return open_table(self._folder / self._manifest.embedding.file, self._manifest.embedding)

    def _vectors(self, lower: DecoderCheck) -> torch.Tensor | None:
        """The glimpse vectors; the graph's are compared with them."""
        spec = self._architecture.glimpse
        if not spec.length:
            return None
        vectors = glimpse.vectors(self._tensors, self._architecture)
        for index, layer in enumerate(spec.layers):
            if layer >= self._architecture.lower_layers:
                continue
            name = f"glimpse.{layer}"
            wrong = vectors[index].numel()
            if name in lower.stored.names:
                found = lower.stored.compare(name, vectors[index])[0]
                close = torch.isclose(found, vectors[index], rtol=_VECTOR_TOLERANCE, atol=_VECTOR_TOLERANCE)
                wrong = int((~close).sum())
            self._recorder.at_most("lower", layer, f"{MEASURE} {name}", wrong, 0)
        return vectors

    def _lower(
        self,
        lower: DecoderCheck,
        head: HeadCheck,
        inputs: Inputs,
        seen: tuple[Seen, Seen],
        vectors: torch.Tensor | None,
        answers: Answers,
    ) -> torch.Tensor:
        """Runs layers 0..K on all prompts; returns the reference's rows."""
        enter = entering(inputs, seen, self._embedding(), head, self._architecture)
        packed = enter.packed
        lower.start(packed, enter.ours, vectors, enter.gate)
        lower.watch(enter.visual)
        answers.begin(packed, enter.visual, np.asarray(enter.gate.any(1)))
        out = self._read(lower, torch.from_numpy(enter.reference), packed, answers.cache, answers.states)
        where = answers.is_prompt
        prompts = packed.keep(where)
        mine, theirs = prompts.split(np.concatenate(lower.ours)[where]), prompts.split(out.numpy()[where])
        worst = max(measure.relative_l2(*pair) for pair in zip(mine, theirs, strict=True))
        self._recorder.at_most("lower", None, "hidden_relative_l2", worst, self._middle_bounds.hidden)
        return out

    def _upper(
        self,
        upper: DecoderCheck,
        lower: DecoderCheck,
        head: HeadCheck,
        kept: list[BoolArray],
        reference: torch.Tensor,
        answers: Answers,
    ) -> None:
        """Runs the layers after K on the rows that the reference keeps, and the head."""
        packed = answers.prune(kept)
        stay = answers.stay
        mine = [values[stay[answers.packed.of(prompt)]] for prompt, values in enumerate(lower.ours)]
        upper.start(packed, mine, None, None)
        out = self._read(upper, reference[torch.from_numpy(stay)], packed, answers.cache, answers.states)
        last = torch.stack([out[packed.of(prompt)][-1] for prompt in range(packed.prompts)])
        answers.first(*head.check(upper.ours, last))

    def _read(
        self, part: DecoderCheck, entering: torch.Tensor, packed: Packed, cache: Cache | None, states: list[State]
    ) -> torch.Tensor:
        """Runs the reference through a part's layers, each of which checks the bundle's on the way."""
        if not part.layers:
            return entering

        def visit(index: int, layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
            transient: list[State] = [{} for _ in states]
            return part.visit(index, layer, hidden, cache, states if cache is not None else transient)

        return self._base.read(entering, torch.from_numpy(packed.positions), packed.mask(), part.layers, visit)
