"""A chat of several turns in one session, in which each turn prefills only the new part of its prompt."""

import mlx_moe


def main() -> None:
    """Ask three questions; print how many tokens of each prompt were still in the KV cache."""
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
        print(f"  [{generation.stats.cached_tokens} of {len(input_ids)} prompt tokens were in the KV cache]")
    session.close()


if __name__ == "__main__":
    main()
