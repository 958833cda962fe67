"""Writes docs/use/commands.md from the commands' own help; a test fails when the file is out of date.

python docs/make/make_commands.py
"""

from pathlib import Path

import click

from glimpse_export.cli.export import run as export
from glimpse_runtime.cli.inspect import run as inspect
from glimpse_runtime.cli.run import run

PAGE = Path(__file__).parents[1] / "use" / "commands.md"
HEAD = """# Commands

Made by `python docs/make/make_commands.py` from the commands' own help.

Exit status: 0 done, 1 failure, 2 wrong usage, 130 interrupted. Answers and results go to standard output, everything
else to standard error. Shell completion: `eval "$(_GLIMPSE_RUN_COMPLETE=bash_source glimpse-run)"` (or `zsh_source`,
`fish_source`), the same with `_GLIMPSE_EXPORT_COMPLETE` and `_GLIMPSE_INSPECT_COMPLETE`.
"""


def render() -> str:
    """Returns the document."""
    text = HEAD
    for name, command in (("glimpse-run", run), ("glimpse-export", export), ("glimpse-inspect", inspect)):
        context = click.Context(command, info_name=name, terminal_width=100, **command.context_settings)
        text += f"\n## {name}\n\n```\n{command.get_help(context)}\n```\n"
    return text


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
