"""Load a model and print what follows a prompt, token by token: python examples/generate.py [MODEL] [PROMPT]."""

import sys

import mlx_moe


def main(name: str = "demo", prompt: str = "Count from one to ten.") -> None:
    """Print each token's text as it arrives, then the number of tokens and the speed."""
    model = mlx_moe.load(name)
    input_ids = model.tokenizer.format_chat([{"role": "user", "content": prompt}])
    generation = model.generate(mlx_moe.Request(tuple(input_ids), sampling=model.sampling, max_tokens=200))
    for token in generation:
        print(token.text, end="", flush=True)
    stats = generation.stats
    print(f"\n[{generation.finish_reason}; {stats.generated_tokens} tokens, {stats.decode_tps:.1f} tokens/s]")


if __name__ == "__main__":
    main(*sys.argv[1:])
