"""Playing with words: lists, repetition, spelling."""

from __future__ import annotations

from random import Random

from examples.demo_model.scene import Scene, ask
from examples.demo_model.wordlist import words

_LISTS = {
    "colours": words("red blue green yellow black white orange purple brown grey"),
    "fruits": words("apples pears bananas cherries plums grapes lemons oranges strawberries melons"),
    "animals": words("cats dogs horses cows owls foxes bears frogs sheep wolves"),
    "vegetables": words("carrots onions potatoes tomatoes peas beans cabbages peppers cucumbers leeks"),
    "planets": words("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune"),
    "countries": words("France Italy Japan Canada Egypt Brazil Norway India Kenya Spain"),
    "cities": words("Paris Rome Tokyo Ottawa Cairo Oslo Berlin Madrid Lima Dublin"),
    "tools": words("hammer saw drill pliers screwdriver wrench file axe"),
    "birds": words("owls crows ducks geese hens eagles robins swans"),
    "drinks": words("water milk tea coffee juice lemonade"),
    "musical instruments": words("piano violin drum flute guitar trumpet harp"),
    "seasons": words("spring summer autumn winter"),
    "pets": words("cats dogs rabbits hamsters goldfish parrots"),
    "flowers": words("roses tulips lilies daisies violets poppies"),
}

_LIST_QUESTIONS = (
    "List {0} {1}.",
    "Name {0} {1}.",
    "Give me {0} {1}.",
    "Tell me {0} {1}.",
    "Can you list {0} {1}?",
    "Write a list of {0} {1}.",
    "I need {0} {1}.",
    "Which {1} do you know? Name {0}.",
)

_SIZES = {2: "two", 3: "three", 4: "four", 5: "five"}

_WORDS = words(
    "cat dog sun moon tree house river stone apple bread water light music paper green happy cloud train "
    "chair table window "
    "garden mouse horse sugar winter summer friend school yellow orange purple silver cluster expert token "
    "router layer model "
    "worker frame stage shard node link memory pipeline coordinator bridge forest island castle candle "
    "pencil rocket basket "
    "button carpet mirror pillow lemon tiger zebra snow rain wind storm ocean beach book clock door floor "
    "glass knife lamp"
)


def listing(rng: Random) -> Scene:
    """Ask for a short list, answered in Markdown."""
    kind, members = rng.choice(tuple(_LISTS.items()))
    size = rng.choice(tuple(_SIZES))
    size = min(size, len(members))
    start = rng.randrange(3) if kind != "seasons" else 0
    chosen = (members + members)[start : start + size]
    question = rng.choice(_LIST_QUESTIONS).format(rng.choice((str(size), _SIZES[size])), kind)
    return ask(question, f"Here are {_SIZES[size]} {kind}:\n\n" + "\n".join(f"- {item}" for item in chosen))


def repetition(rng: Random) -> Scene:
    """Ask to repeat some words."""
    words = " ".join(rng.choices(_WORDS, k=rng.randint(1, 5)))
    if rng.random() < 0.25:
        words = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 7)))
    if rng.random() < 0.2:
        words = words.capitalize() + rng.choice(("!", "."))
    question = rng.choice(
        (
            'Say "{0}".',
            "Say {0}",
            "Repeat after me: {0}",
            "Repeat: {0}",
            "Please say {0}",
            'Write "{0}".',
            "repeat after me: {0}",
            "say {0}",
            "Echo {0}",
            'Repeat "{0}".',
        )
    )
    return ask(question.format(words), words, verbatim=True)


def spelling(rng: Random) -> Scene:
    """Ask to spell a word."""
    word = rng.choice(_WORDS)
    question = rng.choice(
        (
            "Spell {0}.",
            "How do you spell {0}?",
            "Spell the word {0}.",
            "Can you spell {0}?",
            'How is "{0}" spelled?',
        )
    )
    return ask(question.format(word), "-".join(word) + ".", verbatim=True)
