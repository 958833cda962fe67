"""A dora node that answers questions about the newest image; see docs/use/robots.md for its inputs and outputs."""

from pathlib import Path

import click

from glimpse_runtime.adapters.dora import run


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="Bundle to ask; without it the packaged pocket model.")
@click.option("--timeout", type=float, default=1.0, help="Seconds per answer.")
@click.option("--max-keep-ratio", type=float, help="At most this share of visual tokens, 0..1.")
def main(bundle: Path | None, timeout: float, max_keep_ratio: float | None) -> None:
    """Runs the node inside a dataflow."""
    run(bundle, timeout, max_keep_ratio)


if __name__ == "__main__":
    main()
