"""The committed checkpoint of pocket: complete, in published form, and readable by others."""

import json
from pathlib import Path

import pytest

import glimpse_models.pocket
from glimpse_models.pocket.model.config import PocketConfig
from glimpse_models.pocket.model.tokenizer import build_tokenizer

CHECKPOINT = Path(glimpse_models.pocket.__file__).parent / "checkpoint"
BASE, ADAPTER = CHECKPOINT / "base", CHECKPOINT / "adapter"
CONFIG = PocketConfig()


def test_folders_hold_what_published_models_hold():
    assert {path.name for path in BASE.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    learned = {"pruner.covipal.npz", "pruner.sdtp.npz"}
    assert {path.name for path in ADAPTER.iterdir()} - learned == {"config.json", "new_modules_gp.pt"}


def test_checkpoint_is_small():
    assert sum(path.stat().st_size for path in CHECKPOINT.rglob("*") if path.is_file()) < 10e6


def test_configs_are_those_of_the_code():
    adapter = json.loads((ADAPTER / "config.json").read_text())
    assert json.loads((BASE / "config.json").read_text()) == CONFIG.base_config()
    assert adapter == CONFIG.adapter_config(adapter["reduce_threshold"], adapter["max_remain_ratio"])
    assert 0 < adapter["reduce_threshold"] < 1


def test_tokenizer_is_the_one_the_code_builds():
    assert json.loads((BASE / "tokenizer.json").read_text()) == json.loads(build_tokenizer().to_str())


def test_weights_have_published_names_and_are_finite():
    pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    weights = safetensors.load_file(BASE / "model.safetensors")
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", "visual.merger.ln_q.weight"} <= set(
        weights
    )
    assert all(name.startswith(("model.", "visual.", "lm_head.")) for name in weights)
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_adapter_state_is_plain_tensors():
    torch = pytest.importorskip("torch")
    state = torch.load(ADAPTER / "new_modules_gp.pt", weights_only=True)
    assert set(state) == {"attn_fuser", "learnable_embeddings", "le_proj", "le_norm"}
    assert state["learnable_embeddings"].shape == (len(CONFIG.glimpse_layers), 1, CONFIG.hidden_size)
    assert set(state["le_proj"]) == {"weight", "bias"}
    assert set(state["le_norm"]) == {"weight"}


def test_transformers_loads_the_base_and_answers_like_the_reference():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for package in ("skimage", "sklearn", "matplotlib"):
        pytest.importorskip(package)
    from glimpse_models.pocket.checkpoint import read_checkpoint
    from glimpse_models.pocket.model.config import special_id
    from glimpse_models.pocket.model.tokenizer import IMAGE_PAD
    from glimpse_models.pocket.scenes.questions import ask
    from glimpse_models.pocket.scenes.scenes import make_scene, scene_rng
    from glimpse_models.pocket.training.data import RowEncoder, collate
    from glimpse_models.pocket.training.reference import Reference

    rng = scene_rng("test", 11, 0)
    scene = make_scene(rng, 224, 224, "test")
    questions = ask(rng, scene.objects, 6)
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32)
    processor = transformers.Qwen2VLImageProcessor.from_pretrained(BASE)
    tokenizer = transformers.AutoTokenizer.from_pretrained(BASE)
    pixels = processor(images=[scene.image], return_tensors="pt")
    encoder, right = RowEncoder(), []
    for question in questions:
        tail = encoder.prompt_tail(question.text)
        ids = torch.tensor([[*encoder.prefix, *[special_id(IMAGE_PAD)] * 64, *tail]])
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == special_id(IMAGE_PAD)).int(),
            **pixels,
            max_new_tokens=8,
        )
        text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        right.append(text == question.answer)
    reference = Reference(CONFIG, *read_checkpoint(CHECKPOINT))
    assert right == reference.right(collate(encoder, [(scene, questions)])).tolist()
    assert sum(right) >= 4
