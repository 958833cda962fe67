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
        self._pieces: list[str] = []
        self._given = 0
        self._source = self._decode(tokens)

    def __iter__(self) -> Iterator[str]:
        """Yields the pieces that were not yielded yet, decoding as it goes."""
        while self._given < len(self._pieces) or self._advance():
            self._given += 1
            yield self._pieces[self._given - 1]

    @property
    def text(self) -> str:
        """The whole answer; decodes what is still missing."""
        while self._advance():
            pass
        return "".join(self._pieces)

    def _advance(self) -> bool:
        """Decodes until there is one more piece; False when the answer is complete."""
        piece = next(self._source, None)
        if piece is not None:
            self._pieces.append(piece)
        return piece is not None

    def _decode(self, tokens: Iterator[int]) -> Iterator[str]:
        stream = self._tokenizer.stream() if self._tokenizer else None
        for token in tokens:
            self.token_ids.append(token)
            if token in self._stop:
                self.finish_reason = "stop"
            elif stream is not None and (piece := stream.push(token)):
                yield piece
        if self.finish_reason is None:
            self.finish_reason = "length"
        if self._tokenizer is not None:
            # What the stream still holds back at the end: bytes that never became a whole character.
            whole = self._tokenizer.decode([token for token in self.token_ids if token not in self._stop])
            if rest := whole[len("".join(self._pieces)) :]:
                yield rest
