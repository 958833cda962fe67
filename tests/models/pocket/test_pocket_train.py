# ruff: noqa: E402
"""Training of pocket: a tiny run goes through all phases, resumes where it stopped, and exports."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
for package in ("skimage", "sklearn", "matplotlib"):
    pytest.importorskip(package)

from glimpse_models.pocket.checkpoint import export_run, read_checkpoint
from glimpse_models.pocket.train import parse_args, planned
from glimpse_models.pocket.training.plan import PLAN, PLUS, PREPRUNED, SMOKE
from glimpse_models.pocket.training.trainer import Settings, run_worker

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def settings(folder, *steps):
    options = parse_args(["--out", str(folder), "--smoke", *(f"--steps={item}" for item in steps)])
    return Settings(folder, planned(options), 1, 0, 1, compiled=False, only=None, rendezvous=folder / "unused")


def test_training_resumes_and_exports(tmp_path):
    run_worker(0, settings(tmp_path, "vision=1", "answers=2", "glimpse=1"))
    first = torch.load(tmp_path / "state.pt", weights_only=True)
    assert first["done"] == {"vision": 1, "answers": 2, "glimpse": 1}
    run_worker(0, settings(tmp_path, "vision=1", "answers=2", "glimpse=2"))
    second = torch.load(tmp_path / "state.pt", weights_only=True)
    assert second["done"]["glimpse"] == 2
    for name, tensor in first["weights"]["model"].items():
        assert torch.equal(tensor, second["weights"]["model"][name]), "the base model is frozen in the glimpse phase"
    changed = [
        name
        for name, tensor in first["weights"]["glimpse"].items()
        if not torch.equal(tensor, second["weights"]["glimpse"][name])
    ]
    assert len(changed) == len(first["weights"]["glimpse"])
    log = (tmp_path / "log.txt").read_text()
    assert "continuing after" in log
    assert "min left" in log
    model, modules = read_checkpoint(export_run(tmp_path, tmp_path / "checkpoint"))
    weight = second["weights"]["model"]["lm_head.weight"]
    torch.testing.assert_close(model.lm_head.weight, weight, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(modules.vectors(), modules.vectors())


def test_plans_learn_in_the_same_order():
    assert [phase.objective for phase in PLAN] == [phase.objective for phase in SMOKE]
    for phase in (*PLAN, *SMOKE, PLUS, PREPRUNED):
        specs = phase.specs()
        assert len(specs) == phase.steps
        assert all(spec.height % 112 == spec.width % 112 == 0 for spec in specs)


def test_unknown_phases_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="no phase named sleep"):
        planned(parse_args(["--out", str(tmp_path), "--steps", "sleep=3"]))
    with pytest.raises(SystemExit):
        parse_args(["--out", str(tmp_path), "--only", "plus"])
