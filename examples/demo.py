"""Asks the questions of ``questions.json`` about the example images, with and without pruning, and draws what was kept.

python examples/demo.py [--bundle DIR] [--out FOLDER]
"""

import json
from pathlib import Path

import click

from glimpse_runtime import Pruning, load
from glimpse_runtime.inputs.images import read_image
from glimpse_runtime.pruning.overlay import draw, save
from glimpse_runtime.stats import STAGES

EXAMPLES = Path(__file__).parent


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="Bundle to ask; without it the packaged pocket model.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-output"), help="Folder for the pictures.")
def main(bundle: Path | None, out: Path) -> None:
    """Runs the demo."""
    out.mkdir(parents=True, exist_ok=True)
    totals = dict.fromkeys(STAGES, 0.0)
    right = {"pruned": 0, "unpruned": 0}
    questions = json.loads((EXAMPLES / "questions.json").read_text(encoding="utf-8"))
    print(f"{'image':<16}{'question':<42}{'expected':<10}{'pruned':<10}{'unpruned':<10}{'visual tokens kept':>20}")
    with load(bundle) as vlm:
        for number, item in enumerate(questions):
            image = read_image(EXAMPLES / item["image"])
            answer = vlm.ask(image, item["question"])
            text = answer.text
            plain = vlm.ask(image, item["question"], pruning=Pruning(enabled=False)).text
            right["pruned"] += text == item["answer"]
            right["unpruned"] += plain == item["answer"]
            report = answer.pruning
            kept = f"{report.kept} of {report.total} ({report.kept_ratio:.1%})"
            print(f"{item['image']:<16}{item['question']:<42}{item['answer']:<10}{text:<10}{plain:<10}{kept:>20}")
            for stage, spent_ms in answer.stats.stage_ms.items():
                totals[stage] += spent_ms
            name = f"{number:02}-{Path(item['image']).stem}.png"
            save(draw(image, report.keep_masks[0], report.seen[0]), out / name)
    print(f"\nright: {right['pruned']} pruned, {right['unpruned']} unpruned, of {len(questions)}")
    means = ", ".join(f"{stage} {spent_ms / len(questions):.1f}" for stage, spent_ms in totals.items())
    print(f"mean stage times in ms, pruned: {means}")
    print(f"pictures of what was kept: {out}/")


if __name__ == "__main__":
    main()
