"""Gateway: the HTTP APIs of OpenAI, Anthropic and Ollama, in a process of its own beside a node's daemon.

One module for each API; each turns a request into a `Question`, and the answer's pieces into the API's own shape.
"""
