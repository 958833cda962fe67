"""What an export will write, worked out from configuration files and tensor headers alone."""

import dataclasses
from typing import Any

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_export.graphs import decoder
from glimpse_export.graphs.dialects import dialect
from glimpse_export.model.architecture import Architecture
from glimpse_export.model.family import Family, ModelConfigs, find_family
from glimpse_export.model.fields import read_json
from glimpse_export.planning.options import ExportOptions
from glimpse_export.planning.plan import Plan
from glimpse_export.planning.profiles import make_profiles
from glimpse_export.planning.targets import TARGETS
from glimpse_export.source.adapter import Adapter
from glimpse_export.source.checkpoint import Checkpoint
from glimpse_export.source.lora.adapter import Lora
from glimpse_export.source.lora.merged import MergedCheckpoint
from glimpse_export.source.resolve import resolve
from glimpse_export.source.tower import find_tower
from glimpse_export.source.trained_pruners import find_files
from glimpse_runtime.bundle.dialects import DIALECTS


def make_plan(options: ExportOptions) -> Plan:
    """Resolves a model, reads its configuration and headers, and checks that it can be exported.

    Raises:
        ExportError: anything that would make the export fail later.
    """
    check_dialects(options)
    folders = resolve(options.model, options.adapter, options.revision, options.lora)
    base_config = folders.base / "config.json"
    base = read_json(base_config)
    family = find_family(base, str(base_config))
    tower = find_tower(family.vision_tower(base), options.vision_tower, folders.base, str(base_config))
    if tower is not None:
        folders = dataclasses.replace(folders, tower=tower.folder, tower_source=tower.source)
    configs = ModelConfigs.read(folders.base, folders.adapter, folders.tower)
    architecture = family.read_architecture(configs)
    images = _read_images(family, configs, architecture)
    if options.vision_attention:
        family.check_vision_attention(architecture, str(base_config))
    lora = None if folders.lora is None else Lora(folders.lora, family.tensor_name)
    places = folders.tower, family.keeps_own_tower(base)
    checkpoint = Checkpoint(folders.base, family.tensor_name, *places)
    if lora is not None:
        checkpoint = MergedCheckpoint(folders.base, family.tensor_name, lora, *places)
    expected = decoder.expected_tensors(architecture) | dict(family.vision_tensors(architecture))
    checkpoint.check(expected, architecture.text.tied, family.spare_tensors(architecture), family.size_fields())
    adapter = Adapter(folders.adapter)
    adapter.check(architecture)
    profiles = make_profiles(options, family, architecture, images)
    images = family.fitting(images, profiles["visual_tokens"].max)
    pruners = find_files(folders.adapter, architecture.text.hidden_size)
    prompt = family.read_prompt(folders.base, architecture) if options.tokenizer else None
    return Plan(
        options, folders, configs, family, architecture, images, profiles, checkpoint, adapter, lora, pruners, prompt
    )


def _read_images(family: Family, configs: ModelConfigs, architecture: Architecture) -> Any:
    """Reads the image rules; where two files say them, versions of transformers differ in which one counts."""
    images = family.read_images(configs, architecture)
    if configs.other_images:
        names = {**configs.names, "images": configs.name("other_images")}
        other = dataclasses.replace(configs, images=configs.other_images, names=names)
        if family.read_images(other, architecture) != images:
            raise CheckpointError(
                f"{configs.name('images')} and {names['images']} prepare images differently, and which one counts "
                "depends on the version of transformers; delete the one that is not meant"
            )
    return images


def check_dialects(options: ExportOptions) -> None:
    """Checks that the dialects and the target have what was asked for.

    Raises:
        UnsupportedError: one of them has not.
    """
    needed = TARGETS[options.target].kv_cache
    if needed not in (None, options.precision.kv_cache):
        raise UnsupportedError(
            f"the target {options.target} has no attention on a KV cache of {options.precision.kv_cache}; leave "
            f"--kv-cache-precision out, or say {needed}"
        )
    if not options.dialects:
        raise UnsupportedError(f"no dialect was asked for; this version writes: {', '.join(DIALECTS)}")
    for name in options.dialects:
        known, cache = dialect(name).cache_precisions, options.precision.kv_cache
        if cache not in known:
            raise UnsupportedError(
                f"dialect {name} has no KV cache of {cache}; choose --kv-cache-precision {' or '.join(known)}"
            )
