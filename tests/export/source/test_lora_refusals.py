"""LoRA adapters that cannot be merged: each is refused by what is wrong with it, before anything is written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

import torch
from support.bundles import options
from support.checkpoints import write_model
from support.files import edit_json
from support.lora import TARGETS, WEIGHTS, edit_lora, write_lora
from torch import Tensor

from glimpse_export import CheckpointError, ExportError, ExportOptions, ModelNotFoundError, UnsupportedError, plan
from glimpse_export.exporter import carry_out

MERGE = "merge the adapter with peft (merge_and_unload, then save_pretrained) and export the result as --model"
PREFIX = "base_model.model."
Q_PROJ = f"{PREFIX}{TARGETS[0]}.lora_"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def lora(tiny: Path, tmp_path: Path) -> Path:
    return write_lora(tmp_path / "lora", tiny / "base")


def assert_refused(model: Path, lora: Path, kind: type[ExportError], *parts: str) -> None:
    out = lora.parent / "out"
    with pytest.raises(kind) as caught:
        carry_out(options(model, lora=str(lora)), out)
    for part in parts:
        assert part in str(caught.value)
    assert str(lora) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert not (lora.parent / ".out.work").exists()


ASKED_FOR_MORE: list[tuple[dict[str, Any], str]] = [
    ({"use_dora": True}, "use_dora = True is not supported"),
    ({"use_qalora": True}, "use_qalora = True"),
    ({"use_bdlora": {"nblocks": 2}}, "use_bdlora = {'nblocks': 2}"),
    ({"use_whatever_comes_next": True}, "use_whatever_comes_next = True"),
    ({"arrow_config": {"top_k": 3}}, "arrow_config = {'top_k': 3}"),
    ({"kasa_config": {"beta": 0.1}}, "kasa_config"),
    ({"monteclora_config": {"num_samples": 8}}, "monteclora_config"),
    ({"megatron_config": {"a": 1}}, "megatron_config"),
    ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens = [1, 2]"),
    ({"layer_replication": [[0, 2], [1, 4]]}, "layer_replication"),
    ({"lora_bias": True}, "lora_bias = True"),
    ({"target_parameters": ["experts.down_proj"]}, "target_parameters"),
    ({"trainable_token_indices": {"embed_tokens": [1]}}, "trainable_token_indices"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' has changed the base"),
    ({"init_lora_weights": "olora"}, "init_lora_weights 'olora'"),
]


@pytest.mark.parametrize(("changes", "message"), ASKED_FOR_MORE, ids=lambda value: str(value)[:40])
def test_what_is_more_than_lora(tiny: Path, lora: Path, changes: dict[str, Any], message: str) -> None:
    edit_json(lora / "adapter_config.json", **changes)
    assert_refused(tiny, lora, UnsupportedError, "adapter_config.json", message, MERGE)


def test_fields_that_say_nothing_of_the_result(tiny: Path, lora: Path) -> None:
    idle = {"use_dora": False, "kasa_config": None, "layer_replication": [], "loftq_config": {}, "use_rslora": False}
    training = {"eva_config": {"rho": 2.0}, "runtime_config": {"ephemeral_gpu_offload": True}, "lorap_emb_lr": 1e-6}
    for start in (True, False, "gaussian", "eva", "orthogonal", None):
        edit_json(lora / "adapter_config.json", **idle, **training, init_lora_weights=start)
        plan(options(tiny, lora=str(lora)))


NO_SENSE: list[tuple[dict[str, Any], type[ExportError], str]] = [
    ({"peft_type": "IA3"}, UnsupportedError, "peft_type 'IA3'"),
    ({"peft_type": ...}, CheckpointError, "has no 'peft_type'"),
    ({"r": 0}, CheckpointError, "'r' must be at least 1, found 0"),
    ({"r": 8}, CheckpointError, f"tensor {PREFIX}lm_head.lora_A.weight has shape (4, 32)"),
    ({"r": ...}, CheckpointError, "says rank 8"),
    ({"lora_alpha": "16"}, CheckpointError, "'lora_alpha' must be of type float"),
    ({"lora_alpha": float("nan")}, CheckpointError, "'lora_alpha' must be a finite number"),
    ({"use_rslora": "yes"}, CheckpointError, "'use_rslora' must be of type bool"),
    ({"bias": "some"}, UnsupportedError, "bias 'some'"),
    ({"bias": "all"}, CheckpointError, "has none of the biases that were trained"),
    ({"rank_pattern": {"q_proj": 2}}, CheckpointError, "says rank 2"),
    ({"rank_pattern": {"q_proj": 0}}, CheckpointError, "adapter_config.json, rank_pattern: 'q_proj' must be at least"),
    ({"rank_pattern": ["q_proj"]}, CheckpointError, "'rank_pattern' must be of type dict"),
    ({"alpha_pattern": {"q_proj": "a"}}, CheckpointError, "alpha_pattern: 'q_proj' must be of type float"),
    ({"alpha_pattern": {"(q_proj": 1}}, CheckpointError, "'(q_proj', which is no regular expression"),
    ({"target_modules": "*.q_proj"}, CheckpointError, "'*.q_proj', which is no regular expression"),
    ({"target_modules": [1]}, CheckpointError, "'target_modules' must be a list of names"),
    ({"target_modules": {"q": 1}}, CheckpointError, "'target_modules' must be of type list"),
    ({"target_modules": ["o_proj", "qkv"]}, CheckpointError, "is of no module that target_modules in"),
    ({"target_modules": r".*q_pro"}, CheckpointError, "is of no module that target_modules in"),
    ({"modules_to_save": ["lm_head"]}, CheckpointError, "has no tensor of lm_head, which modules_to_save in"),
    ({"modules_to_save": "lm_head"}, CheckpointError, "'modules_to_save' must be of type list"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), NO_SENSE, ids=lambda value: str(value)[:40])
def test_a_configuration_that_makes_no_sense(
    tiny: Path, lora: Path, changes: dict[str, Any], kind: type[ExportError], message: str
) -> None:
    edit_json(lora / "adapter_config.json", **changes)
    assert_refused(tiny, lora, kind, message)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\ud800"])
def test_a_configuration_that_is_no_json_object(tiny: Path, lora: Path, text: str) -> None:
    (lora / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert_refused(tiny, lora, CheckpointError, "adapter_config.json")


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(old)]:
            tensors[name.replace(old, new)] = tensors.pop(name)

    return change


def put(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({f"{PREFIX}{name}": torch.zeros(shape, dtype=dtype)})


OTHER = "the LoRA was trained on another base than"
TENSORS: list[tuple[Callable[[dict[str, Tensor]], None], str, str]] = [
    (put("x.weight", 3), f"tensor {PREFIX}x.weight is for x.weight, which the base lacks", OTHER),
    (lambda tensors: tensors.pop(f"{Q_PROJ}A.weight"), f"tensor {Q_PROJ}B.weight has no counterpart A or B", ""),
    (lambda tensors: tensors.pop(f"{Q_PROJ}B.weight"), f"tensor {Q_PROJ}A.weight has no counterpart A or B", ""),
    (renamed(f"{Q_PROJ}A", f"{Q_PROJ}embedding_A"), "has no counterpart A or B", "incomplete"),
    (renamed(f"{PREFIX}{TARGETS[0]}", f"{PREFIX}model.layers.9.self_attn.q_proj"), "which the base lacks", OTHER),
    (renamed(f"{PREFIX}{TARGETS[2]}", f"{PREFIX}model.vision.qkv"), "for model.vision.qkv.weight, which", "some/base"),
    (renamed(PREFIX, "model."), "is nothing that LoRA weights consist of", MERGE),
    (put("lm_head.lora_magnitude_vector", 512), "lm_head.lora_magnitude_vector is nothing that LoRA", MERGE),
    (renamed(f"{Q_PROJ}A", f"{Q_PROJ}A.default"), "lora_A.default.weight is nothing that LoRA weights consist of", ""),
    (put("lm_head.lora_B.bias", 512), "lm_head.lora_B.bias is nothing that LoRA", MERGE),
    (put("attn_fuser.attn_in_proj.weight", 4, 4), "attn_fuser.attn_in_proj.weight, which the base lacks", OTHER),
    (put(f"{TARGETS[0]}.lora_A.weight", 4, 33), "has shape (4, 33), model.layers.0.self_attn.q_proj.weight", OTHER),
    (put(f"{TARGETS[0]}.lora_B.weight", 31, 4), "(32, 32) asks for (32, 4)", OTHER),
    (put(f"{TARGETS[0]}.lora_B.weight", 32, 5), "(32, 32) asks for (32, 4)", ""),
    (put(f"{TARGETS[0]}.lora_A.weight", 0), f"{Q_PROJ}A.weight has shape (0,)", "says rank 4"),
    (put(f"{TARGETS[0]}.lora_A.weight"), f"{Q_PROJ}A.weight has shape ()", "says rank 4"),
    (put("model.norm.weight", 16), "model.norm.weight has shape (16,), model.norm.weight (32,) asks for (32,)", OTHER),
    (put("lm_head.lora_A.weight", 4, 32, dtype=torch.int8), "lora_A.weight is stored as I8; F32, F16 and BF16", ""),
    (lambda tensors: tensors.clear(), "holds no LoRA weights", ""),
    (put("lm_head.weight", 515, 32), "lm_head.weight is for 515 words, ", "has 512: the vocabulary was changed"),
    (put("model.embed_tokens.weight", 515, 32), "embed_tokens.weight is for 515 words", MERGE),
    (
        put("lm_head.lora_B.weight", 515, 4),
        "lm_head.lora_B.weight is for 515 words",
        "give the base with the same change",
    ),
]


@pytest.mark.parametrize(("change", "first", "second"), TENSORS, ids=[part[:60] for _, part, _ in TENSORS])
def test_tensors_that_do_not_fit(
    tiny: Path, lora: Path, change: Callable[[dict[str, Tensor]], None], first: str, second: str
) -> None:
    edit_json(lora / "adapter_config.json", target_modules=...)
    edit_lora(lora, change)
    assert_refused(tiny, lora, CheckpointError, WEIGHTS, first, second)


def test_an_embedding_is_no_linear_layer(tiny: Path, tmp_path: Path) -> None:
    """Square weights and thin tables would fit the other way round as well."""
    lora = write_lora(tmp_path / "lora", tiny / "base")
    for factor in "AB":
        edit_lora(lora, renamed(f"{Q_PROJ}{factor}.weight", f"{Q_PROJ}embedding_{factor}"))
    assert_refused(tiny, lora, CheckpointError, "embedding_A is not what LoRA weights of model.layers.0", MERGE)


def test_a_tensor_that_is_there_by_two_names(tiny: Path, tmp_path: Path) -> None:
    both = (TARGETS[0], "model.layers.0.self_attn.q_proj")
    lora = write_lora(tmp_path / "lora", tiny / "base", both)
    assert_refused(tiny, lora, CheckpointError, "for model.layers.0.self_attn.q_proj.weight like", "too much")
    norms = {f"{name}.weight": torch.ones(32) for name in ("model.norm", "model.language_model.norm")}
    lora = write_lora(tmp_path / "norms" / "lora", tiny / "base", whole=norms)
    assert_refused(tiny, lora, CheckpointError, "is for model.norm.weight like", "too much")


@pytest.mark.parametrize("part", ["lm_head", "model.language_model.embed_tokens"])
@pytest.mark.parametrize("is_whole", [False, True])
def test_one_of_two_tied_weights(tmp_path: Path, part: str, is_whole: bool) -> None:
    """With peft it change both, and the base says that they are one."""
    model = write_model(tmp_path / "model", text={"tie_word_embeddings": True})
    untied = write_model(tmp_path / "untied")
    whole = {f"{part}.weight": torch.zeros(512, 32)} if is_whole else None
    targets = (TARGETS[0],) if is_whole else (TARGETS[0], part)
    lora = write_lora(tmp_path / "lora", untied / "base", targets, whole=whole)
    assert_refused(model, lora, UnsupportedError, part, "which", "ties", "tie_word_embeddings false", MERGE)
    plan(options(untied, lora=str(lora)))


def test_weights_that_are_damaged_or_missing(tiny: Path, lora: Path) -> None:
    good = (lora / WEIGHTS).read_bytes()
    for content in (b"", good[:50], good[:-1], b"{}" * 100):
        (lora / WEIGHTS).write_bytes(content)
        assert_refused(tiny, lora, CheckpointError, f"{WEIGHTS} is damaged or cut short")
    (lora / WEIGHTS).rename(lora / "adapter_model.bin")
    assert_refused(tiny, lora, CheckpointError, "adapter_model.safetensors is missing", "load it with peft and save it")
    (lora / "adapter_config.json").unlink()
    assert_refused(tiny, lora, CheckpointError, "adapter_config.json is missing; --lora takes a folder that peft")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tiny: Path, lora: Path, bad: float) -> None:
    edit_lora(lora, lambda tensors: tensors[f"{Q_PROJ}B.weight"].__setitem__((3, 1), bad))
    with pytest.raises(CheckpointError, match=r"q_proj\.lora_B\.weight holds values that are not finite"):
        carry_out(options(tiny, lora=str(lora)), lora.parent / "out")
    assert not (lora.parent / "out").exists()


def test_a_sum_beyond_the_range_of_the_base(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", dtype="float16")
    lora = write_lora(tmp_path / "lora", model / "base", lora_alpha=1e8)
    with pytest.raises(CheckpointError, match=r"merged into the base, .* leaves the range of float16"):
        carry_out(options(model, lora=str(lora)), tmp_path / "out")


def test_adapters_that_are_taken_for_each_other(tiny: Path, lora: Path) -> None:
    with pytest.raises(
        ModelNotFoundError, match="holds a LoRA adapter; name it with --lora, and its base with --model"
    ):
        plan(ExportOptions(str(lora)))
    with pytest.raises(ModelNotFoundError, match="with --lora, and the GlimpsePrune adapter with --adapter"):
        plan(ExportOptions(str(tiny / "base"), str(lora)))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing; --lora takes a folder that peft"):
        plan(options(tiny, lora=str(tiny / "adapter")))
    with pytest.raises(ModelNotFoundError, match="give a folder"):
        plan(options(tiny, lora=str(lora / "none")))
    both = shutil.copytree(tiny / "adapter", lora, dirs_exist_ok=True)
    named = ExportOptions(str(tiny / "base"), str(both), str(both), tokenizer=False)
    assert plan(named).lora is not None
