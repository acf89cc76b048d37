"""How people type: case, punctuation, polite words, contractions, and slips."""

from __future__ import annotations

from random import Random

_OPENERS = (
    "hi, ",
    "hey, ",
    "hello, ",
    "ok, ",
    "so, ",
    "please, ",
    "well, ",
    "now ",
    "and ",
    "hi! ",
    "ok so ",
    "so basically ",
    "quick question: ",
    "one more thing: ",
    "tell me, ",
    "i would like to know: ",
    "could you say, ",
    "alright, ",
    "hmm, ",
    "then ",
    "but ",
    "sorry, ",
    "just tell me: ",
)
_CLOSERS = (" please", ", please", " thanks", ", thank you", " :)", " pls")
_CONTRACTIONS = (
    ("What is", ("What's", "Whats")),
    ("what is", ("what's", "whats")),
    ("Who is", ("Who's", "Whos")),
    ("do not", ("don't", "dont")),
    ("I am", ("I'm", "im")),
    ("you are", ("you're", "u are")),
    ("are you", ("r u", "are u")),
    ("How do I", ("How to", "how can I", "How do you", "How would I")),
    ("Tell me", ("Can you tell me", "Could you tell me", "tell me")),
    ("Can you", ("Could you", "can u", "Will you")),
    ("What does", ("Whats", "what does")),
)


def typed(text: str, rng: Random) -> str:
    """Return text as somebody in front of a terminal might type it."""
    for written, spoken in _CONTRACTIONS:
        if written in text and rng.random() < 0.15:
            text = text.replace(written, rng.choice(spoken), 1)
    if rng.random() < 0.10:
        text = rng.choice(_OPENERS) + text[0].lower() + text[1:]
    bare = text.rstrip("?.!")
    if rng.random() < 0.35:
        text = bare
    elif text != bare and rng.random() < 0.08:
        text = bare + rng.choice(("??", "!", "...", " ?", "."))
    if rng.random() < 0.05:
        text = text.rstrip("?.!") + rng.choice(_CLOSERS) + (text[-1] if text[-1] in "?." else "")
    if rng.random() < 0.40:
        text = text.lower()
    elif rng.random() < 0.02:
        text = text.upper()
    if rng.random() < 0.10:
        text = _slip(text, rng)
    return text


def _slip(text: str, rng: Random) -> str:
    """Swap, drop, double or replace one letter inside one longer word."""
    words = text.split(" ")
    long = [index for index, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not long:
        return text
    index = rng.choice(long)
    word = words[index]
    at = rng.randrange(1, len(word) - 1)
    words[index] = rng.choice(
        (
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + rng.choice("aeiorstnl") + word[at + 1 :],
        )
    )
    return " ".join(words)
