"""Options that an unset variable of the shell leaves empty."""

import pytest
from support.commands import Command


@pytest.mark.parametrize(
    "option", ["--model", "--adapter", "--lora", "--vision-tower", "--revision", "--bundle", "--out"]
)
@pytest.mark.parametrize("word", ["", "  "])
def test_an_empty_option_is_a_mistake_of_usage(command: Command, option: str, word: str) -> None:
    named = () if option in ("--model", "--bundle") else ("--model", "pocket")
    done = command("glimpse_export.cli.export", *named, "--dry-run", option, word)
    assert done.returncode == 2
    assert f"{option} is empty (an unset variable of the shell?)" in done.stderr
