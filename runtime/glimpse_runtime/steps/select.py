"""Chooses visual tokens: who enters layer 0, and who stays behind the split."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from glimpse_runtime.arrays import Array, BoolArray, FloatArray, IntArray
from glimpse_runtime.backends import Backend, Tensor
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.embedding import EmbeddingTable
from glimpse_runtime.errors import GlimpseError, PruningError
from glimpse_runtime.inputs.prompt import Prompt
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.pruners import BEFORE, Pruner, PrunerInput
from glimpse_runtime.pruning import rule as rules
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.pruning.report import PruneReport, report_pruned
from glimpse_runtime.pruning.rule import Rule
from glimpse_runtime.pruning.weights import require_weights
from glimpse_runtime.stats import Stats
from glimpse_runtime.steps.attention_options import pick_apart, weigh
from glimpse_runtime.steps.entering import Entry
from glimpse_runtime.steps.evidence import Evidence
from glimpse_runtime.steps.finite import require_finite
from glimpse_runtime.steps.score import Scorer
from glimpse_runtime.steps.vision import RECEIVED, VisualTokens

Check = Callable[..., None]


class Selector:
    """Runs the pruning methods for the requests of one bundle."""

    def __init__(
        self, bundle: Bundle, backend: Backend, scorer: Scorer, embedding: EmbeddingTable, check_finite: Check
    ) -> None:
        """Takes what methods may see; ``check_finite`` gets a stage's name and its outputs on the backend."""
        self._bundle = bundle
        self._manifest = bundle.manifest
        self._scorer = scorer
        self._evidence = Evidence(bundle, backend, embedding)
        self._check_finite = check_finite
        self._updates = False

    def without_received(self) -> None:
        """From now on refuses methods that need attention of the vision encoder: a graph that updates gives none."""
        self._updates = True

    def check(self, prompt: Prompt, pruning: Pruning) -> int:
        """Refuses a request that cannot be met, before any compute.

        Returns:
            How many visual tokens enter layer 0 at most.

        Raises:
            PruningError: the rule cannot be met, a mask does not fit, or the bundle lacks what a method needs.
        """
        total = sum(grid.visual_tokens for grid in prompt.grids)
        if not (pruning.enabled and prompt.grids):
            return total
        rule = self._rule(pruning)
        rules.check(rule, prompt.grids)
        if pruning.keep_masks is not None:
            rules.flat_masks(pruning.keep_masks, prompt.grids)
        if not pruning.pruner.adaptive:
            rules.fixed_count(pruning, rule, total)
        for pruner in (pruning.pruner, pruning.first):
            if pruner is not None:
                self._require(pruner)
        return min(total, rules.entering(pruning, rule, total) + len(rule.anchors))

    def enter(
        self, prompt: Prompt, images: Sequence[VisualTokens], pruning: Pruning, stats: Stats, interrupt: Interrupt
    ) -> Entry:
        """Runs the method that acts before layer 0, if there is one, on what was encoded."""
        encoded = encoded_of(images)
        whole, pruner = Entry.of(prompt, self._manifest.tokens.image, encoded), pruning.first
        if pruner is None or not prompt.grids:
            return whole
        with stats.stage("preselect"):
            rule = self._rule(pruning)
            count = min(rules.entering(pruning, rule, len(whole.entered)), len(whole.visual_rows))
            answers = self._ask(pruner, whole, images, pruning, count, {}, interrupt)
            scores = None if answers.dtype == np.bool_ else answers
            entered = _spread(answers if scores is None else rules.select_best(scores, count), whole.entered, False)
            if not min(count, 1) <= int(entered.sum()) <= count:  # room was made for so many rows and no more
                raise PruningError(
                    f"pruning method {pruner.name!r} kept {int(entered.sum())} tokens before layer 0, it may keep 1 to "
                    f"{count}"
                )
            entered = rules.add_anchors(entered, rule, prompt.grids) & whole.entered
            shown = None if scores is None else _spread(scores, whole.entered, 0)
            return Entry.of(prompt, self._manifest.tokens.image, entered, shown)

    def glimpse_rows(self, prompt: Prompt, pruning: Pruning) -> int:
        """Returns how many glimpse rows the lower layers run behind the prompt."""
        wanted = pruning.enabled and prompt.grids and pruning.pruner.takes_glimpse
        return self._manifest.glimpse.length if wanted else 0

    def decide(
        self,
        entry: Entry,
        images: Sequence[VisualTokens],
        hidden: Tensor,
        attention: Tensor,
        pruning: Pruning,
        stats: Stats,
        interrupt: Interrupt,
    ) -> tuple[BoolArray, PruneReport]:
        """Chooses who stays behind the split.

        Args:
            entry: the prompt as it entered layer 0.
            images: its encoded images.
            hidden: (1, rows, hidden) behind the lower layers.
            attention: (maps, columns) the last row's, as the lower graph gives it.
            pruning: the pruning options.
            stats: gets the stage times.
            interrupt: ends the request early.

        Returns:
            (visual tokens,) keep mask of all the prompt's visual tokens, and the report.
        """
        pruner, rule, grids, entered = pruning.pruner, self._rule(pruning), entry.grids, entry.entered
        if pruner.place == BEFORE:
            return entered, report_pruned(pruning, rule, entry.scores, entered, entered, grids)
        with stats.stage("score"):
            known = self._known_at_split(entry, images, hidden, attention, pruning, interrupt)
        with stats.stage("select"):
            count = 0 if pruner.adaptive else rules.fixed_count(pruning, rule, len(entered))
            count = min(count, int(entered.sum()))
            answers = self._ask(pruner, entry, images, pruning, count, known, interrupt)
            scores = None
            if answers.dtype == np.bool_:
                keep = _spread(answers, entered, False)
            elif pruner.adaptive:
                scores = _spread(answers, entered, -np.inf)
                keep = rules.select(scores, rule, grids)
            else:
                answers = weigh(answers, entry, pruning)
                scores = _spread(answers, entered, 0)
                keep = _spread(self._best(answers, entry, images, pruning, count), entered, False)
            keep = rules.add_anchors(keep, rule, grids) & entered
        return keep, report_pruned(pruning, rule, scores, keep, entered, grids)

    def glimpse_logits(
        self, entry: Entry, images: Sequence[VisualTokens], attention: Tensor, interrupt: Interrupt
    ) -> FloatArray:
        """Returns the scorer's (entered,) logits of an entry behind the lower layers."""
        logits = self._scorer(attention, entry.visual_rows, images, entry.cells(), interrupt)
        require_finite("score", self._manifest.precision, logits)
        return logits

    def _require(self, pruner: Pruner) -> None:
        """Refuses a method that needs what the bundle does not have."""
        if "weights" in pruner.needs:
            require_weights(self._bundle, pruner.name)
        if "vision_attention" in pruner.needs and self._updates:
            raise PruningError(
                f"pruning method {pruner.name!r} needs attention of the vision encoder, which a session with a stream "
                "does not compute; choose another method, or load the bundle again without a stream"
            )
        vision = self._manifest.stages_of(self._manifest.dialects[0])["vision"]
        if "vision_attention" in pruner.needs and all(output.name != RECEIVED for output in vision.outputs):
            raise PruningError(
                f"pruning method {pruner.name!r} needs attention of the vision encoder, which this bundle does not "
                "give; export the model with --vision-attention"
            )

    def _known_at_split(
        self,
        entry: Entry,
        images: Sequence[VisualTokens],
        hidden: Tensor,
        attention: Tensor,
        pruning: Pruning,
        interrupt: Interrupt,
    ) -> dict[str, Array]:
        """Returns the arrays of the split that the method needs, of the tokens that entered."""
        known: dict[str, Array] = {}
        needs = pruning.pruner.needs
        if pruning.keep_masks is not None:
            known["keep_mask"] = rules.flat_masks(pruning.keep_masks, entry.grids)[entry.entered]
        if "hidden" in needs:
            known["hidden"] = self._evidence.hidden(hidden, entry)
        if any(need in needs for need in ("attention", "glimpse_attention", "glimpse_logits")):
            self._check_finite("lower", attention)
        for need in ("attention", "glimpse_attention"):
            if need in needs:
                known[need] = self._evidence.attention(attention, entry)
        if "glimpse_logits" in needs:
            known["glimpse_logits"] = self.glimpse_logits(entry, images, attention, interrupt)
        return known

    def _ask(
        self,
        pruner: Pruner,
        entry: Entry,
        images: Sequence[VisualTokens],
        pruning: Pruning,
        count: int,
        known: Mapping[str, Array],
        interrupt: Interrupt,
    ) -> Array:
        """Asks a method about each image; returns its (entered,) scores or mask."""
        keep = _quotas([len(cells) for cells in entry.cells()], count)
        answers = []
        for given in self._evidence.inputs(pruner, entry, images, keep, pruning.seed, known):
            interrupt.check()
            answers.append(_answer(pruner, given))
        if len({answer.dtype for answer in answers}) > 1:
            raise PruningError(f"pruning method {pruner.name!r} gave scores for one image and a mask for another")
        return np.concatenate(answers)

    def _best(
        self, scores: FloatArray, entry: Entry, images: Sequence[VisualTokens], pruning: Pruning, count: int
    ) -> BoolArray:
        """Chooses ``count`` of (entered,) scores."""
        if not pruning.neighbour_suppression:
            return rules.select_best(scores, count)
        embeds = [self._evidence.embeds(image, own) for image, own in zip(images, entry.cells(), strict=True)]
        return pick_apart(scores, entry, np.concatenate(embeds), count)

    def _rule(self, pruning: Pruning) -> Rule:
        return rules.merge(pruning, self._manifest.pruning)


def encoded_of(images: Sequence[VisualTokens]) -> BoolArray | None:
    """Returns the (visual tokens,) mask of what was encoded of all images of a prompt; None is all."""
    if all(image.encoded is None for image in images):
        return None
    return np.concatenate(
        [np.ones(image.grid.visual_tokens, np.bool_) if image.encoded is None else image.encoded for image in images]
    )


def _quotas(sizes: Sequence[int], count: int) -> IntArray:
    """Shares ``count`` among images by their size; what rounding leaves goes to the largest fractions, first first."""
    total = sum(sizes)
    shares = [divmod(count * size, total) for size in sizes] if total else []
    quotas = np.array([whole for whole, _ in shares], np.int64)
    largest = sorted(range(len(shares)), key=lambda image: -shares[image][1])
    quotas[largest[: count - int(quotas.sum())]] += 1
    return quotas


def _answer(pruner: Pruner, given: PrunerInput) -> Array:
    """Returns a method's answer as bool or float32, or says what is wrong with it."""
    count = len(given.cells)
    try:
        array = np.asarray(pruner.choose(given))
    except GlimpseError:
        raise
    except Exception as error:
        raise PruningError(f"pruning method {pruner.name!r} failed: {type(error).__name__}: {error}") from error
    if array.shape != (count,) or array.dtype.kind not in "bf" or (array.dtype.kind == "f" and np.isnan(array).any()):
        raise PruningError(
            f"pruning method {pruner.name!r} must give {count} scores or a bool mask of an image's {count} tokens, "
            f"gave {array.dtype} of shape {array.shape}{' with NaN' if array.dtype.kind == 'f' else ''}"
        )
    return array if array.dtype.kind == "b" else array.astype(np.float32)


def _spread(values: Array, entered: BoolArray, elsewhere: float | bool) -> Array:
    """(visual tokens,) array with (entered,) values in their places."""
    spread = np.full(len(entered), elsewhere, values.dtype)
    spread[entered] = values
    return spread
