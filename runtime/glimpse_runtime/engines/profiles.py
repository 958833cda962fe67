"""From the ranges in a manifest to the optimization profiles of an engine."""

from collections.abc import Mapping
from dataclasses import dataclass

from glimpse_runtime.bundle import memory
from glimpse_runtime.bundle.manifest import Manifest, Profile, StageSpec, TensorSpec
from glimpse_runtime.engines.flavours import Flavour
from glimpse_runtime.errors import BundleFormatError

PREFILL, DECODE, WIDE = "prefill", "decode", "wide"
_DECODER = {"lower": "rows", "upper": "kept"}  # the manifest's profile of the rows each of them usually gets
_ROWS = "rows"


@dataclass(frozen=True)
class EngineProfile:
    """One optimization profile.

    Attributes:
        name: ``prefill``, ``decode``, or ``wide`` where one profile serves all.
        dims: range of every named dimension.
    """

    name: str
    dims: Mapping[str, Profile]

    def shapes(self, tensor: TensorSpec) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Returns the smallest, the most frequent and the largest shape of an input."""
        ranges = [Profile(dim, dim, dim) if isinstance(dim, int) else self.dims[dim] for dim in tensor.shape]
        return tuple(r.min for r in ranges), tuple(r.opt for r in ranges), tuple(r.max for r in ranges)


def engine_profiles(manifest: Manifest, stage: str, spec: StageSpec, flavour: Flavour) -> tuple[EngineProfile, ...]:
    """Returns the profiles of a stage's engine.

    Args:
        manifest: the bundle's manifest, with the range of every named dimension.
        stage: the stage's name.
        spec: its graph.
        flavour: which TensorRT; see ``Flavour.profiles``.

    Returns:
        The profiles in the engine's order. The dimensions of the past, and others that are fixed, are not in them.

    Raises:
        BundleFormatError: an input has a named dimension without a range.
    """
    ranges: dict[str, Profile] = {}
    for tensor in spec.inputs:
        for dim in tensor.shape:
            if isinstance(dim, str):
                if dim not in manifest.profiles:
                    raise BundleFormatError(
                        f"{spec.file}: dimension {dim!r} of input {tensor.name!r} has no profile in the manifest; "
                        "export the model again"
                    )
                ranges[dim] = manifest.profiles[dim]
    if stage not in _DECODER or _ROWS not in ranges:
        return (EngineProfile(WIDE, ranges),)
    # The runtime runs a longer prompt in several runs.
    longest = max(memory.ROWS_AT_ONCE, manifest.glimpse.length)
    most = min(ranges[_ROWS].max, longest)
    usual = min(manifest.profiles[_DECODER[stage]].opt, most)
    if flavour.profiles == "wide" or most == 1:
        return (EngineProfile(WIDE, {**ranges, _ROWS: Profile(1, usual, most)}),)
    return (
        EngineProfile(PREFILL, {**ranges, _ROWS: Profile(2, max(usual, 2), most)}),
        EngineProfile(DECODE, {**ranges, _ROWS: Profile(1, 1, 1)}),
    )
