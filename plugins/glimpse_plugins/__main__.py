"""``python -m glimpse_plugins``: builds the plugin's libraries into the cache and prints where they are."""

from pathlib import Path

import click

from glimpse_runtime.cli import terminal

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--architecture",
    "architectures",
    type=int,
    multiple=True,
    metavar="NUMBER",
    help="A GPU to build for, 87 for sm_87; may be given several times.  [default: this machine's GPU]",
)
@click.option("--all-architectures", is_flag=True, help="Build for every GPU that the CUDA compiler knows.")
@click.option(
    "--tensorrt-include",
    type=_FOLDER,
    help="Folder of NvInfer.h.  [default: $TENSORRT_INCLUDE_DIR, else the compiler's own folders]",
)
@click.option("--onnxruntime-include", type=_FOLDER, help="Folder of onnxruntime_c_api.h: its operator library, too.")
@click.option("--need-tensorrt", is_flag=True, help="Fail where TensorRT's headers are missing.")
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
def run(
    architectures: tuple[int, ...],
    all_architectures: bool,
    tensorrt_include: Path | None,
    onnxruntime_include: Path | None,
    need_tensorrt: bool,
    debug: bool,
) -> None:
    """Builds the compaction plugin for this machine into the cache, and prints the libraries' paths."""
    from glimpse_plugins.build import build_onnxruntime, build_plugin
    from glimpse_plugins.toolchain import find_nvcc, nvcc_architectures

    chosen = nvcc_architectures(find_nvcc()) if all_architectures else list(architectures)
    plugin = build_plugin(chosen, tensorrt_include, need_tensorrt)
    terminal.note(f"kernels for {', '.join(f'sm_{number}' for number in plugin.architectures)}")
    if plugin.tensorrt is None:
        terminal.note("no TensorRT headers: no TensorRT plugin; name their folder with --tensorrt-include")
    else:
        terminal.note(f"TensorRT plugin, by the headers of {plugin.tensorrt}")
    click.echo(plugin.library)
    if onnxruntime_include is not None:
        click.echo(build_onnxruntime(onnxruntime_include, chosen).library)


if __name__ == "__main__":
    terminal.run(run, name="python -m glimpse_plugins")
