"""Short stories from a grammar of heroes, places, things and turns of fate."""

from __future__ import annotations

from random import Random

from examples.demo_model.scene import Scene, ask
from examples.demo_model.wordlist import words

_HEROES = words(
    "fox bear owl mouse rabbit cat dog frog horse wolf lion duck goose goat donkey crow bee whale dolphin "
    "penguin tiger monkey deer "
    "snail dragon robot princess king baker fisherman girl boy wizard knight sailor farmer ghost cloud "
    "star train"
)
_OTHER_HEROES = words(
    "hen pig sheep cow zebra camel whale shark snake spider ant butterfly elephant giraffe panda koala "
    "parrot pirate doctor teacher "
    "painter prince queen giant dwarf fairy witch farmer hunter shepherd tree flower river lamp clock shoe "
    "car bus boat rocket "
    "moon snowman teapot book pencil balloon kite apple pumpkin carrot stone mountain raindrop computer "
    "token expert router node"
)
_FRIENDS = words("fox bear owl mouse rabbit cat dog frog horse duck goat crow bee turtle hedgehog")
_ADJECTIVES = words("little old brave clever tired happy curious quiet lazy kind")
_PLACES = (
    "forest",
    "village",
    "castle",
    "garden",
    "valley",
    "desert",
    "city",
    "harbour",
    "mountain hut",
    "meadow",
    "farm",
    "island",
)
_THINGS = (
    "a golden key",
    "a red lantern",
    "an old map",
    "a silver bell",
    "a blue stone",
    "a wooden boat",
    "a small drum",
    "a warm coat",
    "a glass ball",
    "a letter",
    "a loaf of bread",
    "a little computer",
)
_NAMES = words("Mila Tom Nora Finn Ella Otto Lina Max Ida Sam Rosa Leo")
_ASK = (
    "Tell me a story about {0}.",
    "Tell me a story about {0}.",
    "Tell a story about {0}.",
    "Write a story about {0}.",
    "Can you tell me a story about {0}?",
    "I want a story about {0}.",
    "A story about {0}, please.",
    "Please write a short story about {0}.",
    "Do you know a story about {0}?",
    "Story about {0}",
    "Tell me about {0} in a story.",
    "Make up a story about {0}.",
)
_ASK_ANY = (
    "Tell me a story.",
    "Tell me a short story.",
    "Write a story.",
    "Can you tell me a story?",
    "A story please.",
    "I want to hear a story.",
    "Tell me another story.",
    "Do you know a story?",
    "Once upon a time",
    "Another story!",
    "Make up a story.",
    "Please tell me a bedtime story.",
)
_ASK_LONG = (
    "Tell me a long story.",
    "Write a long story.",
    "I want a long story.",
    "Can you tell me a long story?",
    "A long story please.",
)
_ASK_LONG_ABOUT = (
    "Tell me a long story about {0}.",
    "Write a long story about {0}.",
    "I want a long story about {0}.",
)
_ENDINGS = (
    "And if they have not left, they live there still.",
    "From that day on they were friends.",
    "That night they all slept well.",
    "And that is the end of the story.",
)


class _Tale:
    """Hold the choices of one story."""

    def __init__(self, rng: Random, hero: str) -> None:
        self.hero = hero
        self.adjective = rng.choice(_ADJECTIVES)
        self.place = rng.choice(_PLACES)
        self.friend = rng.choice([name for name in _FRIENDS if name != hero])
        self.thing = rng.choice(_THINGS)
        self.name = rng.choice(_NAMES)

    def opening(self, rng: Random) -> str:
        article = "an" if self.adjective[0] in "aeiou" else "a"
        where = "on" if self.place in ("farm", "island") else "in"
        return rng.choice(
            (
                (
                    f"Once there was {article} {self.adjective} {self.hero} called {self.name} who lived "
                    f"{where} a {self.place}."
                ),
                (
                    f"Once upon a time {article} {self.adjective} {self.hero} lived {where} a "
                    f"{self.place}. "
                    f"Its name was {self.name}."
                ),
            )
        )

    def search(self, rng: Random) -> list[str]:
        the = "the" + self.thing[self.thing.index(" ") :]
        return [
            f"One morning {self.name} lost {self.thing}.",
            rng.choice(
                (
                    f"{self.name} looked under the bed and behind the door, but found nothing.",
                    f"{self.name} looked everywhere, but it was gone.",
                )
            ),
            f'Then a {self.friend} came by and asked: "Why are you so sad?"',
            rng.choice(
                (
                    f"Together they looked again, and there was {the}, under a leaf.",
                    f"The {self.friend} smiled, for it had found {the} by the river.",
                )
            ),
            f"{self.name} was so happy that they danced until the evening.",
        ]

    def gift(self, rng: Random) -> list[str]:
        the = "the" + self.thing[self.thing.index(" ") :]
        return [
            f"One day {self.name} found {self.thing} on the road.",
            f'"Whose is it?" asked {self.name}. Nobody knew.',
            f'Then a {self.friend} came running and said: "I lost it yesterday!"',
            f"{self.name} gave {the} back at once.",
            rng.choice(
                (
                    f"The {self.friend} said thank you and shared its cake.",
                    f"The {self.friend} was glad and sang a song.",
                )
            ),
        ]

    def storm(self, rng: Random) -> list[str]:
        return [
            rng.choice(("One night a great storm came.", "One evening the rain would not stop.")),
            f"{self.name} heard a knock at the door. It was a {self.friend}, wet and cold.",
            f'"Come in," said {self.name}, and made a fire.',
            "They ate soup and told each other stories until the sun came up.",
            "In the morning the storm was over.",
        ]

    def journey(self, rng: Random) -> list[str]:
        return [
            f"{self.name} wanted to see the sea.",
            f"So {self.name} packed {self.thing} and walked for three days.",
            f"On the way {self.name} met a {self.friend} who wanted to come along.",
            rng.choice(
                (
                    "They crossed a river and climbed a hill.",
                    "They walked through a dark wood, but they were not afraid.",
                )
            ),
            "At last they saw the sea. It was blue and very big.",
        ]

    def cluster(self, rng: Random) -> list[str]:
        return [
            f"{self.name} had to carry a very heavy stone, but it was too heavy for one.",
            f'A {self.friend} came by and said: "Let us break it into parts."',
            "Each of them carried one part, and nobody was tired.",
            rng.choice(
                (
                    '"Many small ones can do what one big one cannot," they said.',
                    '"Together we are strong," they said.',
                )
            ),
        ]


def story(rng: Random) -> Scene:
    """Ask for a story, with or without a hero; a long one has two parts."""
    hero = rng.choice(_HEROES if rng.random() < 0.7 else _OTHER_HEROES)
    tale = _Tale(rng, hero)
    plots = [tale.search, tale.gift, tale.storm, tale.journey, tale.cluster]
    rng.shuffle(plots)
    long = rng.random() < 0.2
    sentences = [tale.opening(rng), *plots[0](rng)]
    if long:
        second = next(plot for plot in plots[1:] if not (plot.__name__ == "journey" and plots[0].__name__ == "journey"))
        tale.friend = rng.choice([name for name in _FRIENDS if name not in (hero, tale.friend)])
        tale.thing = rng.choice([thing for thing in _THINGS if thing != tale.thing])
        sentences += ["", *second(rng)]
    sentences.append(rng.choice(_ENDINGS))
    text = " ".join(sentences).replace("  ", "\n\n")
    if rng.random() < 0.45:
        return Scene(f"{text}", ask(rng.choice(_ASK_LONG if long else _ASK_ANY), text).turns)
    wanted = ("an " if hero[0] in "aeiou" else "a ") + hero
    if rng.random() < 0.2 and not long:
        wanted = ("an " if tale.adjective[0] in "aeiou" else "a ") + tale.adjective + " " + hero
    question = rng.choice(_ASK_LONG_ABOUT if long else _ASK).format(wanted)
    return ask(question, text)
