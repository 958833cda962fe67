"""Checks a written bundle against the original, stage by stage, and writes down what was found."""

import shlex
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from glimpse_export.certify.measures.record import (
    DIFFERENT_TEXTS,
    DIFFERENT_TOKENS,
    DIFFERENT_WORDS,
    NON_FINITE,
    Recorder,
    Stop,
)
from glimpse_export.errors import CertificateError
from glimpse_export.planning.plan import Plan
from glimpse_export.weights.precision import Precision
from glimpse_runtime._version import __version__
from glimpse_runtime.bundle.certificate import CERTIFICATE_NAME, CERTIFICATE_VERSION, Certificate, Check
from glimpse_runtime.bundle.dialects import stage_and_dialect
from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.files.atomic import write_text

_PACKAGES = ("torch", "transformers", "onnxruntime", "onnx_ir", "numpy")


def certify(
    checked: Plan,
    folder: Path,
    manifest: Manifest,
    level: str,
    progress: Callable[[str], None],
    place: Path | None = None,
) -> Certificate:
    """Checks a bundle and writes ``certificate.json``.

    Args:
        checked: the plan it was written from.
        folder: the bundle, complete but for certificate and manifest.
        manifest: what its manifest will say; the hashes of its files go into the certificate.
        level: ``quick``, or ``full`` with more images and prompts and several tokens of the answer.
        progress: called with a line of text at the start of each step.
        place: the folder to write it to; None is the bundle's.

    Returns:
        The certificate.

    Raises:
        CertificateError: a bound was missed; the certificate says so too.
    """
    from glimpse_export.certify.walk import walk

    recorder = Recorder()
    try:
        walk(checked, folder, manifest, level, recorder, progress)
    except Stop as stop:
        if str(stop):
            recorder.checks.append(Check("graphs", None, str(stop), 1.0, 0.0, False))
    certificate = Certificate(
        CERTIFICATE_VERSION,
        level,
        all(check.passed for check in recorder.checks),
        command(checked, level),
        _versions(),
        dict(manifest.precision),
        {name: spec.sha256 for name, spec in sorted(manifest.files.items()) if name != CERTIFICATE_NAME},
        tuple(recorder.checks),
        manifest.content_sha256,
    )
    path = (place or folder) / CERTIFICATE_NAME
    write_text(path, certificate.to_json())
    failure = certificate.first_failure
    if failure is not None:
        raise CertificateError(describe(failure, certificate, path), certificate)
    return certificate


def describe(failure: Check, certificate: Certificate, path: Path) -> str:
    """Says which check failed, where, and what to do."""
    where = failure.stage if failure.layer is None else f"{failure.stage}, layer {failure.layer}"
    count = sum(not check.passed for check in certificate.checks)
    others = f" ({count - 1} more checks failed)" if count > 1 else ""
    if failure.measure == NON_FINITE:
        what = "values are not finite: the precision's range is exceeded"
    else:
        what = f"{failure.measure} is {failure.value:g}, allowed is {failure.bound:g}"
    if failure.measure in (DIFFERENT_TOKENS, DIFFERENT_WORDS, DIFFERENT_TEXTS):
        return (
            f"the bundle does not read text as transformers does with the checkpoint's files: {what}{others}; see "
            f"{path}; copy the base's tokenizer files and chat_template, or save both again with transformers"
        )
    stage, _ = stage_and_dialect(failure.stage)
    return (
        f"the bundle does not compute what the checkpoint does: {where}: {what}{others}; see {path}, "
        f"or export {stage if stage in certificate.precision else 'the model'} in a higher precision"
    )


def command(checked: Plan, level: str) -> str:
    """Returns the line that makes the export again, without --out and without paths of this machine."""
    options, folders = checked.options, checked.folders
    from glimpse_models import find

    facts = find(options.model)
    named = facts is not None and folders.name == facts.name
    words = ["glimpse-export", "--model", folders.name if named else folders.base_source]
    if options.adapter or not named:
        words += ["--adapter", folders.adapter_source]
    if options.lora and folders.lora_source:
        words += ["--lora", folders.lora_source]
    if options.vision_tower and folders.tower_source:
        words += ["--vision-tower", folders.tower_source]
    for part in Precision.parts():
        words += [f"--{part.replace('_', '-')}-precision", getattr(options.precision, part)]
    for name in ("max_context", "max_visual_tokens"):
        if getattr(options, name) is not None:
            words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    if options.head_parts > 1:
        words += ["--head-parts", str(options.head_parts)]
    for name in options.dialects:
        words += ["--dialect", name]
    words += ["--certify", level]
    return shlex.join([*words, *([] if options.tokenizer else ["--no-tokenizer"])])


def _versions() -> dict[str, str]:
    found = {"glimpse-edge": __version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found
