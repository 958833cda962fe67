"""Optimization profiles from the manifest's ranges."""

import dataclasses

import pytest

from glimpse_runtime.bundle import memory
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import Manifest, Profile, StageSpec, TensorSpec
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.engines.flavours import flavour_of
from glimpse_runtime.engines.profiles import engine_profiles
from glimpse_runtime.errors import BundleFormatError

FULL, RTX = flavour_of("tensorrt", "10.3"), flavour_of("tensorrt-rtx", "1.7")
CONTEXT = 2048


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    profiles = {
        "patches": Profile(4, 1024, 2304),
        "visual_tokens": Profile(1, 256, 576),
        "rows": Profile(1, 320, CONTEXT),
        "kept": Profile(1, 96, CONTEXT),
        "context": Profile(1, CONTEXT, CONTEXT),
    }
    return dataclasses.replace(Bundle.open(packaged_bundle()).manifest, profiles=profiles)


HIDDEN = TensorSpec("hidden_in", "float32", (1, "rows", 128))
PAST = TensorSpec("past.0.key", "float16", (1, 2, CONTEXT, 32))
DECODER = StageSpec("lower.opset24.onnx", (HIDDEN, TensorSpec("slots", "int64", ("rows",)), PAST), ())
VISION = StageSpec("vision.opset24.onnx", (TensorSpec("pixel_values", "float32", ("patches", 1176)),), ())


def test_full_tensorrt_has_one_profile_for_prefill_and_one_for_decode(manifest: Manifest) -> None:
    prefill, decode = engine_profiles(manifest, "lower", DECODER, FULL)
    assert (prefill.name, decode.name) == ("prefill", "decode")
    assert prefill.shapes(HIDDEN) == ((1, 2, 128), (1, 320, 128), (1, 512, 128))
    assert decode.shapes(HIDDEN) == ((1, 1, 128),) * 3
    assert decode.shapes(DECODER.inputs[1]) == ((1,),) * 3


def test_rtx_has_one_wide_profile(manifest: Manifest) -> None:
    (wide,) = engine_profiles(manifest, "lower", DECODER, RTX)
    assert wide.shapes(HIDDEN) == ((1, 1, 128), (1, 320, 128), (1, 512, 128))


def test_the_upper_layers_usually_get_the_kept_rows(manifest: Manifest) -> None:
    prefill, _ = engine_profiles(manifest, "upper", DECODER, FULL)
    assert prefill.shapes(HIDDEN)[1] == (1, 96, 128)


def test_fixed_lengths_stay(manifest: Manifest) -> None:
    for profile in engine_profiles(manifest, "lower", DECODER, FULL):
        assert profile.shapes(PAST) == ((1, 2, CONTEXT, 32),) * 3
        assert set(profile.dims) == {"rows"}


def test_other_stages_take_the_manifests_ranges(manifest: Manifest) -> None:
    for flavour in (FULL, RTX):
        (profile,) = engine_profiles(manifest, "vision", VISION, flavour)
        assert profile.shapes(VISION.inputs[0]) == ((4, 1176), (1024, 1176), (2304, 1176))
        (profile,) = engine_profiles(manifest, "compact", DECODER, flavour)
        assert profile.dims["rows"] == Profile(1, 320, CONTEXT), "a whole prompt, not a run of it"


def test_the_longest_run_of_rows_is_the_pipelines(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ROWS_AT_ONCE", 64)
    prefill, _ = engine_profiles(manifest, "lower", DECODER, FULL)
    assert prefill.dims["rows"] == Profile(2, 64, 64)
    longer = dataclasses.replace(manifest, glimpse=dataclasses.replace(manifest.glimpse, length=100))
    prefill, _ = engine_profiles(longer, "lower", DECODER, FULL)
    assert prefill.dims["rows"].max == 100, "glimpse rows stay together"


def test_a_context_of_one_row_needs_no_prefill(manifest: Manifest) -> None:
    tiny = dataclasses.replace(manifest, profiles={**manifest.profiles, "rows": Profile(1, 1, 1)})
    (profile,) = engine_profiles(tiny, "lower", DECODER, FULL)
    assert profile.dims["rows"] == Profile(1, 1, 1)


def test_a_dimension_without_a_range_is_an_error(manifest: Manifest) -> None:
    spec = StageSpec("vision.opset24.onnx", (TensorSpec("window_keys", "bool", ("windows", 64)),), ())
    with pytest.raises(BundleFormatError, match=r"vision\.opset24\.onnx: dimension 'windows' of input 'window_keys'"):
        engine_profiles(manifest, "vision", spec, FULL)
