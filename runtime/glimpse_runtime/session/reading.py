"""What a caller gives, read: images as pixels with their grids, questions and token ids as prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from glimpse_runtime.arrays import IntArray
from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.errors import PromptError
from glimpse_runtime.inputs.family import Family
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.inputs.images import read_image
from glimpse_runtime.inputs.prompt import Prompt, build_prompt, checked_ids, place
from glimpse_runtime.inputs.tokenizer import Tokenizer
from glimpse_runtime.session.choices import ChoiceTree
from glimpse_runtime.session.request import Images, Request, frames_of, newest_stamp
from glimpse_runtime.session.scene_cache import SceneState


@dataclass(frozen=True)
class Reading:
    """How a session reads what it is given.

    Attributes:
        manifest: the bundle's.
        tokenizer: the model's; None where the bundle has none.
        family: the model's, with the limits of the session.
    """

    manifest: Manifest
    tokenizer: Tokenizer | None
    family: Family

    def as_asked(self, request: Request) -> "Reading":
        """Returns the same with a request's limit of visual tokens.

        Raises:
            InputError: the model cannot see so few.
        """
        return self if request.max_visual_tokens is None else replace(self, family=request.seen_by(self.family))

    def scene(self, images: Images, encoding: str | None) -> tuple[SceneState, list[Image.Image]]:
        """Reads images; returns a scene that knows only their sizes, and their pixels.

        Raises:
            InputError: an image cannot be used.
        """
        frames = frames_of(images, encoding)
        pictures = [read_image(frame.image, frame.encoding) for frame in frames]
        grids = tuple(self.family.grid(picture) for picture in pictures)
        return SceneState(grids, tuple(picture.size for picture in pictures), newest_stamp(frames)), pictures

    def prompt(
        self,
        question: str,
        grids: Sequence[Grid],
        system: str | None = None,
        turns: Sequence[tuple[str, str]] = (),
    ) -> Prompt:
        """Builds the prompt of a question.

        Raises:
            PromptError: the question cannot be used, or the bundle has no tokenizer.
        """
        manifest = self.manifest
        if self.tokenizer is None or manifest.prompt is None:
            raise PromptError("this bundle has no tokenizer; use ask_ids with token ids")
        context = manifest.profiles["context"].max
        return build_prompt(
            self.tokenizer, manifest.prompt, manifest.tokens, self.family, question, grids, system, turns, context
        )

    def prompt_of(self, ids: Sequence[int] | IntArray, grids: Sequence[Grid]) -> Prompt:
        """Returns the prompt that is given as (tokens,) ids.

        Raises:
            PromptError: they are no ids, or do not match the images.
        """
        image_token = self.manifest.tokens.image
        checked = checked_ids(ids, self.manifest.text.vocab_size, image_token)
        return place(checked, grids, image_token, self.family)

    def choices(self, request: Request) -> ChoiceTree | None:
        """Returns a request's choices in tokens; None where it has none.

        Raises:
            InputError: the tokenizer cannot tell them apart.
        """
        template = self.manifest.prompt
        if request.choices is None or self.tokenizer is None or template is None:
            return None
        return ChoiceTree(request.choices, self.tokenizer, self.manifest.tokens.eos, template.answer_open)
