"""The certificate as a stage of an export: interrupted, missed, or impossible for want of a library."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

from support.bundles import STAGES, options, work_of

from glimpse_export import ExportError, OutputError
from glimpse_export.errors import CertificateError
from glimpse_export.exporter import Outcome, carry_out
from glimpse_runtime.bundle.bundle import Bundle


def certified(model: Path, out: Path) -> Outcome:
    return carry_out(options(model, certify="quick"), out)


def test_a_certificate_is_a_stage_like_any_other(model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from glimpse_export.certify.walk import Walk

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Walk, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            certified(model, out)
    outcome = certified(model, out)
    assert outcome.built == ("certificate",)
    assert outcome.taken_over == STAGES
    assert "certificate.json" in Bundle.open(out).manifest.files
    assert certified(model, out).unchanged
    with pytest.raises(OutputError, match="other"):
        carry_out(options(model), out)


def test_a_missed_bound_keeps_the_work_and_says_where(model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from glimpse_export.graphs.decoder import DecoderAuthor

    norm = DecoderAuthor._norm
    monkeypatch.setattr(DecoderAuthor, "_norm", lambda self, g, x, name: norm(self, g, g.op("Neg", x), name))
    with pytest.raises(CertificateError, match="layer 0") as caught:
        certified(model, out)
    assert not out.exists()
    certificate = next(work_of(out).glob("certificate-*/certificate.json"))
    assert str(certificate) in str(caught.value)
    assert json.loads(certificate.read_text())["passed"] is False
    assert list(work_of(out).glob("text-*/lower.onnx"))


def test_what_certification_needs_is_missed_before_the_work(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ExportError, match=r"transformers.*--certify off"):
        certified(model, out)
    assert not work_of(out).exists() or not list(work_of(out).glob("*-*"))
    carry_out(options(model), out)
