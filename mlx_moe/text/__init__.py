"""Text: tokenizers, chat templates, detokenizing and stop strings."""
