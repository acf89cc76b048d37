"""python -m cluster.emulation.worker HOME NODE_ID NAME HOST,...: a worker of emulated, stretched and real models."""

from __future__ import annotations

from cluster.emulation import emulated, scenario, stretched
from cluster.worker import loading
from cluster.worker.loading import Loaded
from cluster.worker.node_files import NodeFiles, Progress
from cluster.worker.process import main
from cluster.worker.role import Role
from mlx_moe.checkpoint.held import Held


def load(files: NodeFiles, role: Role, progress: Progress, draft: str, held: Held) -> Loaded:
    """Load a role's part of a model; the prefix of the name tells an emulated, a stretched or a real one."""
    match files.model.partition(":")[0]:
        case scenario.KIND:
            return emulated.load(files.model, role)
        case stretched.KIND:
            return stretched.load(files.model, role, progress, draft, held)
        case _:
            return loading.load(files, role, progress, draft, held)


if __name__ == "__main__":
    main(load)
