"""Bundles of LLaVA-1.5: both layouts, every precision and dialect, pruning methods, scenes; transformers as oracle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llava_models import GOLDEN, TOWER, copy_model, golden_options, prompt_ids
from support.bundles import write_manifest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file

from glimpse_export import ExportOptions, UnsupportedError, export, plan
from glimpse_export.certify.written.cuts import GraphFile, Piece
from glimpse_export.forecast.estimate import estimate
from glimpse_export.graphs.dialects import DIALECTS
from glimpse_export.weights.precision import INTEGER, PRECISIONS, Precision
from glimpse_runtime import InputError, PromptError, Pruning, load
from glimpse_runtime.bundle.bundle import Bundle

# Relative L2 distance of the first logits from the float32 model's. The golden model's weights are random and small.
BOUNDS = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 3e-2, "int8": 6e-2, "int4": 4e-1}
PLAIN = Pruning(enabled=False)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The golden model in every precision, all dialects in one bundle."""
    folder = tmp_path_factory.mktemp("llava")

    def make(name: str) -> Path:
        chosen = Precision.choose(name, gpu=True, kv_cache="fp32")
        asked = golden_options(dialects=tuple(DIALECTS), precision=chosen, vision_attention=True)
        return export(asked, folder / name)

    return {name: make(name) for name in PRECISIONS}


def alone(bundle: Path, dialect: str, place: Path) -> Path:
    """The same bundle with the graphs of one dialect."""
    place.mkdir()
    for path in bundle.iterdir():
        (place / path.name).symlink_to(path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["graphs"] = {dialect: manifest["graphs"][dialect]}
    (place / "manifest.json").unlink()
    for path in place.iterdir():
        target = path.resolve()
        path.unlink()
        path.hardlink_to(target)
    write_manifest(place, manifest)
    return place


def first_logits(bundle: Path, photo: np.ndarray, pruning: Pruning = PLAIN) -> np.ndarray:
    seen: dict[str, np.ndarray] = {}
    with load(bundle, trace=lambda key, value: seen.setdefault(key, value.copy())) as vlm:
        image = vlm.bundle.manifest.tokens.image
        vlm.ask_ids([photo], prompt_ids(image), max_new_tokens=1, pruning=pruning).text  # noqa: B018
    return seen["logits_step"].ravel()


@pytest.mark.parametrize(
    ("spelling", "precision"),
    [(name, precision) for name in DIALECTS for precision in PRECISIONS if name == "ort" or precision != "bf16"],
)
def test_precisions_stay_close_to_float32(
    spelling: str, precision: str, bundles: dict[str, Path], photo: np.ndarray, tmp_path: Path
) -> None:
    exact = first_logits(alone(bundles["fp32"], "ort", tmp_path / "exact"), photo)
    found = first_logits(alone(bundles[precision], spelling, tmp_path / "found"), photo)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert error < BOUNDS[precision]
    assert precision not in INTEGER or error > 0


@pytest.mark.parametrize("spelling", [name for name in DIALECTS if name != "ort"])
def test_a_tower_in_bfloat16(spelling: str, bundles: dict[str, Path]) -> None:
    """There are no products of bfloat16 in onnxruntime, so the graph is run as the certificate runs it."""
    pixels = np.random.default_rng(0).normal(size=(64, 3 * 14 * 14)).astype(np.float32)

    def embeds(precision: str, dialect: str) -> np.ndarray:
        manifest = Bundle.open(bundles[precision]).manifest
        graph = GraphFile(bundles[precision] / manifest.stages_of(dialect)["vision"].file)
        return np.asarray(Piece(graph, ["pixel_values"], ["image_embeds"])({"pixel_values": pixels})[0])

    exact, found = embeds("fp32", "ort"), embeds("bf16", spelling)
    assert 0 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < BOUNDS["bf16"]


def test_both_layouts_give_the_same_weights(tmp_path: Path) -> None:
    """llava-hf's table has more rows: cut to the authors' words, every file of weights is equal."""
    copy_model(tmp_path / "model", "base_llava_hf", "adapter")
    base = tmp_path / "model" / "base_llava_hf"
    tensors = load_file(base / "model.safetensors")
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        tensors[name] = tensors[name][:512].clone()
    save_file(tensors, base / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["vocab_size"] = config["vocab_size"] = 512
    (base / "config.json").write_text(json.dumps(config))
    asked = ExportOptions(str(base), str(GOLDEN / "adapter"), tokenizer=False, certify="off")
    ours, theirs = (
        Bundle.open(export(options, tmp_path / name)).manifest
        for name, options in (("ours", golden_options()), ("theirs", asked))
    )
    assert ours.files == theirs.files
    assert (ours.text, ours.vision, ours.tokens, ours.family) == (
        theirs.text,
        theirs.vision,
        theirs.tokens,
        theirs.family,
    )
    assert ours.model.source.tower is not None
    assert theirs.model.source.tower is None


@pytest.mark.parametrize(
    "changes",
    [
        {"text": {"num_key_value_heads": 2, "hidden_size": 48, "num_attention_heads": 4}, "layer": -2},
        {"text": {"rope_theta": 5000.0}, "vision": {"image_size": 75, "patch_size": 14}, "layer": -1},
        {"vision": {"hidden_act": "gelu", "num_hidden_layers": 3, "layer_norm_eps": 1e-3}, "layer": 1},
        {"text": {"tie_word_embeddings": True}, "layer": 2, "activation": "relu"},
    ],
    ids=["few-key-heads", "odd-image", "gelu", "tied"],
)
@pytest.mark.parametrize("spelling", DIALECTS)
def test_logits_are_those_of_transformers(
    spelling: str, changes: Mapping[str, Any], tmp_path: Path, photo: np.ndarray
) -> None:
    """Other sizes and options than the golden model's, in llava-hf's layout."""
    transformers = pytest.importorskip("transformers")
    config = tiny_config(transformers, changes)
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(8)
        elif "norm" not in name:
            parameter.data.normal_(std=0.1)
    write_hf(tmp_path / "base", model, config)
    write_adapter(tmp_path / "adapter", config)
    asked = ExportOptions(
        str(tmp_path / "base"), str(tmp_path / "adapter"), tokenizer=False, certify="off", dialects=(spelling,)
    )
    seen: dict[str, np.ndarray] = {}
    with load(export(asked, tmp_path / "out"), trace=lambda key, value: seen.setdefault(key, value.copy())) as vlm:
        tokens = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        ids = [1, 5, *[config.image_token_index] * tokens, 7, 8, 9]
        vlm.ask_ids([photo], ids, max_new_tokens=1, pruning=PLAIN).text  # noqa: B018
    side, patch = config.vision_config.image_size // config.vision_config.patch_size, config.vision_config.patch_size
    whole = np.zeros((1, 3, config.vision_config.image_size, config.vision_config.image_size), np.float32)
    cut = seen["vision.pixel_values"].reshape(side, side, 3, patch, patch).transpose(2, 0, 3, 1, 4)
    whole[0, :, : side * patch, : side * patch] = cut.reshape(3, side * patch, side * patch)
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), pixel_values=torch.from_numpy(whole))
    np.testing.assert_allclose(seen["logits_step"].ravel(), out.logits[0, -1].numpy(), rtol=1e-3, atol=2e-3)


def tiny_config(transformers: Any, changes: Mapping[str, Any]) -> Any:
    text = {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 100,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        **changes.get("text", {}),
    }
    vision = {
        "hidden_size": 24,
        "intermediate_size": 30,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        **changes.get("vision", {}),
    }
    return transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**text),
        image_token_index=99,
        vision_feature_layer=changes["layer"],
        projector_hidden_act=changes.get("activation", "gelu"),
        tie_word_embeddings=text.get("tie_word_embeddings", False),
        attn_implementation="eager",
    )


def write_hf(folder: Path, model: Any, config: Any) -> None:
    folder.mkdir()
    model.save_pretrained(folder)
    side = config.vision_config.image_size
    rules = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    (folder / "preprocessor_config.json").write_text(json.dumps(rules))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))


def write_adapter(folder: Path, config: Any) -> None:
    """An adapter with random weights for a tiny model; nothing here prunes with it."""
    text, vision, rng = config.text_config, config.vision_config, torch.Generator().manual_seed(1)
    options = {
        "model_type": "llava_llama_gp",
        "image_aspect_ratio": "pad",
        "selected_layers": [1],
        "reduce_layer": 1,
        "le_layers": [0],
        "attn_fuse_size": 8,
        "visual_cond_size": 8,
        "attn_fuse_num_heads": 2,
        "selected_visual_layers": [1],
        "ori_attn_supervision": False,
        "deep_supervision": False,
    }
    shapes = {
        "attn_in_proj.weight": (8, text.num_attention_heads),
        "attn_in_proj.bias": (8,),
        "cond_in_projs.0.weight": (8, vision.hidden_size),
        "cond_in_projs.0.bias": (8,),
        "attn_out_projs.0.weight": (1, 8),
        "attn_out_projs.0.bias": (1,),
        **{f"layers.0.norm{index}.weight": (8,) for index in (1, 2)},
        **{f"layers.0.attn.{name}_proj.weight": (16, 16) for name in "qk"},
        **{f"layers.0.attn.{name}_proj.weight": (8, 8) for name in "vo"},
    }
    for name, size in (("gate", (16, 8)), ("up", (16, 8)), ("down", (8, 16))):
        shapes |= {f"layers.0.mlp.{name}_proj.weight": size, f"layers.0.mlp.{name}_proj.bias": (size[0],)}
    hidden = text.hidden_size
    modules = {
        "attn_fuser": {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()},
        "learnable_embeddings": torch.randn(1, 1, hidden, generator=rng),
        "le_proj": {"weight": torch.randn(hidden, hidden, generator=rng), "bias": torch.zeros(hidden)},
        "le_norm": {"weight": torch.ones(hidden)},
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(options))
    torch.save(modules, folder / "new_modules_gp.pt")


@pytest.mark.parametrize("spelling", DIALECTS)
def test_received_attention_is_what_the_class_token_looks_at(spelling: str, bundles: dict[str, Path]) -> None:
    """Its share in the block that the projector reads, against transformers' CLIP."""
    transformers = pytest.importorskip("transformers")
    folder = GOLDEN / TOWER
    config = json.loads((folder / "config.json").read_text())["vision_config"]
    model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**config, attn_implementation="eager")).eval()
    weights, known = torch.load(folder / "pytorch_model.bin", weights_only=True), model.state_dict().keys()
    named = {key if key in known else key.removeprefix("vision_model."): value for key, value in weights.items()}
    model.load_state_dict({key: value for key, value in named.items() if key in known})
    pixels = np.random.default_rng(0).normal(size=(1, 3, 112, 112)).astype(np.float32)
    with torch.no_grad():
        shares = model(torch.from_numpy(pixels), output_attentions=True).attentions[-2][0, :, 0, 1:].mean(0).numpy()
    stage = Bundle.open(bundles["fp32"]).manifest.stages_of(spelling)["vision"]
    cut = pixels.reshape(3, 8, 14, 8, 14).transpose(1, 3, 0, 2, 4).reshape(64, -1)
    piece = Piece(GraphFile(bundles["fp32"] / stage.file), ["pixel_values"], ["attention_received"])
    np.testing.assert_allclose(piece({"pixel_values": cut})[0], shares / shares.sum(), rtol=1e-3)


def test_pruning_methods(bundles: dict[str, Path], photo: np.ndarray, tmp_path: Path) -> None:
    """Every method that needs no training answers, keeps what it should, and says so; as a first stage too."""
    bundle = alone(bundles["fp32"], "ort", tmp_path / "one")
    with load(bundle) as vlm:
        ids = prompt_ids(vlm.bundle.manifest.tokens.image)
        for method in ("fastv", "divprune", "dart", "cdpruner", "random", "uniform", "visionzip"):
            asked = Pruning(method=method, max_keep_ratio=0.25)
            report = vlm.ask_ids([photo], ids, max_new_tokens=2, pruning=asked).pruning
            assert (report.method, report.kept, report.total) == (method, 16, 64)
            assert report.seen == ((0, -28, 224, 196),)
        for first in ("visionzip", "divprune"):
            report = vlm.ask_ids([photo], ids, max_new_tokens=2, pruning=Pruning(pre=first, pre_keep=0.5)).pruning
            assert (report.pre, report.pre_kept) == (first, 32)
            assert 1 <= report.kept <= 32
        mask = np.zeros((8, 8), bool)
        mask[2:4] = True
        report = vlm.ask_ids([photo], ids, max_new_tokens=2, pruning=Pruning(keep_masks=[mask])).pruning
        assert (report.keep_masks[0] == mask).all()
        assert report.boxes == (((0, 28, 224, 84),),)


@pytest.mark.parametrize("spelling", DIALECTS)
def test_a_second_question_starts_from_the_image(
    spelling: str, bundles: dict[str, Path], photo: np.ndarray, tmp_path: Path
) -> None:
    bundle = alone(bundles["fp32"], spelling, tmp_path / "one")

    def tokens(vlm: Any, words: int) -> tuple[list[int], Any]:
        answer = vlm.ask_ids([photo], prompt_ids(vlm.bundle.manifest.tokens.image, words), max_new_tokens=6)
        return list(answer.token_ids), answer

    with load(bundle, scene_cache_bytes=0) as vlm:
        cold = tokens(vlm, 7)[0], tokens(vlm, 20)[0]
    with load(bundle) as vlm:
        first, _ = tokens(vlm, 7)
        second, answer = tokens(vlm, 20)
        assert (first, second) == cold
        assert answer.stats.stage_ms["vision"] == 0


def test_requests_that_are_refused(bundles: dict[str, Path], photo: np.ndarray, tmp_path: Path) -> None:
    bundle = alone(bundles["fp32"], "ort", tmp_path / "one")
    with pytest.raises(InputError, match="sees every image at 112 x 112"):
        load(bundle, max_pixels=1000)
    with load(bundle, warmup="largest") as vlm:
        image = vlm.bundle.manifest.tokens.image
        assert image == vlm.bundle.manifest.text.vocab_size == vlm.bundle.manifest.embedding.rows
        with pytest.raises(PromptError, match="made for 1 image in a prompt, found 2"):
            vlm.ask_ids([photo, photo], [*prompt_ids(image), *[image] * 64])
        with pytest.raises(PromptError, match="token ids must lie in"):
            vlm.ask_ids([photo], [*prompt_ids(image), image + 1])
        text = vlm.ask_ids([], [1, 5, 6, 7], max_new_tokens=2)
        assert text.text == ""
        assert len(text.token_ids) == 2
        assert text.pruning.reason == "the prompt has no image"


def test_the_plan() -> None:
    checked = plan(golden_options(max_visual_tokens=500, vision_attention=True))
    assert (checked.profiles["patches"].min, checked.profiles["patches"].max) == (64, 64)
    assert (checked.profiles["visual_tokens"].min, checked.profiles["visual_tokens"].max) == (1, 64)
    assert checked.family.max_pixels(checked.images) == 112 * 112
    assert "112 x 112 pixels" in checked.family.image_text(checked.images)
    assert estimate(checked).run.total > 0
    with pytest.raises(UnsupportedError, match=r"--max-visual-tokens 60 .* 64 visual tokens"):
        plan(golden_options(max_visual_tokens=60))
    with pytest.raises(UnsupportedError, match="leaves no room for text"):
        plan(golden_options(max_context=64))


def test_a_short_context_is_left_cold(tmp_path: Path) -> None:
    with load(export(golden_options(max_context=65), tmp_path / "out"), warmup="largest") as vlm:
        assert vlm.bundle.manifest.profiles["context"].max == 65


def test_attention_of_no_block_is_refused(tmp_path: Path) -> None:
    model = copy_model(tmp_path)
    path = model / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mm_vision_select_layer": 0}))
    asked = ExportOptions(str(model / "base"), str(model / "adapter"), tokenizer=False, certify="off")
    assert plan(asked).architecture.vision.depth == 4
    with pytest.raises(UnsupportedError, match="leave out --vision-attention"):
        plan(ExportOptions(asked.model, asked.adapter, tokenizer=False, certify="off", vision_attention=True))
