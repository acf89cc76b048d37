"""The runtime: what turns several machines into one. In this version it knows where its state lives."""

import os

# gRPC's C++ core writes its log to standard error, over whatever a terminal shows. What matters of it comes as an
# exception, and is said in the project's words. Read once, where gRPC is first imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
