"""The original's token ids of a prompt, for the certificate; shares nothing with what the bundle is made by.

As the original does it: the prompt is cut at ``<image>``, each part is encoded on its own by sentencepiece itself, and
the first word stands once. Where there is only a ``tokenizer.json``, the ``tokenizers`` package encodes, with LLaMA's
first form of preparing text: a space before each text, which all later forms were to equal.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from glimpse_export.certify.reference.libraries import lacking

_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    "USER: {}{} ASSISTANT:"
)
_IMAGE = "<image>"
_BEGIN = "<s>"


def prompt_ids(base: Path, question: str, visual_tokens: Sequence[int], image_token: int) -> list[int]:
    """Returns the ids of a prompt that starts with some images.

    Args:
        base: folder of the checkpoint.
        question: the user's text; special words spelled in it stay text.
        visual_tokens: how many visual tokens each image has.
        image_token: the id that stands for each of them.

    Raises:
        CertificateError: sentencepiece is needed and not installed.
    """
    begin, encode = _encoder(base)
    images = f"{_IMAGE}\n" * len(visual_tokens)
    before, after = _PROMPT.split("{}{}")
    *parts, last = (before + images).split(_IMAGE)
    parts.append(last + question + after)
    ids = [begin]
    for index, part in enumerate(parts):
        if index:
            ids += [image_token] * visual_tokens[index - 1]
        ids += encode(part)
    return ids


def _encoder(base: Path) -> tuple[int, Callable[[str], list[int]]]:
    """Returns the id that starts a prompt, and what encodes a text."""
    path = base / "tokenizer.model"
    if path.is_file():
        return _sentencepiece(path)
    from tokenizers import Tokenizer, normalizers

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    begin = tokenizer.get_vocab()[_BEGIN]
    return begin, lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def _sentencepiece(path: Path) -> tuple[int, Callable[[str], list[int]]]:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise lacking("sentencepiece") from None
    processor = SentencePieceProcessor(model_file=str(path))
    return processor.piece_to_id(_BEGIN), lambda text: list(processor.encode(text))
