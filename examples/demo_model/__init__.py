"""The embedded demo model: corpus, tokenizer, training, export and measurement."""
