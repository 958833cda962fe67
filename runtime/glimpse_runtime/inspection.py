"""What a bundle is, as data: read from its manifest and certificate, without its weights or an engine."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.certificate import HOW_TO_CERTIFY, Check, read_certificate
from glimpse_runtime.bundle.checks import UPDATE_STAGE
from glimpse_runtime.bundle.locate import locate
from glimpse_runtime.bundle.manifest import FileSpec, Manifest, ModelSpec, Profile, TensorSpec
from glimpse_runtime.bundle.memory import kv_cache_bytes, memory_of_files
from glimpse_runtime.checked import flag
from glimpse_runtime.pruners import method_of


@dataclasses.dataclass(frozen=True)
class StageReport:
    """One graph; ``precision`` is what its weights are stored in, or without weights the numbers it moves."""

    file: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclasses.dataclass(frozen=True)
class CertificateReport:
    """The summary of a certificate.

    Attributes:
        level: ``full`` or ``quick``.
        passed: whether every bound was kept.
        command: the export's command line.
        versions: packages that took part.
        worst: for each measure of each stage the worst check.
        foreign_files: files of the bundle that are not those that were compared.
    """

    level: str
    passed: bool
    command: str
    versions: Mapping[str, str]
    worst: tuple[Check, ...]
    foreign_files: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Everything that ``glimpse-inspect`` shows.

    Attributes:
        folder: the bundle's folder.
        format_version: version of the bundle's form.
        exporter: version of glimpse-edge that wrote it.
        model: name, licence and origin.
        dialects: families of engines there are graphs for.
        layers: layers of the decoder.
        lower_layers: those that see all visual tokens.
        reduce_layer: K, the layer after which tokens leave.
        selected_layers: layers whose attention the glimpse token reads.
        learned: pruning methods that it has trained weights for.
        tokenizer: whether it takes text, not token ids alone.
        precision: name of the precision per stage and of the KV cache.
        graphs: the graphs by dialect and stage.
        profiles: ranges of the named dimensions.
        files: size and hash of every file.
        total_bytes: their sum.
        memory: bytes of KV cache, weights and embedding table at run time.
        certificate: its summary; None when there is none.
        warnings: what a user should know before trusting the bundle.
    """

    folder: str
    format_version: int
    exporter: str
    model: ModelSpec
    dialects: tuple[str, ...]
    layers: int
    lower_layers: int
    reduce_layer: int
    selected_layers: tuple[int, ...]
    learned: tuple[str, ...]
    tokenizer: bool
    precision: Mapping[str, str]
    graphs: Mapping[str, Mapping[str, StageReport]]
    profiles: Mapping[str, Profile]
    files: Mapping[str, FileSpec]
    total_bytes: int
    memory: Mapping[str, int]
    certificate: CertificateReport | None
    warnings: tuple[str, ...]


def inspect(bundle: str | Path | None = None, verify: bool = False) -> Inspection:
    """Reads what a bundle is; sizes of its files are checked, their contents only on request.

    Args:
        bundle: the bundle's folder or hub id; None is the packaged pocket model.
        verify: hash every file.

    Raises:
        InputError: an option is of another kind.
        BundleError: the bundle is missing, damaged or of another version.
    """
    flag("verify", verify)
    opened = Bundle.open(locate(bundle), verify=verify, contents=False)
    manifest = opened.manifest
    certificate = _certificate(opened.folder, manifest)
    return Inspection(
        folder=str(opened.folder),
        format_version=manifest.format_version,
        exporter=manifest.exporter,
        model=manifest.model,
        dialects=manifest.dialects,
        layers=manifest.text.layers,
        lower_layers=manifest.text.lower_layers,
        reduce_layer=manifest.glimpse.reduce_layer,
        selected_layers=manifest.glimpse.selected_layers,
        learned=tuple(name for name in map(method_of, sorted(manifest.files)) if name is not None),
        tokenizer=manifest.prompt is not None,
        precision=manifest.precision,
        graphs={
            dialect: {
                name: StageReport(stage.file, _precision(manifest, name), stage.inputs, stage.outputs)
                for name, stage in stages.items()
            }
            for dialect, stages in manifest.graphs.items()
        },
        profiles=manifest.profiles,
        files=manifest.files,
        total_bytes=sum(spec.bytes for spec in manifest.files.values()),
        memory={"kv_cache_bytes": kv_cache_bytes(manifest), **memory_of_files(manifest)},
        certificate=certificate,
        warnings=_warnings(certificate),
    )


def _certificate(folder: Path, manifest: Manifest) -> CertificateReport | None:
    found = read_certificate(folder)
    if found is None:
        return None
    return CertificateReport(
        found.level, found.passed, found.command, found.versions, found.worst(), found.foreign_files(manifest)
    )


def _warnings(certificate: CertificateReport | None) -> tuple[str, ...]:
    if certificate is None:
        return (f"no certificate: nothing says that this bundle equals its original; {HOW_TO_CERTIFY}",)
    warnings = []
    if not certificate.passed:
        missed = sorted({check.stage for check in certificate.worst if not check.passed})
        warnings.append(f"the certificate says that a bound was missed ({', '.join(missed) or 'no stage named'})")
    if certificate.foreign_files:
        names = ", ".join(certificate.foreign_files)
        warnings.append(f"the certificate is not of this bundle, these files differ: {names}; {HOW_TO_CERTIFY}")
    return tuple(warnings)


def _precision(manifest: Manifest, stage: str) -> str:
    """The stage's precision: that of the weights it shares, or of the KV cache that compaction moves."""
    whose = {"compact": "kv_cache", UPDATE_STAGE: "vision"}.get(stage, stage)
    found = manifest.precision.get(whose, "unknown")
    attention = manifest.precision.get("lower_attention", found) if stage == "lower" else found
    return found if attention == found else f"{found}, attention {attention}"
