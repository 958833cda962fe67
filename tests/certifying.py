"""Bundles that tests certify themselves, and mistakes put into them or into the code."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from glimpse_export import ExportOptions, export, plan
from glimpse_export.certify import certify
from glimpse_export.errors import CertificateError
from glimpse_runtime.bundle.certificate import CERTIFICATE_NAME, Certificate
from glimpse_runtime.bundle.manifest import MANIFEST_NAME, Manifest


@dataclasses.dataclass
class Written:
    """A bundle that was not certified yet."""

    options: ExportOptions
    folder: Path

    @classmethod
    def export(cls, options: ExportOptions, out: Path) -> "Written":
        """Exports without certifying."""
        chosen = dataclasses.replace(options, certify="off")
        return cls(chosen, export(chosen, out))

    def certify(self, level: str = "quick") -> Certificate:
        """Certifies what lies in the folder now."""
        manifest = Manifest.from_json((self.folder / MANIFEST_NAME).read_text(), "manifest")
        return certify(plan(self.options), self.folder, manifest, level, lambda message: None)

    def failure(self, level: str = "quick") -> str:
        """Returns what the certification complains of."""
        with pytest.raises(CertificateError) as caught:
            self.certify(level)
        assert json.loads((self.folder / CERTIFICATE_NAME).read_text())["passed"] is False
        return str(caught.value)

    def corrupt(self, graph: str, weight: str, change: Callable[[bytes], bytes]) -> None:
        """Changes the first bytes of a weight in its file."""
        proto = onnx.load(self.folder / graph, load_external_data=False).graph
        tensor = next(tensor for tensor in proto.initializer if tensor.name == weight)
        place = {entry.key: entry.value for entry in tensor.external_data}
        with (self.folder / place["location"]).open("r+b") as file:
            file.seek(int(place["offset"]))
            found = file.read(8)
            file.seek(int(place["offset"]))
            file.write(change(found))

    def change_manifest(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Changes fields of the manifest."""
        path = self.folder / MANIFEST_NAME
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))


def sabotage(patch: pytest.MonkeyPatch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replaces a function by ``change``, which gets the original before its arguments."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: change(original, *args, **kwargs))
