"""python -m cluster.worker HOME NODE_ID NAME HOST,... [--insecure]: a worker for models on this machine."""

from cluster.worker.loading import load
from cluster.worker.process import main

if __name__ == "__main__":
    main(load)
