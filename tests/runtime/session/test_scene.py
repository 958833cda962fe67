"""Scenes, chats and the scene cache: what a question finds there equals what it would have computed."""

import gc
import weakref

import numpy as np
import pytest

from glimpse_runtime import InputError, Pruning, Scene, Session, SessionError, load
from glimpse_runtime.session.scene_cache import SceneCache, SceneState

QUESTIONS = [
    "What colour is the circle?",
    "How many stars are there?",
    "What word is on the sign?",
    "Is there a heart?",
]


def frames(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [np.repeat(np.repeat(rng.integers(0, 256, (12, 15, 3), np.uint8), 14, 0), 14, 1) for _ in range(count)]


class Recorder:
    """Keeps the logits of every step and the scorer's logits."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []

    def __call__(self, name: str, value: np.ndarray) -> None:
        if name in ("logits_step", "mask_logits"):
            self.arrays.append(np.array(value))

    def take(self) -> list[np.ndarray]:
        taken, self.arrays = self.arrays, []
        return taken


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("pruning", [Pruning(), Pruning(enabled=False), Pruning(max_keep_ratio=0.1)])
def test_a_scene_answers_as_a_fresh_question_does(count: int, pruning: Pruning) -> None:
    images = frames(count)
    fresh_trace, scene_trace = Recorder(), Recorder()
    with load(scene_cache_bytes=0, trace=fresh_trace) as fresh, load(trace=scene_trace) as vlm:
        scene = vlm.encode(images)
        for question in [*QUESTIONS, *QUESTIONS[::-1]]:
            expected = fresh.ask(images, question, pruning=pruning, max_new_tokens=6)
            found = scene.ask(question, pruning=pruning, max_new_tokens=6)
            assert found.text == expected.text
            assert found.token_ids == expected.token_ids
            assert found.pruning.kept == expected.pruning.kept
            for mask, other in zip(found.pruning.keep_masks, expected.pruning.keep_masks, strict=True):
                assert np.array_equal(mask, other)
            for mine, theirs in zip(scene_trace.take(), fresh_trace.take(), strict=True):
                assert np.allclose(mine, theirs, atol=2e-4)
            assert found.stats.stage_ms["vision"] == 0
            assert expected.stats.stage_ms["vision"] > 0


def test_the_same_image_is_encoded_once_without_asking_for_it() -> None:
    image, other = frames(2)
    with load() as vlm:
        first = vlm.ask(image, QUESTIONS[0])
        again = vlm.ask(image.copy(), QUESTIONS[1])
        assert first.stats.stage_ms["vision"] > 0
        assert again.stats.stage_ms["vision"] == 0
        assert vlm.ask(other, QUESTIONS[0]).stats.stage_ms["vision"] > 0
        assert vlm.ask(image, QUESTIONS[0], system="Be brief.").stats.stage_ms["vision"] == 0
        with load(scene_cache_bytes=0) as plain:
            expected = plain.ask(image, QUESTIONS[0], system="Be brief.").text
        assert vlm.ask(image, QUESTIONS[0], system="Be brief.").text == expected
        assert 0 < vlm.memory_plan()["scene_bytes"] <= vlm.memory_plan()["scene_limit_bytes"]


def test_the_cache_stays_within_its_bytes() -> None:
    images = frames(4)
    with load() as vlm:
        vlm.ask(images[0], QUESTIONS[0])
        size = vlm.memory_plan()["scene_bytes"]
    with load(scene_cache_bytes=int(2.5 * size)) as vlm:
        for image in images:
            vlm.ask(image, QUESTIONS[0])
            assert vlm.memory_plan()["scene_bytes"] <= 2.5 * size
        assert vlm.memory_plan()["scene_bytes"] == 2 * size
        assert vlm.ask(images[3], QUESTIONS[1]).stats.stage_ms["vision"] == 0
        assert vlm.ask(images[0], QUESTIONS[1]).stats.stage_ms["vision"] > 0


def test_the_oldest_state_goes_first() -> None:
    class Fixed(SceneState):
        nbytes = 10  # type: ignore[assignment]

        def __init__(self) -> None:
            super().__init__((), ())

    cache = SceneCache(25)
    for key in (b"a", b"b"):
        cache.put(key, Fixed())
    assert cache.get(b"a") is not None
    cache.put(b"c", Fixed())
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None
    assert cache.nbytes == 20


def test_a_scene_reports_and_frees_its_memory(pocket: Session) -> None:
    scene = pocket.encode(frames(1))
    tokens = scene.ask(QUESTIONS[0]).pruning.total
    text = pocket.bundle.manifest.text
    keys_and_values = 2 * text.lower_layers * text.kv_heads * text.head_dim * tokens * 4
    assert scene.nbytes > keys_and_values
    array = weakref.ref(scene._state.prefix.hidden)  # type: ignore[union-attr]
    scene.close()
    gc.collect()
    assert array() is None
    assert scene.nbytes == 0
    with pytest.raises(SessionError, match="scene is closed"):
        scene.ask(QUESTIONS[0])


def test_a_chat_is_the_same_as_its_turns(pocket: Session) -> None:
    images = frames(1)
    with pocket.encode(images) as scene:
        chat = scene.chat(system="Be brief.")
        kept = [chat.ask(question).pruning.keep_masks[0] for question in QUESTIONS[:3]]
        turns = chat.turns
        assert [question for question, _ in turns] == QUESTIONS[:3]
        direct = scene.ask(QUESTIONS[2], system="Be brief.", turns=turns[:2])
        assert direct.text == turns[2][1]
        assert np.array_equal(direct.pruning.keep_masks[0], kept[2])
        assert direct.stats.prompt_tokens > scene.ask(QUESTIONS[2], system="Be brief.").stats.prompt_tokens


def test_history_stays_text(pocket: Session) -> None:
    with pocket.encode(frames(1)) as scene:
        plain = scene.ask("b", turns=[("a", "x")]).stats.prompt_tokens
        spelled = scene.ask("b", turns=[("a", "<|im_end|>")]).stats.prompt_tokens
    assert spelled > plain + 3


def test_scenes_need_images(pocket: Session) -> None:
    with pytest.raises(InputError, match="at least one image"):
        pocket.encode([])
    assert isinstance(pocket.encode(frames(1)), Scene)
