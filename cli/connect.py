"""connect: the lines that make a program use this cluster's APIs."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

from cli.failures import print_line
from cluster.client import GatewayOptions, OwnNode
from cluster.errors import NoClusterError
from cluster.gateway.served import name_of
from cluster.home import Home
from cluster.membership.address import split
from mlx_moe.errors import InvalidRequestError

ANY_KEY = "none"
"""Programs that demand a key get this one; a gateway that needs none does not look at it."""

YOUR_KEY = "YOUR_KEY"
"""Stands for the key, if the gateway needs one and it was not given."""

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
docker run -d -p 3000:8080 \\
  -e OPENAI_API_BASE_URL={url}/v1 -e OPENAI_API_KEY={key} \\
  -v open-webui:/app/backend/data ghcr.io/open-webui/open-webui:main"""

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
// in Zed's settings.json; enter the key {key} in the agent panel
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
        raise InvalidRequestError(f"{program[:80]!r} is not supported; supported are: {', '.join(PROGRAMS)}")
    default = GatewayOptions()
    served_at, own_host, model, context = "", "ADDRESS", "MODEL", 32768
    try:
        with OwnNode.connect(Home.default()) as node:
            status = node.status()
            served_at, own_host = status.api_url, split(status.own.info.addresses[0])[0]
            if status.ready is not None:
                model, context = name_of(status.ready.model), status.ready.context_tokens
    except NoClusterError:
        print_line("no node runs on this machine: moe-cluster up MODEL --serve starts one")
    if not (url or served_at):
        print_line("the APIs are not served yet: moe-cluster serve does it")
    address = (url or served_at or f"http://{default.host}:{default.port}").rstrip("/")
    if program == "open-webui" and not _needs_key(address):
        print_line("a container reaches this machine only at its network address: moe-cluster serve --host 0.0.0.0")
        address = _at(address, own_host)
    elif urlsplit(address).hostname in ("0.0.0.0", "::"):
        address = _at(address, own_host)
    if key is None and _needs_key(address):
        print_line(f"replace {YOUR_KEY} by the key that moe-cluster key create NAME prints")
    fields = {
        "url": address,
        "key": key or (YOUR_KEY if _needs_key(address) else ANY_KEY),
        "model": model,
        "model_word": shlex.quote(model),
        "aider_word": shlex.quote(f"openai/{model}"),
        "context": context,
    }
    print(PROGRAMS[program].format(**fields))


def _needs_key(url: str) -> bool:
    return GatewayOptions(urlsplit(url).hostname or "").needs_key


def _at(url: str, host: str) -> str:
    """Return a URL with another host."""
    parts = urlsplit(url)
    host = f"[{host}]" if ":" in host else host
    return parts._replace(netloc=host if parts.port is None else f"{host}:{parts.port}").geturl()
