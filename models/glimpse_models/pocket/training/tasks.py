"""The objectives by name."""

from __future__ import annotations

from glimpse_models.pocket.training.objectives import AnswerTask, GlimpseTask, Task, VisionTask
from glimpse_models.pocket.training.plan import Objective
from glimpse_models.pocket.training.plus import PlusTask
from glimpse_models.pocket.training.prepruned import PrePrunedTask

TASKS: dict[Objective, type[Task]] = {
    "vision": VisionTask,
    "answers": AnswerTask,
    "glimpse": GlimpseTask,
    "plus": PlusTask,
    "prepruned": PrePrunedTask,
}
