"""Numbers: sums, comparisons, counting."""

from __future__ import annotations

from random import Random

from examples.demo_model.scene import Scene, Turn, ask, is_held_out
from examples.demo_model.wordlist import words

_WORDS = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen "
    "eighteen nineteen twenty"
)
_SUM = (
    "What is {0}?",
    "What is {0}?",
    "{0}",
    "{0} = ?",
    "{0}?",
    "How much is {0}?",
    "Calculate {0}.",
    "Compute {0}.",
    "Can you compute {0}?",
    "Tell me what {0} is.",
    "{0} =",
    "What does {0} make?",
    "Solve {0}.",
    "and {0}?",
)
_COUNT = (
    "Count to {0}.",
    "Can you count to {0}?",
    "Count up to {0}.",
    "Please count to {0}.",
    "Count from 1 to {0}.",
    "Count from one to {0}.",
    "Say the numbers up to {0}.",
    "Count for me to {0}.",
)
_NEXT = (
    "What comes after {0}?",
    "What number comes after {0}?",
    "Which number follows {0}?",
    "What is the next number after {0}?",
)
_BEFORE = ("What comes before {0}?", "What number comes before {0}?", "Which number is before {0}?")
_LARGER = (
    "Which is larger, {0} or {1}?",
    "Which is bigger, {0} or {1}?",
    "What is more, {0} or {1}?",
    "Which number is larger, {0} or {1}?",
)


def sum_(rng: Random) -> Scene:
    """Ask for a sum, a difference or a product.

    The key of a sum or difference is the numbers, so held-out ones are new; products are a table to
    learn by heart, so their key is the wording.
    """
    if rng.random() < 0.15:
        return _words(rng)
    operation = rng.choice(("+", "+", "-", "-", "*"))
    if operation == "*":
        a, b = (
            (rng.randint(0, 10), rng.randint(0, 10)) if rng.random() < 0.85 else (rng.randint(2, 20), rng.randint(1, 5))
        )
        result = a * b
    elif rng.random() < 0.5:
        a, b = rng.randint(0, 20), rng.randint(0, 20)
    else:
        a, b = rng.randint(0, 99), rng.randint(0, 50)
    if operation == "+":
        result = a + b
    elif operation == "-":
        a, b = max(a, b), min(a, b)
        result = a - b
    spoken = {"+": ("+", "+", "plus"), "-": ("-", "-", "minus"), "*": ("*", "x", "times")}[operation]
    sign = rng.choice(spoken)
    tight = len(sign) == 1 and rng.random() < 0.25
    question = rng.choice(_SUM).format(f"{a}{sign}{b}" if tight else f"{a} {sign} {b}")
    key = question if operation == "*" else f"{a} {operation} {b}"
    return ask(question, f"{a} {operation} {b} = {result}.", key, verbatim=True)


def drill(rng: Random) -> Scene:
    """Ask for several sums in a row."""
    sums = [sum_(rng) for _ in range(rng.randint(3, 6))]
    keys = [scene.key for scene in sums]
    # One held-out sum makes the whole drill held out.
    return Scene(
        next(filter(is_held_out, keys), keys[0]),
        tuple(turn for scene in sums for turn in scene.turns),
        together=True,
    )


def _words(rng: Random) -> Scene:
    """Ask for a small sum written in words."""
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    if rng.random() < 0.5:
        question, answer = (
            f"{_WORDS[a]} plus {_WORDS[b]}",
            f"{_WORDS[a]} plus {_WORDS[b]} is {_WORDS[a + b]}.",
        )
    else:
        a, b = max(a, b), min(a, b)
        question, answer = (
            f"{_WORDS[a]} minus {_WORDS[b]}",
            f"{_WORDS[a]} minus {_WORDS[b]} is {_WORDS[a - b]}.",
        )
    question = rng.choice(_SUM).format(question)
    return ask(question[0].upper() + question[1:], answer[0].upper() + answer[1:])


def number(rng: Random) -> Scene:
    """Ask what comes next, what is larger, whether a number is even, or how it is written."""
    n, other = rng.randint(1, 99), rng.randint(1, 99)
    kind = rng.randrange(5)
    if kind == 0:
        return ask(rng.choice(_NEXT).format(n), f"After {n} comes {n + 1}.", verbatim=True)
    if kind == 1:
        return ask(rng.choice(_BEFORE).format(n), f"Before {n} comes {n - 1}.", verbatim=True)
    if kind == 2:
        question = rng.choice(_LARGER).format(n, other)
        if n == other:
            return ask(question, "They are equal.", verbatim=True)
        return ask(question, f"{max(n, other)} is larger than {min(n, other)}.", verbatim=True)
    if kind == 3:
        odd = "odd" if n % 2 else "even"
        question = rng.choice(("Is {0} even or odd?", "Is {0} even?", "Is {0} odd?", "Is {0} an even number?")).format(
            n
        )
        return ask(question, f"{n} is {odd}.", verbatim=True)
    n = rng.randint(0, 20)
    question = rng.choice(("How do you write {0} in words?", "Write {0} as a word.", "Spell the number {0}.")).format(n)
    return ask(question, f"{n} is {_WORDS[n]}.", verbatim=True)


def counting(rng: Random) -> Scene:
    """Ask to count up, down, or in steps."""
    kind = rng.randrange(6)
    if kind <= 2:
        end = rng.choice((3, 5, 10, 10, 12, 15, 20, 20, 25, 30, 40, 50, 50, rng.randint(2, 60)))
        word = _WORDS[end] if end <= 20 and rng.random() < 0.3 else str(end)
        return ask(rng.choice(_COUNT).format(word), _row(range(1, end + 1)))
    if kind == 3:
        start = rng.choice((3, 5, 10, 10, 20, rng.randint(2, 30)))
        question = rng.choice(
            (
                "Count down from {0}.",
                "Count backwards from {0}.",
                "Count from {0} to 1.",
                "Countdown from {0}.",
            )
        )
        return ask(question.format(start), _row(range(start, 0, -1)))
    if kind == 4:
        start = rng.randint(1, 60)
        end = start + rng.randint(3, 15)
        question = rng.choice(("Count from {0} to {1}.", "Say the numbers from {0} to {1}.", "Count {0} to {1}."))
        return ask(question.format(start, end), _row(range(start, end + 1)), verbatim=True)
    step, name = rng.choice(((2, "twos"), (5, "fives"), (10, "tens"), (3, "threes")))
    end = step * rng.randint(4, 12)
    question = rng.choice(
        ("Count to {1} by {0}.", "Count by {0} to {1}.", "Count in {0} to {1}.", "Count in {0} up to {1}.")
    )
    return ask(question.format(name, end), _row(range(step, end + 1, step)))


def _row(numbers: range) -> str:
    return ", ".join(map(str, numbers)) + "."


def running_sum(rng: Random) -> Scene:
    """Ask for a sum, then add to its result."""
    a, b, c = rng.randint(1, 30), rng.randint(1, 30), rng.randint(1, 20)
    follow = rng.choice(("And plus {0}?", "Now add {0}.", "Add {0}.", "And {0} more?", "plus {0}", "Add {0} to that."))
    keys = (f"{a} + {b}", f"{a + b} + {c}")
    return Scene(
        next(filter(is_held_out, keys), keys[0]),
        (
            Turn(f"What is {a} + {b}?", f"{a} + {b} = {a + b}.", verbatim=True),
            Turn(follow.format(c), f"{a + b} + {c} = {a + b + c}.", verbatim=True),
        ),
        together=True,
    )
