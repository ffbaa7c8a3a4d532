"""Training: recipes as data, and a trainer that runs them: dense, gate search, collapse, fine-tuning."""

from .data import Data
from .distributed import Ranks, join, synchronize
from .monitor import Monitor, read_log
from .picture import draw
from .recipe import Epoch, Recipe, plan
from .tasks import Classification, Segmentation, Task, distillation_loss
from .trainer import Trainer

__all__ = [
    "Classification",
    "Data",
    "Epoch",
    "Monitor",
    "Ranks",
    "Recipe",
    "Segmentation",
    "Task",
    "Trainer",
    "distillation_loss",
    "draw",
    "join",
    "plan",
    "read_log",
    "synchronize",
]
