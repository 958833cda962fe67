"""The description of a model that graphs, plan and manifest follow, and how a family fills it in."""
