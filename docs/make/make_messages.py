"""Writes docs/use/messages.md: every error that glimpse-edge raises on purpose, out of its code.

python docs/make/make_messages.py
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "use" / "messages.md"
SOURCES = ("runtime/glimpse_runtime", "export/glimpse_export", "models/glimpse_models", "plugins/glimpse_plugins")
HEAD = """# Every error message

Failures are exceptions of one tree (`glimpse_runtime/errors.py`), and a command prints them as one line; `--debug`
shows where they come from. What stands in braces is filled in. This page is made from the code by
`python docs/make/make_messages.py`.
"""

ADVICE = {
    "BackendError": "Install or mend what the message names, or choose another `--device`; a message of the engine "
    "with a bundle that `glimpse-inspect --verify` calls whole is worth an issue.",
    "BudgetError": "Take one of the changes that the message lists, or a larger `--budget`.",
    "BuildError": "Build on the machine that runs the engines, with its TensorRT; `--debug` shows its log.",
    "BundleDamagedError": "Copy the bundle again, or export the model again; `glimpse-inspect --verify` checks a copy.",
    "BundleFormatError": "Export the model again with this version, or install the version that wrote the bundle.",
    "BundleNotFoundError": "Name the folder that holds `manifest.json`, or make one with `glimpse-export`.",
    "CertificateError": "Read which stage missed its bound in `certificate.json`, and export it in a higher precision.",
    "CheckpointError": "Download the checkpoint or adapter again, or name the one that belongs to the base.",
    "ExportError": "See the message; nothing that was there is lost, and what was finished is kept.",
    "HubError": "Check name and connection, then run it again; what has arrived is kept.",
    "HubUnreachableError": "Check the connection, or run it where the cache has the files.",
    "ImageError": "Look at what the camera or file gave: the accepted forms are in [the Python interface](runtime.md).",
    "InputError": "Change the option or value that the message names.",
    "ModelNotFoundError": "Choose a name of `glimpse-export --list`, a hub id or a folder.",
    "OutputError": "Choose another `--out`, or mend what the message says of this one.",
    "PluginError": "Install the compiler that the message names, or do without: the kernels only save time.",
    "PromptError": "Shorten the text, use fewer pixels, or export with a larger `--max-context`.",
    "PruningError": "Change the pruning option that the message names: [pruning methods](pruners.md).",
    "SessionError": "Load the bundle again, use one session per thread, or wait for the other request.",
    "UnsupportedError": "Take another checkpoint or option: this one asks for something that would change the answers.",
}


def page() -> str:
    """Returns the page."""
    found: dict[str, set[tuple[str, str]]] = {}
    for root in SOURCES:
        for path in sorted((ROOT / root).rglob("*.py")):
            if "pocket" in path.parts:  # training and evaluation are for developers
                continue
            for error, text in messages(ast.parse(path.read_text(encoding="utf-8"))):
                if error in ADVICE:
                    found.setdefault(error, set()).add((text, path.relative_to(ROOT / root).as_posix()))
    parts = [HEAD]
    for error, rows in sorted(found.items()):
        parts.append(f"\n## {error}\n\n{ADVICE[error]}\n\n| message | raised in |\n|---|---|\n")
        parts += [f"| {cell(text)} | `{where}` |\n" for text, where in sorted(rows)]
    return "".join(parts)


def messages(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yields class and text of the errors that are raised, or returned to be raised, with a text of their own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Error"):
            text = template(node.args[0]) if node.args else None
            if text:
                yield node.func.id, text


def template(node: ast.expr) -> str | None:
    """Returns a text as it stands in the code, with what is filled in in braces."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = []
    for value in node.values:
        if isinstance(value, ast.FormattedValue):
            parts.append("{" + ast.unparse(value.value) + "}")
        else:
            parts.append(str(value.value) if isinstance(value, ast.Constant) else "")
    # Of a text that is only what another function gives, there is nothing to say.
    return "".join(parts) if any(isinstance(value, ast.Constant) for value in node.values) else None


def cell(text: str) -> str:
    """Returns a text as it can stand in a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
