"""connect: the lines that make a program use this cluster's APIs."""

from __future__ import annotations

import shlex

from cli.failures import print_line
from cluster.client import GatewayOptions, OwnNode
from cluster.errors import NoClusterError
from cluster.gateway.served import name_of
from cluster.home import Home
from mlx_moe.errors import InvalidRequestError

ANY_KEY = "none"
"""Programs that demand a key get this one; a gateway that needs none does not look at it."""

_OPENAI = """\
from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="{key}")
answer = client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}])
print(answer.choices[0].message.content)"""

_ANTHROPIC = """\
from anthropic import Anthropic

client = Anthropic(base_url="{url}", api_key="{key}")
question = {{"role": "user", "content": "Hello"}}
print(client.messages.create(model="{model}", max_tokens=1000, messages=[question]).content[0].text)"""

_LANGCHAIN = """\
from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url="{url}/v1", api_key="{key}", model="{model}")
print(model.invoke("Hello").content)"""

_CLAUDE_CODE = """\
export ANTHROPIC_BASE_URL={url}
export ANTHROPIC_AUTH_TOKEN={key}
export ANTHROPIC_MODEL={model_word}
export ANTHROPIC_SMALL_FAST_MODEL={model_word}
claude"""

_CODEX = """\
# in ~/.codex/config.toml
model = "{model}"
model_provider = "moe-cluster"

[model_providers.moe-cluster]
name = "moe-cluster"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "MOE_CLUSTER_KEY"

# then, in the shell
export MOE_CLUSTER_KEY={key}
codex"""

_OPEN_WEBUI = """\
docker run -d -p 3000:8080 --add-host=host.docker.internal:host-gateway \\
  -e OPENAI_API_BASE_URL={url}/v1 -e OPENAI_API_KEY={key} \\
  -v open-webui:/app/backend/data ghcr.io/open-webui/open-webui:main
# a container reaches this machine as host.docker.internal: serve with --host 0.0.0.0, a key, and that name"""

_CONTINUE = """\
# in ~/.continue/config.yaml, under models
  - name: {model}
    provider: openai
    model: {model}
    apiBase: {url}/v1
    apiKey: {key}
    roles: [chat, edit, apply]"""

_AIDER = """\
export OPENAI_API_BASE={url}/v1
export OPENAI_API_KEY={key}
aider --model {aider_word}"""

_CLINE = """\
# in Cline's settings
API Provider: OpenAI Compatible
Base URL:     {url}/v1
API Key:      {key}
Model ID:     {model}"""

_ZED = """\
// in Zed's settings.json; the key {key} is asked for in the agent panel
"language_models": {{
  "openai_compatible": {{
    "moe-cluster": {{
      "api_url": "{url}/v1",
      "available_models": [{{ "name": "{model}", "max_tokens": {context} }}]
    }}
  }}
}}"""

_OLLAMA = """\
export OLLAMA_HOST={url}
ollama run {model_word}"""

_CURL = """\
curl {url}/v1/chat/completions -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""

PROGRAMS = {
    "aider": _AIDER,
    "anthropic": _ANTHROPIC,
    "claude-code": _CLAUDE_CODE,
    "cline": _CLINE,
    "codex": _CODEX,
    "continue": _CONTINUE,
    "curl": _CURL,
    "langchain": _LANGCHAIN,
    "ollama": _OLLAMA,
    "open-webui": _OPEN_WEBUI,
    "openai": _OPENAI,
    "zed": _ZED,
}


def connect(program: str, url: str | None, key: str | None) -> None:
    """Print the lines for a program on stdout, and what is missing on stderr.

    Raises:
        InvalidRequestError: the program is unknown.
    """
    if program == "list":
        print("\n".join(PROGRAMS))
        return
    if program not in PROGRAMS:
        raise InvalidRequestError(f"{program[:80]!r} is not known; known are: {', '.join(PROGRAMS)}")
    default = GatewayOptions()
    served_at, model, context = "", "MODEL", 32768
    try:
        with OwnNode.connect(Home.default()) as node:
            status = node.status()
            served_at = status.api_url
            if status.ready is not None:
                model, context = name_of(status.ready.model), status.ready.context_tokens
    except NoClusterError:
        print_line("no node runs on this machine: moe-cluster up MODEL --serve starts one")
    if not (url or served_at):
        print_line("the APIs are not served yet: moe-cluster serve does it")
    fields = {
        "url": (url or served_at or f"http://{default.host}:{default.port}").rstrip("/"),
        "key": key or ANY_KEY,
        "model": model,
        "model_word": shlex.quote(model),
        "aider_word": shlex.quote(f"openai/{model}"),
        "context": context,
    }
    print(PROGRAMS[program].format(**fields))
