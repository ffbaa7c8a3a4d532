"""One process of a training: run with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, and a folder."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "models")]

import torch  # noqa: E402

from onnxshrink.gates.training import join  # noqa: E402
from tests.gates.training_cases import trainer  # noqa: E402

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    ranks = join("cpu")
    run = trainer(Path(sys.argv[1]), ranks=ranks)
    run.fit()
    state = {name: value.clone() for name, value in run.gated.state_dict().items()}
    torch.save(state, Path(sys.argv[1]) / f"rank{ranks.rank}.pt")
    if ranks.world > 1:
        torch.distributed.destroy_process_group()
