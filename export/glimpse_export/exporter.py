"""Runs a plan stage by stage; what is finished is kept, and the bundle appears whole or not at all."""

import dataclasses
import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from glimpse_export.certify import certify, command, require_libraries
from glimpse_export.errors import ModelNotFoundError, OutputError
from glimpse_export.forecast.budget import require_fit
from glimpse_export.graphs.builder import stage_spec
from glimpse_export.planning.known import known_plan
from glimpse_export.planning.make import make_plan
from glimpse_export.planning.options import ExportOptions
from glimpse_export.planning.plan import Plan
from glimpse_export.source.hashes import file_spec
from glimpse_export.source.tokenizer import TOKENIZER
from glimpse_export.source.trained_pruners import copy_files
from glimpse_export.write.manifest import draft_manifest, without_files
from glimpse_export.write.output import checked_output, is_taken, missing_bytes, require_replaceable
from glimpse_export.write.runner import StageRunner
from glimpse_export.write.sources import read_sources
from glimpse_export.write.stages import WEIGHT_STAGES, weight_bytes
from glimpse_export.write.stamps import certifier_code, stamp_of, writers_code
from glimpse_export.write.work import WorkFolder, stage_folder
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.certificate import CERTIFICATE_NAME
from glimpse_runtime.bundle.dialects import stage_and_dialect
from glimpse_runtime.bundle.manifest import MANIFEST_NAME, FileSpec, Manifest, StageSpec
from glimpse_runtime.errors import BundleDamagedError, BundleFormatError, HubUnreachableError
from glimpse_runtime.files.atomic import write_text
from glimpse_runtime.files.reading import read_small_text

Progress = Callable[[str], None]

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@dataclass(frozen=True)
class Outcome:
    """What an export has done.

    Attributes:
        folder: the absolute folder of the bundle.
        built: the stages that were built; none when the bundle was there already and nothing has changed.
        taken_over: the stages that an earlier, interrupted export had finished.
    """

    folder: Path
    built: tuple[str, ...] = ()
    taken_over: tuple[str, ...] = ()

    @property
    def unchanged(self) -> bool:
        """Whether there was nothing to do."""
        return not self.built and not self.taken_over


def plan(options: ExportOptions) -> Plan:
    """Resolves a model, reads its configuration and headers, and checks that it can be exported.

    Raises:
        ExportError: anything that would make the export fail later, or more memory at run time than its budget.
    """
    checked = make_plan(options)
    if options.budget is not None:
        require_fit(checked, options.budget)
    return checked


def forecast(options: ExportOptions) -> Plan:
    """Returns the plan, of a named model whose files cannot be reached from its known sizes (``Plan.is_known``).

    Raises:
        ExportError: see ``plan``; files that can be reached and are wrong are refused as there.
    """
    try:
        return plan(options)
    except ModelNotFoundError as error:
        known = known_plan(options) if _is_unreachable(error) else None
        if known is None:
            raise
    if options.budget is not None:
        require_fit(known, options.budget)
    return known


def _is_unreachable(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, HubUnreachableError):
        error = error.__cause__
    return error is not None


def export(options: ExportOptions, out: Path, progress: Progress = lambda message: None) -> Path:
    """Exports a model to a bundle; see ``carry_out``, which also says what was done.

    Returns:
        The absolute folder.
    """
    return carry_out(options, out, progress).folder


def carry_out(options: ExportOptions, out: Path, progress: Progress = lambda message: None) -> Outcome:
    """Exports a model to a bundle.

    Args:
        options: what to export.
        out: the bundle's folder; it appears when everything is written and hashed. Through a link, the folder it
            leads to is meant. When the same bundle is there already, nothing is done.
        progress: called with a line of text at the start of each step.

    Raises:
        ExportError: it cannot be done, and nothing that was there is lost. What was finished stays in a hidden folder
            beside ``out``, and the next export takes it over.
    """
    try:
        out = out.expanduser().absolute()
    except RuntimeError as error:  # ~somebody who is not known here
        raise OutputError(f"cannot write {out}: {error}; name the folder without ~") from None
    place = checked_output(out)
    with _explained(out), WorkFolder.opened(place) as work:
        checked_output(out)  # once more: an interrupted export's replacement may have been undone
        if options.certify != "off":
            require_libraries()
        progress("reading configuration and tensor headers")
        checked = plan(options)
        draft = _draft(checked, progress)
        if options.force:
            work.start_over()
        elif is_taken(place):
            _require_same(place, draft, out)
            work.clear()
            return Outcome(out)
        runner = StageRunner(work.path, progress)
        with _room(checked, work, draft.stamps, out):
            write_bundle(checked, draft, work, runner, progress)
            work.put_in_place(partial(require_replaceable, place, force=options.force))
        Bundle(place, _read_manifest(place)).mark_as_verified()
    return Outcome(out, tuple(runner.built), tuple(runner.taken_over))


def write_bundle(checked: Plan, draft: Manifest, work: WorkFolder, runner: StageRunner, progress: Progress) -> None:
    """Builds or takes over all stages, and puts them together in the work folder."""
    for stage in WEIGHT_STAGES:
        runner.run(stage.name, draft.stamps[stage.name], partial(stage.build, checked))
    if checked.options.tokenizer:
        runner.run("tokenizer", draft.stamps["tokenizer"], partial(_build_tokenizer, checked))
    if checked.pruners:
        runner.run("pruners", draft.stamps["pruners"], partial(copy_files, checked.pruners))
    folder = work.assemble(runner.paths)
    graphs: dict[str, dict[str, StageSpec]] = {name: {} for name in checked.options.dialects}
    for path in runner.paths.values():
        if path.suffix == ".onnx":
            name, dialect = stage_and_dialect(path.stem)
            graphs[dialect][name] = stage_spec(path)
    manifest = dataclasses.replace(draft, graphs=graphs, files=dict(sorted(runner.files.items())))
    if checked.options.certify != "off":
        build = partial(_build_certificate, checked, folder, manifest, progress)
        runner.run("certificate", draft.stamps["certificate"], build)
        work.add(folder, runner.paths[CERTIFICATE_NAME])
        manifest = dataclasses.replace(manifest, files=dict(sorted(runner.files.items())))
    write_text(folder / MANIFEST_NAME, manifest.to_json())


def _draft(checked: Plan, progress: Progress) -> Manifest:
    """Returns the manifest as far as it is known, with the stamp of every stage."""
    sources = read_sources(checked, progress)
    stamps = {stage.name: stamp_of(stage.name, stage.stamp_facts(checked, sources)) for stage in WEIGHT_STAGES}
    if sources.tokenizer is not None:
        made_of = {"file": sources.tokenizer, "image": checked.architecture.tokens.image}
        stamps["tokenizer"] = stamp_of("tokenizer", {**made_of, "code": writers_code(checked.family)})
    if sources.pruners:
        stamps["pruners"] = stamp_of("pruners", {"files": sources.pruners})
    level = checked.options.certify
    if level != "off":
        facts = {"stages": stamps, "command": command(checked, level), "code": certifier_code(checked.family)}
        stamps["certificate"] = stamp_of("certificate", facts)
    return draft_manifest(checked, sources, stamps, checked.prompt)


def _build_tokenizer(checked: Plan, folder: Path) -> dict[str, FileSpec]:
    checked.family.write_tokenizer(checked.folders.base, checked.architecture, folder / TOKENIZER)
    return {TOKENIZER: file_spec(folder / TOKENIZER)}


def _build_certificate(
    checked: Plan, bundle: Path, manifest: Manifest, progress: Progress, folder: Path
) -> dict[str, FileSpec]:
    certify(checked, bundle, manifest, checked.options.certify, progress, folder)
    return {CERTIFICATE_NAME: file_spec(folder / CERTIFICATE_NAME)}


def _require_same(place: Path, draft: Manifest, out: Path) -> None:
    """Raises an OutputError unless a place holds just the bundle that would be written there."""
    try:
        same = without_files(Bundle.open(place).manifest) == draft
    except BundleFormatError:  # another version's
        same = False
    except BundleDamagedError as error:
        raise OutputError(f"{out} is a damaged bundle ({error}); replace it with --force") from None
    if not same:
        raise OutputError(
            f"{out} is a bundle already, of another model, options or version; replace it with --force or choose "
            "another --out"
        )


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    return Manifest.from_json(read_small_text(path), str(path))


@contextmanager
def _room(checked: Plan, work: WorkFolder, stamps: Mapping[str, str], out: Path) -> Iterator[None]:
    """Refuses to start what does not fit on the disk, and says how much is missing when that turns out later."""
    sizes = weight_bytes(checked)
    files = {stage_folder(work.path, s.name, stamps[s.name]) / s.file: sizes[s.file] for s in WEIGHT_STAGES}
    advice = "free it and run the same command again, or choose another --out or a smaller --precision"
    if missing_bytes(work.place, files):
        work.keep_only(stamps)
    missing = missing_bytes(work.place, files)
    if missing:
        raise OutputError(f"cannot write {out}: its disk lacks {missing / 1e6:,.0f} MB; {advice}")
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        missing = missing_bytes(work.place, files)
        raise OutputError(
            f"cannot write {out}: the disk is full, about {missing / 1e6:,.0f} MB are missing; {advice}; "
            f"what is finished stays in {work.path}"
        ) from None


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {out}: {error.strerror or error}; what was finished is kept, run the same command again "
            "to go on"
        ) from None
