"""The runtime: what turns several machines into one. In this version it knows where its state lives."""
