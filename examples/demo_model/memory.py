"""Things the user tells of themselves, and is asked back later in the chat."""

from __future__ import annotations

from random import Random

from examples.demo_model.scene import Scene, Turn
from examples.demo_model.wordlist import phrases, words

_NAMES = words(
    "Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Klara Leo Mia Noah Olga Paul Rosa Sam Tina Uli "
    "Vera Walter Xenia Yara "
    "Zoe Alice Bob Carol Dan Eva Frank Grace Henry Iris Jack Kate Liam Maria Nina Oscar Peter Ruth Simon "
    "Tom Ursula Victor Wendy "
    "Adam Bella Carl Dora Eric Fiona George Hanna Ivan Julia Kim Lena Max Nora Otto Pia Robin Sara Theo "
    "Amir Chen Diego Fatima "
    "Hiro Jin Kofi Lars Mei Nadia Omar Priya Ravi Sofia Tariq Yuki Ahmed Anita Bruno Chloe Elena Ethan "
    "Ines Joao Kenji Lucia"
)
_SYLLABLES = words(
    "ba bel bo da den do el fa fin ga gor ha hel in ja jor ka kim la len lo ma mir na nor o pa ra "
    "ris ro sa sel ta tor u va vin wa yo za"
)
_TELL_NAME = (
    "My name is {0}.",
    "My name is {0}.",
    "I am {0}.",
    "Hello, I am {0}.",
    "Hi, my name is {0}.",
    "Call me {0}.",
    "You can call me {0}.",
    "I'm {0}",
    "Hi! I am {0}.",
    "Hello! My name is {0}.",
    "{0} is my name.",
)
_ASK_NAME = (
    "What is my name?",
    "What is my name?",
    "Who am I?",
    "Do you know my name?",
    "Do you remember my name?",
    "Can you tell me my name?",
    "What was my name?",
    "Say my name.",
    "How am I called?",
    "Tell me my name.",
)
_THINGS = {
    "favourite colour": words("red blue green yellow black white orange purple pink brown grey"),
    "favourite animal": phrases("the cat,the dog,the fox,the owl,the horse,the bear,the frog,the tiger,the whale"),
    "favourite number": [str(n) for n in range(1, 60)],
    "favourite food": phrases("pizza,soup,rice,pasta,bread,cheese,salad,fish,apples,chocolate"),
    "favourite season": words("spring summer autumn winter"),
    "city": words("Paris Berlin Rome Oslo Tokyo Madrid Lima Dublin Vienna Cairo Ottawa Prague London Athens"),
    "job": phrases("baker,teacher,doctor,painter,farmer,gardener,singer,driver,programmer,nurse,student"),
}


def _name(rng: Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(_NAMES)
    return "".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))).capitalize()


def own_name(rng: Random) -> Scene:
    """Tell a name, and ask for it once or twice."""
    name = _name(rng)
    told = Turn(rng.choice(_TELL_NAME).format(name), f"Nice to meet you, {name}! How can I help you?", verbatim=True)
    asked = [Turn(rng.choice(_ASK_NAME), f"Your name is {name}.") for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    return Scene(f"name {name}", (told, *asked), claim="name")


def unknown_name(rng: Random) -> Scene:
    """Ask for a name that was never told."""
    return Scene("no name", (Turn(rng.choice(_ASK_NAME), "You have not told me your name yet."),), claim="name")


def favourite(rng: Random) -> Scene:
    """Tell a favourite thing, and ask for it."""
    thing = rng.choice(tuple(_THINGS))
    value = rng.choice(_THINGS[thing])
    if thing == "city":
        told = rng.choice(("I live in {0}.", "I am from {0}.", "My home is in {0}.")).format(value)
        question, answer = (
            rng.choice(("Where do I live?", "Where am I from?", "Which city do I live in?")),
            f"You live in {value}.",
        )
    elif thing == "job":
        told = rng.choice(("I am a {0}.", "I work as a {0}.", "My job is {0}.")).format(value)
        question, answer = (
            rng.choice(("What is my job?", "What do I do?", "What do I work as?")),
            f"You are a {value}.",
        )
    else:
        told = rng.choice(("My {0} is {1}.", "{1} is my {0}.")).format(thing, value)
        told = told[0].upper() + told[1:]
        question = rng.choice(
            ("What is my {0}?", "Do you remember my {0}?", "Tell me my {0}.", "What was my {0}?")
        ).format(thing)
        answer = f"Your {thing} is {value}."
    reply = rng.choice(("I will remember that.", "I will remember that."))
    asked = Turn(question, answer)
    return Scene(f"{thing} {value} {told}", (Turn(told, reply, verbatim=True), asked), claim=thing)


def pet(rng: Random) -> Scene:
    """Tell of a pet with a name, and ask for it."""
    kind, name = rng.choice(words("cat dog rabbit horse hamster parrot")), _name(rng)
    told = rng.choice(("I have a {0} called {1}.", "My {0} is called {1}.", "The name of my {0} is {1}.")).format(
        kind, name
    )
    question = rng.choice(("What is the name of my {0}?", "What is my {0} called?", "Do you remember my {0}?")).format(
        kind
    )
    return Scene(
        f"pet {kind} {name}",
        (
            Turn(told, f"{name} is a nice name for a {kind}.", verbatim=True),
            Turn(question, f"Your {kind} is called {name}."),
        ),
        claim="pet",
    )


def last_words(rng: Random) -> Scene:
    """Give a word to keep, and ask for it."""
    word = rng.choice(
        words("apple river stone candle rocket tiger purple window garden silver bridge island basket mirror")
    )
    told = rng.choice(("Remember the word {0}.", "The secret word is {0}.", "Keep this word in mind: {0}.")).format(
        word
    )
    asked = rng.choice(
        (
            "Which word did I tell you?",
            "What was the word?",
            "What is the secret word?",
            "Which word did you remember?",
        )
    )
    return Scene(
        f"word {word} {told} {asked}",
        (Turn(told, f"I will remember the word {word}.", verbatim=True), Turn(asked, f"The word is {word}.")),
        claim="word",
    )


def greeting_by_name(rng: Random) -> Scene:
    """Say goodbye or thanks after a name was told."""
    name = _name(rng)
    told = Turn(rng.choice(_TELL_NAME).format(name), f"Nice to meet you, {name}! How can I help you?", verbatim=True)
    return Scene(
        f"goodbye {name}",
        (told, Turn(rng.choice(("Bye!", "Goodbye.", "See you.")), "Goodbye! See you soon.")),
        claim="name",
    )
