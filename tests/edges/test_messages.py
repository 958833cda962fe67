"""Every error says what to do, and the page that lists them is that of the code."""

import importlib.util
from types import ModuleType

import pytest
from support.places import ROOT

import glimpse_export.errors
import glimpse_plugins.errors
import glimpse_runtime.errors
from glimpse_runtime import GlimpseError


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_messages", ROOT / "docs" / "make" / "make_messages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_from_the_code(maker: ModuleType) -> None:
    assert maker.PAGE.read_text(encoding="utf-8") == maker.page(), "run python docs/make/make_messages.py"


def test_every_class_of_the_tree_says_what_to_do(maker: ModuleType) -> None:
    modules = (glimpse_runtime.errors, glimpse_export.errors, glimpse_plugins.errors)
    names = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, GlimpseError)
    }
    # Bases of others, which are not raised themselves.
    assert names - set(maker.ADVICE) == {"GlimpseError", "BundleError"}
