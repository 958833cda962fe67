"""The checkpoints that benchmarks are measured on, cut down: what the exporter reads is what was meant."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

from support.dims import qwen_dims

from benchmarks.export.checkpoints.decoder import Decoder
from benchmarks.export.checkpoints.draw import Recipe, draw
from benchmarks.export.checkpoints.qwen2_5_vl.files import Vocabulary
from benchmarks.make_checkpoint import cut, write
from glimpse_export import ExportOptions, export, plan
from glimpse_export.source.checkpoint import Checkpoint
from glimpse_models import MODELS
from glimpse_runtime import load
from glimpse_runtime.inputs.tokenizer import Tokenizer

SMALL = dataclasses.replace(
    cut(MODELS["qwen2.5-vl-3b"].dims, layers=3, depth=2, vocab=1000),
    hidden_size=256,
    heads=2,
    kv_heads=1,
    intermediate_size=128,
    vision_hidden_size=64,
    vision_heads=2,
    vision_intermediate_size=48,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "checkpoint"
    write(folder, SMALL, shard_bytes=400_000)
    return folder


def test_exporter_takes_it(made: Path) -> None:
    planned = plan(ExportOptions(str(made / "base"), str(made / "adapter")))
    assert planned.architecture.text.tied
    assert set(planned.checkpoint.dtypes.values()) == {"bfloat16"}
    configs = [json.loads((made / name / "config.json").read_text()) for name in ("base", "adapter")]
    assert qwen_dims(*configs) == SMALL


def test_shards_are_as_published(made: Path) -> None:
    index = json.loads((made / "base" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (made / "base").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert sorted(set(index["weight_map"].values())) == files
    assert index["metadata"]["total_size"] == 2 * SMALL.parameters
    assert set(index["weight_map"]) == set(Checkpoint(made / "base").shapes)


def test_weights_follow_the_seed_and_the_name_alone(made: Path, tmp_path: Path) -> None:
    write(tmp_path / "deeper", dataclasses.replace(SMALL, layers=4), shard_bytes=10**9)
    write(tmp_path / "other", SMALL, seed=1)
    first, deeper, other = (Checkpoint(path / "base") for path in (made, tmp_path / "deeper", tmp_path / "other"))
    for name in ("model.embed_tokens.weight", "visual.blocks.1.attn.qkv.weight", "model.layers.2.mlp.up_proj.weight"):
        assert np.array_equal(first.read(name), deeper.read(name)), name
        assert not np.array_equal(first.read(name), other.read(name)), name


def test_no_two_tensors_are_alike(made: Path) -> None:
    checkpoint = Checkpoint(made / "base")
    contents = [checkpoint.read(name).tobytes() for name in checkpoint.shapes]
    assert len(set(contents)) == len(contents)


def test_pieces_of_a_tensor_differ() -> None:
    tensor = draw(0, "x", (2, 1 << 22), Recipe(1.0))
    assert not np.array_equal(tensor[0], tensor[1])
    assert abs(float(tensor.std()) - 1) < 0.01


def test_huge_channels_are_there(made: Path) -> None:
    read = Checkpoint(made / "base").read
    # What attention adds whatever it looks at: the value bias, once per query head, through the output projection.
    bias = np.tile(read("model.layers.1.self_attn.v_proj.bias"), SMALL.heads)
    constant = np.sort(read("model.layers.1.self_attn.o_proj.weight") @ bias)
    assert constant[-1] == pytest.approx(15, rel=0.05)
    assert constant[0] == pytest.approx(-8, rel=0.05)
    assert np.abs(constant[1:-1]).max() < 1
    bias = read("visual.blocks.1.attn.qkv.bias")[2 * SMALL.vision_hidden_size :]
    constant = np.sort(read("visual.blocks.1.attn.proj.weight") @ bias)
    assert constant[-1] == pytest.approx(25, rel=0.05)
    assert constant[0] == pytest.approx(-12, rel=0.05)
    single = np.abs(read("model.layers.1.mlp.down_proj.weight"))
    assert single.max() > 3
    assert np.median(single) < 0.1
    keys = np.abs(read("model.layers.0.self_attn.k_proj.bias"))
    assert keys.max() > 60
    assert np.median(keys) < 1


def test_some_tokens_are_kept_and_others_dropped(made: Path, tmp_path: Path) -> None:
    out = export(
        ExportOptions(str(made / "base"), str(made / "adapter"), max_context=512, certify="off"), tmp_path / "bundle"
    )
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8).repeat(28, 0).repeat(28, 1)
    with load(out) as vlm:
        answer = vlm.ask(image, "What colour is the circle?", max_new_tokens=4)
        text = answer.text
    assert answer.pruning.total == 64
    assert 1 < answer.pruning.kept < 48
    assert text


def test_tokenizer_has_published_ids_and_readable_fillers(made: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(Vocabulary(151936).tokenizer()), encoding="utf-8")
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.encode([("<|im_start|><|vision_start|><|image_pad|><|im_end|>", True)]) == [
        151644,
        151652,
        151655,
        151645,
    ]
    ids = tokenizer.encode([("What colour is the circle?", False)])
    assert max(ids) < 500
    assert tokenizer.decode(ids) == "What colour is the circle?"
    assert tokenizer.decode([100000]) == " w100000"
    small = Tokenizer(made / "base" / "tokenizer.json")
    config = json.loads((made / "base" / "config.json").read_text())
    assert small.encode([("<|image_pad|>", True)]) == [config["image_token_id"]]


def test_full_folders_are_refused_and_broken_runs_leave_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileExistsError, match="not empty"):
        write(made, SMALL)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Decoder, "recipe", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "new", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_vocabulary_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--vocab must be at least"):
        write(tmp_path / "new", dataclasses.replace(SMALL, vocab_size=400))
