"""Links of the documents lead somewhere, and the options that they name exist."""

import re

from support.places import ROOT


def test_links_of_the_documents_lead_somewhere() -> None:
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    for document in documents:
        for link in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_documented_options_exist() -> None:
    from glimpse_export.cli.export import run as export_command
    from glimpse_runtime.cli.inspect import run as inspect_command
    from glimpse_runtime.cli.run import run as run_command

    commands = (run_command, export_command, inspect_command)
    known = {option for command in commands for p in command.params for option in p.opts}
    known |= {"--help", "--extra"}
    text = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    for block in re.findall(r"glimpse-(?:run|export|inspect)[^\n`]*", text):
        for option in re.findall(r"(--[a-z][a-z-]+)", block):
            assert option in known, f"{option} in: {block}"
