"""How the reference calls transformers."""

import pytest

torch = pytest.importorskip("torch")

from glimpse_export.certify.reference.base import Cache, Layer  # noqa: E402


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_layer_gets_the_cache_by_the_name_that_transformers_gave(name: str) -> None:
    """The name has changed with transformers 5.24."""
    given: dict[str, object] = {}

    class Stub(torch.nn.Module):
        def forward(self, hidden: torch.Tensor, **kwargs: object) -> torch.Tensor:
            given.update(kwargs)
            return hidden

    cache = Cache()
    Layer((), "", Stub(), (), {"cache": None} if name == "cache" else {})(torch.zeros(1), {}, cache)
    assert given == {name: cache}
