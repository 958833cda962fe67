"""What is known of some images before any question: encode once, ask many."""

from collections.abc import Callable, Sequence

from glimpse_runtime.closing import Closing
from glimpse_runtime.errors import SessionError
from glimpse_runtime.fork import OfOneProcess
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.session.answer import Answer
from glimpse_runtime.session.request import DEFAULT_MAX_NEW_TOKENS, Request, make_request
from glimpse_runtime.session.sampling import Sampling
from glimpse_runtime.session.scene_cache import SceneState

Ask = Callable[[SceneState, str, Request, str | None, Sequence[tuple[str, str]]], Answer]
"""How a session answers: state, question, options, system message, earlier turns."""


class Scene(Closing, OfOneProcess):
    """Encoded images: every question pays only its own text, the scorer and the kept rows.

    Made by ``Session.encode``. It holds memory until it is closed.
    """

    def __init__(self, ask: Ask, state: SceneState, pruning: Pruning | None = None) -> None:
        """Wraps a state and the pruning options of its questions; use ``Session.encode``."""
        self._ask = ask
        self._pruning = pruning
        self._state: SceneState | None = state

    @property
    def nbytes(self) -> int:
        """Bytes the scene holds; 0 when closed."""
        return self._state.nbytes if self._state else 0

    @property
    def stamp(self) -> float | None:
        """Acquisition time of the newest of its frames; None where none had one."""
        return self._open().stamp

    def ask(
        self,
        question: str,
        *,
        pruning: Pruning | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        timeout: float | None = None,
        system: str | None = None,
        turns: Sequence[tuple[str, str]] = (),
        choices: Sequence[str] | type[bool] | None = None,
    ) -> Answer:
        """Asks about the scene's images; errors and answer are those of ``Session.ask``.

        Args:
            question: the user's text.
            pruning: pruning options; None is what ``Session.encode`` was given, else the bundle's defaults. Other
                tokens before layer 0 than the last question had run the images through the lower layers again.
            sampling: how tokens are chosen; None is greedy.
            max_new_tokens: longest answer.
            timeout: seconds until the answer ends with what it has.
            system: system message; a change of it runs the images through the lower layers again.
            turns: earlier (question, answer) texts of a conversation.
            choices: texts of which the answer is one, or ``bool``; see ``Session.ask``.
        """
        state = self._open()
        given = self._pruning if pruning is None else pruning
        of_stream = state.stream is not None
        request = make_request(given, sampling, max_new_tokens, timeout, choices=choices, of_stream=of_stream)
        return self._ask(state, question, request, system, turns)

    def chat(self, system: str | None = None) -> "Chat":
        """Starts a conversation about the scene."""
        return Chat(self, system)

    def close(self) -> None:
        """Frees the memory; the scene cannot be asked afterwards."""
        self._state = None

    def _open(self) -> SceneState:
        if self._state is None:
            raise SessionError("this scene is closed; encode the images again")
        return self._state


class Chat:
    """A conversation about one scene: its history is text, and every turn glimpses anew with its own kept set."""

    def __init__(self, scene: Scene, system: str | None) -> None:
        """Starts without turns; use ``Scene.chat``."""
        self._scene = scene
        self._system = system
        self._turns: list[tuple[str, Answer]] = []

    @property
    def turns(self) -> list[tuple[str, str]]:
        """The (question, answer) texts so far; completes the last answer."""
        return [(question, answer.text) for question, answer in self._turns]

    def ask(
        self,
        question: str,
        *,
        pruning: Pruning | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        timeout: float | None = None,
        choices: Sequence[str] | type[bool] | None = None,
    ) -> Answer:
        """Asks the next question; see ``Scene.ask``."""
        answer = self._scene.ask(
            question,
            pruning=pruning,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            timeout=timeout,
            system=self._system,
            turns=self.turns,
            choices=choices,
        )
        self._turns.append((question, answer))
        return answer
