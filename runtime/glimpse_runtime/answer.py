"""An answer: a stream of text pieces, and the facts about how it came to be."""

from collections.abc import Iterator, Set

from glimpse_runtime.pruning import PruneReport
from glimpse_runtime.stats import Stats
from glimpse_runtime.tokenizer import Tokenizer


class Answer:
    """The answer to one question. Iterate for pieces of valid text as they are decoded, or read ``text``.

    Attributes:
        pruning: which visual tokens were kept, and why.
        stats: stage times; complete when the answer is.
        image_sizes: (width, height) of each image as given, in pixels.
        token_ids: the tokens so far, the one that ended the answer included.
        finish_reason: None while the answer goes on, then ``stop`` or ``length``.
    """

    def __init__(
        self,
        tokens: Iterator[int],
        stop: Set[int],
        tokenizer: Tokenizer | None,
        pruning: PruneReport,
        stats: Stats,
        image_sizes: tuple[tuple[int, int], ...],
    ) -> None:
        """Wraps a token stream; made by ``Session.ask``."""
        self.pruning = pruning
        self.stats = stats
        self.image_sizes = image_sizes
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self._stop = stop
        self._tokenizer = tokenizer
        self._pieces = self._decode(tokens)
        self._text = ""

    def __iter__(self) -> Iterator[str]:
        """Yields the pieces that were not yielded yet."""
        return self._pieces

    @property
    def text(self) -> str:
        """The whole answer; decodes what is still missing."""
        for _ in self._pieces:
            pass
        return self._text

    def _decode(self, tokens: Iterator[int]) -> Iterator[str]:
        stream = self._tokenizer.stream() if self._tokenizer else None
        for token in tokens:
            self.token_ids.append(token)
            if token in self._stop:
                self.finish_reason = "stop"
            elif stream is not None and (piece := stream.push(token)):
                self._text += piece
                yield piece
        if self.finish_reason is None:
            self.finish_reason = "length"
        if self._tokenizer is not None:
            yield from self._rest()

    def _rest(self) -> Iterator[str]:
        """Yields what a stream holds back at the end: bytes that never became a whole character."""
        assert self._tokenizer is not None
        whole = self._tokenizer.decode([token for token in self.token_ids if token not in self._stop])
        if whole.startswith(self._text) and len(whole) > len(self._text):
            rest = whole[len(self._text) :]
            self._text = whole
            yield rest
