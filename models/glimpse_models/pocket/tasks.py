"""The objectives by name."""

from __future__ import annotations

from glimpse_models.pocket.objectives import AnswerTask, GlimpseTask, Task, VisionTask
from glimpse_models.pocket.plan import Objective
from glimpse_models.pocket.plus import PlusTask
from glimpse_models.pocket.prepruned import PrePrunedTask

TASKS: dict[Objective, type[Task]] = {
    "vision": VisionTask,
    "answers": AnswerTask,
    "glimpse": GlimpseTask,
    "plus": PlusTask,
    "prepruned": PrePrunedTask,
}
