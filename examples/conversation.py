"""A chat of several turns over one session, so that each turn prefills only what is new."""

import mlx_moe


def main() -> None:
    """Ask three questions and print how much of each prompt was still in the KV cache."""
    model = mlx_moe.load("demo")
    session = model.new_session()
    messages: list[dict[str, str]] = []
    for question in ["Hello!", "My name is Ada.", "What is my name?"]:
        messages.append({"role": "user", "content": question})
        input_ids = model.tokenizer.format_chat(messages)
        generation = model.generate(mlx_moe.Request(tuple(input_ids), sampling=model.sampling), session)
        answer = "".join(token.text for token in generation)
        messages.append({"role": "assistant", "content": answer})
        print(f"> {question}\n{answer}")
        print(f"  [{generation.stats.cached_tokens} of {len(input_ids)} prompt tokens were kept]")
    session.close()


if __name__ == "__main__":
    main()
