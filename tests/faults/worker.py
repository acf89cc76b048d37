"""python -m tests.faults.worker HOME NODE_ID NAME HOST,...: a worker that dials through its test's proxy."""

from cluster.worker.loading import load
from cluster.worker.process import main
from tests.faults import stuck, way_out

if __name__ == "__main__":
    way_out.use()
    stuck.use()
    main(load)
