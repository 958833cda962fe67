"""What an export will write, worked out from configuration files and tensor headers alone."""

from glimpse_export.errors import UnsupportedError
from glimpse_export.graphs import decoder
from glimpse_export.graphs.dialects import dialect
from glimpse_export.model.family import ModelConfigs, find_family
from glimpse_export.model.fields import read_json
from glimpse_export.planning.options import ExportOptions
from glimpse_export.planning.plan import Plan
from glimpse_export.planning.profiles import make_profiles
from glimpse_export.source.adapter import Adapter
from glimpse_export.source.checkpoint import Checkpoint
from glimpse_export.source.lora import Lora
from glimpse_export.source.merged import MergedCheckpoint
from glimpse_export.source.resolve import resolve
from glimpse_export.source.trained_pruners import find_files
from glimpse_runtime.bundle.dialects import DIALECTS


def make_plan(options: ExportOptions) -> Plan:
    """Resolves a model, reads its configuration and headers, and checks that it can be exported.

    Raises:
        ExportError: anything that would make the export fail later.
    """
    _check_dialects(options)
    folders = resolve(options.model, options.adapter, options.revision, options.lora)
    base_config = folders.base / "config.json"
    family = find_family(read_json(base_config), str(base_config))
    configs = ModelConfigs.read(folders.base, folders.adapter)
    architecture = family.read_architecture(configs)
    images = family.read_images(configs, architecture)
    if options.vision_attention:
        family.check_vision_attention(architecture, str(base_config))
    lora = None if folders.lora is None else Lora(folders.lora, family.tensor_name)
    checkpoint = Checkpoint(folders.base, family.tensor_name)
    if lora is not None:
        checkpoint = MergedCheckpoint(folders.base, family.tensor_name, lora)
    expected = decoder.expected_tensors(architecture) | dict(family.vision_tensors(architecture))
    checkpoint.check(expected, architecture.text.tied)
    adapter = Adapter(folders.adapter)
    adapter.check(architecture)
    profiles = make_profiles(options, family, architecture, images)
    images = family.fitting(images, profiles["visual_tokens"].max)
    pruners = find_files(folders.adapter, architecture.text.hidden_size)
    return Plan(options, folders, configs, family, architecture, images, profiles, checkpoint, adapter, lora, pruners)


def _check_dialects(options: ExportOptions) -> None:
    if not options.dialects:
        raise UnsupportedError(f"no dialect was asked for; this version writes: {', '.join(DIALECTS)}")
    for name in options.dialects:
        known, cache = dialect(name).cache_precisions, options.precision.kv_cache
        if cache not in known:
            raise UnsupportedError(
                f"dialect {name} has no KV cache of {cache}; choose --kv-cache-precision {' or '.join(known)}"
            )
