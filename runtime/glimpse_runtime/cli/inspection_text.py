"""An inspection as text for people."""

import re
from collections.abc import Iterable, Iterator

from glimpse_runtime.bundle.certificate import Check
from glimpse_runtime.bundle.manifest import TensorSpec
from glimpse_runtime.inspection import CertificateReport, Inspection

_CACHE_TENSOR = re.compile(r"(past|present)\.(\d+)\.(?:key|value)")


def as_text(found: Inspection) -> str:
    """Returns the lines that ``glimpse-inspect`` prints."""
    return "\n".join(line for part in _parts(found) for line in part)


def _parts(found: Inspection) -> Iterator[Iterable[str]]:
    model, source = found.model, found.model.source
    stages = {name for graphs in found.graphs.values() for name in graphs}
    yield _rows(
        [
            ("bundle", f"{found.folder}, format {found.format_version}, by glimpse-edge {found.exporter}"),
            ("model", f"{model.name} ({model.architecture})"),
            ("licence", model.licence),
            ("base", f"{source.base}, sha256 {source.base_sha256}"),
            *([("lora", f"{source.lora}, sha256 {source.lora_sha256}")] if source.lora else []),
            ("adapter", f"{source.adapter}, sha256 {source.adapter_sha256}" if source.adapter else "none"),
            ("dialects", ", ".join(found.dialects)),
            ("layers", f"{found.layers}, of which 0..{found.lower_layers - 1} see all visual tokens"),
            ("pruning", f"after layer K = {found.reduce_layer}, from attention in {_listed(found.selected_layers)}"),
            ("learned", ", ".join(found.learned) or "no pruning method has trained weights"),
            *((name, kind) for name, kind in found.precision.items() if name not in {*stages, "lower_attention"}),
            ("takes", "text" if found.tokenizer else "token ids only, it has no tokenizer"),
        ]
    )
    for dialect, graphs in found.graphs.items():
        yield "", f"graphs of {dialect}"
        for name, stage in graphs.items():
            yield (f"  {name:<13}{stage.file}, {stage.precision}",)
            for way, tensors in (("in", stage.inputs), ("out", stage.outputs)):
                yield _tensors(way, tensors)
    yield "", "profiles         smallest      usual    largest"
    yield [f"  {name:<13}{p.min:>10,}{p.opt:>11,}{p.max:>11,}" for name, p in found.profiles.items()]
    yield "", "files"
    yield [f"  {name:<22}{spec.bytes:>18,}  {spec.sha256[:16]}" for name, spec in found.files.items()]
    yield (f"  {'total':<22}{found.total_bytes:>18,}  {_megabytes(found.total_bytes)}",)
    yield "", "memory at run time"
    yield _rows([(f"  {name.removesuffix('_bytes')}", _megabytes(size)) for name, size in found.memory.items()])
    yield ("",)
    yield _certificate(found.certificate)


def _rows(rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    return [f"{name:<15}{value}" for name, value in rows]


def _tensors(way: str, tensors: Iterable[TensorSpec]) -> Iterator[str]:
    """Tensors of the KV cache come once per layer and kind; they are shown in one line."""
    groups: dict[tuple[str, str, tuple[int | str, ...]], list[TensorSpec]] = {}
    for tensor in tensors:
        groups.setdefault(_shown_as(tensor), []).append(tensor)
    for (label, dtype, shape), same in groups.items():
        found = _CACHE_TENSOR.fullmatch(same[0].name)
        if found and len(same) > 1:
            layers = sorted({int(tensor.name.split(".")[1]) for tensor in same})
            kinds = "/".join(dict.fromkeys(tensor.name.rpartition(".")[2] for tensor in same))
            label = f"{found[1]}.{layers[0]}..{layers[-1]}.{kinds}"
        yield f"    {way:<4}{label:<24}{dtype} ({', '.join(map(str, shape))})"


def _shown_as(tensor: TensorSpec) -> tuple[str, str, tuple[int | str, ...]]:
    found = _CACHE_TENSOR.fullmatch(tensor.name)
    return found[1] if found else tensor.name, tensor.dtype, tensor.shape


def _certificate(certificate: CertificateReport | None) -> Iterator[str]:
    if certificate is None:
        yield "no certificate"
        return
    verdict = "passed" if certificate.passed else "NOT PASSED"
    versions = ", ".join(f"{name} {version}" for name, version in certificate.versions.items())
    yield f"certificate    {certificate.level}, {verdict}"
    yield from _rows([("  made by", certificate.command), ("  with", versions)])
    yield from map(_check, certificate.worst)


def _check(check: Check) -> str:
    bound = "no bound" if check.bound is None else f"bound {check.bound:.4g}"
    layer = "" if check.layer is None else f", worst in layer {check.layer}"
    # Which tensor it is about matters only where something is wrong with it.
    measure = check.measure.partition(" ")[0] if check.passed else check.measure
    missed = "" if check.passed else " MISSED"
    return f"  {check.stage:<16}{measure:<27} {check.value:.4g} ({bound}{layer}){missed}"


def _listed(layers: Iterable[int]) -> str:
    return f"layers {', '.join(map(str, layers))}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
