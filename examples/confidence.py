"""Show how sure a model is of each token of its answer, by the token's log-probability."""

import math

import mlx_moe


def main() -> None:
    """Print a bar for each token."""
    model = mlx_moe.load("demo")
    prompt = model.tokenizer.format_chat([{"role": "user", "content": "What is 3 + 4?"}])
    for token in mlx_moe.generate(model, prompt, temperature=0.0, max_tokens=32):
        probability = math.exp(token.logprob)
        print(f"{token.text!r:>16} {probability:6.1%} {'#' * round(40 * probability)}")


if __name__ == "__main__":
    main()
