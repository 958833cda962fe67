"""The plan of a model known by name whose files cannot be reached: from the sizes that the registry states."""

from pathlib import Path

from glimpse_export.graphs import decoder
from glimpse_export.model.family import ModelConfigs, find_family
from glimpse_export.planning.make import check_dialects
from glimpse_export.planning.options import ExportOptions
from glimpse_export.planning.plan import Plan
from glimpse_export.planning.profiles import make_profiles
from glimpse_export.source.known import KnownAdapter, KnownCheckpoint
from glimpse_export.source.resolve import ModelFolders
from glimpse_models import find


def known_plan(options: ExportOptions) -> Plan | None:
    """Returns the plan, None for a model that is not known or that was asked for with other files than its own.

    Raises:
        UnsupportedError: the limits or the precision do not fit the model.
    """
    check_dialects(options)
    facts = find(options.model)
    others = (options.adapter, options.lora, options.vision_tower, options.revision)
    if facts is None or facts.published is None or any(other is not None for other in others):
        return None
    configs = ModelConfigs(**facts.published.configs)
    family = find_family(configs.base, facts.base)
    architecture = family.read_architecture(configs)
    images = family.read_images(configs, architecture)
    if options.vision_attention:
        family.check_vision_attention(architecture, facts.base)
    profiles = make_profiles(options, family, architecture, images)
    shapes = decoder.expected_tensors(architecture) | dict(family.vision_tensors(architecture))
    return Plan(
        options,
        ModelFolders(facts.name, Path(), Path(), f"{facts.licence}. {facts.terms}", facts.base, facts.adapter),
        configs,
        family,
        architecture,
        family.fitting(images, profiles["visual_tokens"].max),
        profiles,
        KnownCheckpoint(shapes, facts.published.stored),
        KnownAdapter(architecture),
        None,
        is_known=True,
    )
