"""A few facts that a tiny model can hold: capitals, animals, opposites, days, colours."""

from __future__ import annotations

from random import Random

from examples.demo_model.scene import Scene, Turn, ask
from examples.demo_model.wordlist import phrases, words

_CAPITALS = dict(
    pair.split(":")
    for pair in phrases(
        "France:Paris,Germany:Berlin,Italy:Rome,Spain:Madrid,Portugal:Lisbon,Austria:Vienna,"
        "Switzerland:Bern,"
        "Belgium:Brussels,Denmark:Copenhagen,Norway:Oslo,Sweden:Stockholm,Finland:Helsinki,Poland:Warsaw,"
        "Greece:Athens,Turkey:Ankara,Egypt:Cairo,Japan:Tokyo,China:Beijing,India:New Delhi,Canada:Ottawa,"
        "Mexico:Mexico City,Brazil:Brasilia,Argentina:Buenos Aires,Chile:Santiago,Peru:Lima,Cuba:Havana,"
        "Australia:Canberra,New Zealand:Wellington,Kenya:Nairobi,Ireland:Dublin,Iceland:Reykjavik,"
        "Hungary:Budapest,"
        "Russia:Moscow,Ukraine:Kyiv,Romania:Bucharest,Bulgaria:Sofia,Croatia:Zagreb,Thailand:Bangkok,"
        "Vietnam:Hanoi,"
        "the Netherlands:Amsterdam,the United Kingdom:London,England:London,the United States:Washington,"
        "Colombia:Bogota,Morocco:Rabat,Ghana:Accra,Ethiopia:Addis Ababa,Indonesia:Jakarta,Nepal:Kathmandu,"
        "South Korea:Seoul,Czechia:Prague,Serbia:Belgrade"
    )
)

_CAPITAL_QUESTIONS = (
    "What is the capital of {0}?",
    "What is the capital of {0}?",
    "Which city is the capital of {0}?",
    "Capital of {0}?",
    "What is {0}'s capital?",
    "Tell me the capital of {0}.",
    "Name the capital of {0}.",
    "Do you know the capital of {0}?",
    "What is the capital city of {0}?",
    "And the capital of {0}?",
    "capital {0}",
    "{0} capital",
    "What about {0}? What is its capital?",
)

_COUNTRY_QUESTIONS = (
    "In which country is {0}?",
    "Where is {0}?",
    "Which country has the capital {0}?",
    "{0} is the capital of which country?",
    "What country is {0} in?",
)

# name: sound, legs, baby, food, home
_ANIMALS = {
    "cat": ("meows", "four", "a kitten", "mice and fish", "in houses"),
    "dog": ("barks", "four", "a puppy", "meat", "in houses"),
    "cow": ("moos", "four", "a calf", "grass", "on farms"),
    "horse": ("neighs", "four", "a foal", "grass and hay", "on farms"),
    "sheep": ("bleats", "four", "a lamb", "grass", "on farms"),
    "pig": ("grunts", "four", "a piglet", "nearly everything", "on farms"),
    "duck": ("quacks", "two", "a duckling", "plants and insects", "near ponds"),
    "hen": ("clucks", "two", "a chick", "grain", "on farms"),
    "lion": ("roars", "four", "a cub", "meat", "in Africa"),
    "wolf": ("howls", "four", "a pup", "meat", "in forests"),
    "bear": ("growls", "four", "a cub", "fish and berries", "in forests"),
    "frog": ("croaks", "four", "a tadpole", "insects", "near ponds"),
    "owl": ("hoots", "two", "an owlet", "mice", "in trees"),
    "bee": ("buzzes", "six", "a larva", "nectar", "in hives"),
    "snake": ("hisses", "no", "a hatchling", "mice", "in grass and stones"),
    "mouse": ("squeaks", "four", "a pup", "seeds", "in small holes"),
    "goat": ("bleats", "four", "a kid", "leaves and grass", "on farms and mountains"),
    "fox": ("barks", "four", "a kit", "mice and berries", "in forests"),
    "elephant": ("trumpets", "four", "a calf", "grass and leaves", "in Africa and Asia"),
    "monkey": ("chatters", "four", "an infant", "fruit", "in trees"),
    "donkey": ("brays", "four", "a foal", "grass and hay", "on farms"),
    "goose": ("honks", "two", "a gosling", "grass", "near lakes"),
    "crow": ("caws", "two", "a chick", "nearly everything", "in trees"),
    "deer": ("bellows", "four", "a fawn", "leaves and grass", "in forests"),
    "rabbit": ("squeaks", "four", "a kit", "grass and carrots", "in burrows"),
    "tiger": ("roars", "four", "a cub", "meat", "in Asia"),
    "penguin": ("honks", "two", "a chick", "fish", "in the cold south"),
    "dolphin": ("whistles", "no", "a calf", "fish", "in the sea"),
    "whale": ("sings", "no", "a calf", "small sea animals", "in the sea"),
    "seal": ("barks", "no", "a pup", "fish", "by the sea"),
}

_ANIMAL_QUESTIONS = (
    (
        (
            "What sound does a {0} make?",
            "What does a {0} say?",
            "How does a {0} sound?",
            "Which noise does a {0} make?",
        ),
        "A {0} {1}.",
    ),
    (
        ("How many legs does a {0} have?", "How many legs has a {0}?", "Number of legs of a {0}?"),
        "A {0} has {1} legs.",
    ),
    (
        ("What is a baby {0} called?", "What do you call a baby {0}?", "What is a young {0} called?"),
        "A baby {0} is called {1}.",
    ),
    (("What does a {0} eat?", "What do you feed a {0}?", "What is the food of a {0}?"), "A {0} eats {1}."),
    (("Where does a {0} live?", "Where can I find a {0}?", "What is the home of a {0}?"), "A {0} lives {1}."),
)

_OPPOSITES = tuple(
    tuple(pair.split("-"))
    for pair in words(
        "hot-cold big-small fast-slow up-down left-right day-night black-white good-bad old-new young-old "
        "happy-sad "
        "high-low long-short hard-soft wet-dry full-empty open-closed early-late light-dark rich-poor "
        "strong-weak thick-thin "
        "true-false yes-no on-off in-out hello-goodbye love-hate first-last near-far clean-dirty "
        "loud-quiet sweet-sour "
        "wide-narrow easy-difficult heavy-light front-back inside-outside begin-end push-pull give-take "
        "win-lose buy-sell "
        "question-answer summer-winter north-south east-west top-bottom always-never more-less right-wrong "
        "cheap-expensive "
        "safe-dangerous awake-asleep alive-dead brave-afraid smooth-rough deep-shallow sharp-blunt "
        "war-peace friend-enemy"
    )
)

_OPPOSITE_QUESTIONS = (
    "What is the opposite of {0}?",
    "What is the opposite of {0}?",
    "Opposite of {0}?",
    "The opposite of {0}?",
    "Tell me the opposite of {0}.",
    "What is the contrary of {0}?",
    "Give me the opposite of {0}.",
)

_COLOURS = dict(
    pair.split(":")
    for pair in phrases(
        "the sky:blue,grass:green,snow:white,blood:red,a banana:yellow,a lemon:yellow,coal:black,the "
        "sun:yellow,milk:white,"
        "a tomato:red,an orange:orange,chocolate:brown,the sea:blue,a leaf:green,a strawberry:red,a "
        "carrot:orange,"
        "a frog:green,an elephant:grey,salt:white,a cherry:red,a plum:purple,the night:black,gold:yellow,"
        "silver:grey,"
        "a rose:red,a cucumber:green,wood:brown,an egg:white or brown,a fire truck:red,a polar bear:white"
    )
)

_COLOUR_QUESTIONS = (
    "What colour is {0}?",
    "What color is {0}?",
    "Which colour is {0}?",
    "What is the colour of {0}?",
    "What is the color of {0}?",
    "Tell me the colour of {0}.",
)

_DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

_MONTHS = words("January February March April May June July August September October November December")

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_FACTS = (
    (
        ("How many days are in a week?", "How many days does a week have?", "How long is a week?"),
        "A week has seven days.",
    ),
    (("How many months are in a year?", "How many months does a year have?"), "A year has twelve months."),
    (
        ("How many days are in a year?", "How many days does a year have?", "How long is a year?"),
        "A year has 365 days, and a leap year has 366.",
    ),
    (
        ("How many hours are in a day?", "How many hours does a day have?", "How long is a day?"),
        "A day has 24 hours.",
    ),
    (("How many minutes are in an hour?", "How long is an hour?"), "An hour has 60 minutes."),
    (("How many seconds are in a minute?", "How long is a minute?"), "A minute has 60 seconds."),
    (
        ("How many sides does a triangle have?", "How many corners does a triangle have?"),
        "A triangle has three.",
    ),
    (("How many sides does a square have?", "How many corners does a square have?"), "A square has four."),
    (("How many legs does a spider have?", "How many legs has a spider?"), "A spider has eight legs."),
    (("How many legs does an insect have?", "How many legs does an ant have?"), "It has six legs."),
    (
        ("How many letters are in the alphabet?", "How long is the alphabet?"),
        "The English alphabet has 26 letters.",
    ),
    (
        ("Say the alphabet.", "What is the alphabet?", "Write the alphabet.", "Tell me the alphabet."),
        ", ".join(_LETTERS) + ".",
    ),
    (
        (
            "Name the days of the week.",
            "What are the days of the week?",
            "List the days of the week.",
            "Say the days of the week.",
        ),
        ", ".join(_DAYS) + ".",
    ),
    (
        ("Name the months.", "What are the months of the year?", "List the months.", "Say all months."),
        ", ".join(_MONTHS) + ".",
    ),
    (
        ("Name the seasons.", "What are the four seasons?", "Which seasons are there?"),
        "Spring, summer, autumn and winter.",
    ),
    (
        ("Name the planets.", "What are the planets?", "Which planets are there?", "List the planets."),
        "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune.",
    ),
    (("What is the largest planet?", "Which planet is the biggest?"), "Jupiter is the largest planet."),
    (
        ("What is the largest animal?", "Which animal is the biggest?"),
        "The blue whale is the largest animal.",
    ),
    (
        ("What is the highest mountain?", "Which mountain is the highest?"),
        "Mount Everest is the highest mountain.",
    ),
    (("What is the largest ocean?", "Which ocean is the biggest?"), "The Pacific is the largest ocean."),
    (
        ("What is water made of?", "What is the formula of water?"),
        "Water is made of hydrogen and oxygen: H2O.",
    ),
    (
        ("When does water boil?", "At what temperature does water boil?", "How hot is boiling water?"),
        "Water boils at 100 degrees Celsius.",
    ),
    (
        ("When does water freeze?", "At what temperature does water freeze?"),
        "Water freezes at 0 degrees Celsius.",
    ),
    (("Where does the sun rise?", "Where does the sun come up?"), "The sun rises in the east."),
    (("Where does the sun set?", "Where does the sun go down?"), "The sun sets in the west."),
    (
        ("What colours does a rainbow have?", "What are the colours of the rainbow?"),
        "Red, orange, yellow, green, blue, indigo and violet.",
    ),
    (("What do bees make?", "What does a bee make?"), "Bees make honey."),
    (("Where does milk come from?", "Which animal gives milk?"), "Milk comes from cows."),
    (
        ("What do you get when you mix blue and yellow?", "Blue and yellow make which colour?"),
        "Blue and yellow make green.",
    ),
    (
        ("What do you get when you mix red and yellow?", "Red and yellow make which colour?"),
        "Red and yellow make orange.",
    ),
    (
        ("What do you get when you mix red and blue?", "Red and blue make which colour?"),
        "Red and blue make purple.",
    ),
    (
        ("What is the moon?", "Tell me about the moon."),
        "The moon goes around the Earth once in about a month.",
    ),
    (
        ("What is the sun?", "Tell me about the sun."),
        "The sun is a star. The Earth goes around it once a year.",
    ),
)


def capital(rng: Random) -> Scene:
    """Ask for the capital of a country, or for the country of a capital."""
    country, city = rng.choice(tuple(_CAPITALS.items()))
    if rng.random() < 0.2 and country != "England":
        return ask(rng.choice(_COUNTRY_QUESTIONS).format(city), f"{city} is the capital of {country}.")
    answer = f"The capital of {country} is {city}."
    if rng.random() < 0.2:
        other = rng.choice([name for name in _CAPITALS if name != country])
        follow = Turn(
            rng.choice(("And {0}?", "And of {0}?", "What about {0}?", "{0}?")).format(other),
            f"The capital of {other} is {_CAPITALS[other]}.",
        )
        return Scene(f"{country}, {other}", (Turn(f"What is the capital of {country}?", answer), follow), together=True)
    return ask(rng.choice(_CAPITAL_QUESTIONS).format(country), answer)


def animal(rng: Random) -> Scene:
    """Ask about an animal."""
    name, properties = rng.choice(tuple(_ANIMALS.items()))
    (questions, answer), value = rng.choice(tuple(zip(_ANIMAL_QUESTIONS, properties, strict=True)))
    article = "an" if name[0] in "aeiou" else "a"
    question = rng.choice(questions).replace("a {0}", article + " {0}").format(name)
    return ask(question, answer.replace("A {0}", article.capitalize() + " {0}").format(name, value))


def opposite(rng: Random) -> Scene:
    """Ask for the opposite of a word."""
    pair = rng.choice(_OPPOSITES)
    word, other = pair if rng.random() < 0.6 or pair[1] in ("old", "light") else pair[::-1]
    if word in ("light", "right", "old"):
        word, other = {"light": ("dark", "light"), "right": ("left", "right"), "old": ("new", "old")}[word]
    question = rng.choice(_OPPOSITE_QUESTIONS).format(word)
    return ask(question, f"The opposite of {word} is {other}.")


def colour(rng: Random) -> Scene:
    """Ask for the colour of a thing."""
    thing, name = rng.choice(tuple(_COLOURS.items()))
    plain = thing[0].upper() + thing[1:]
    return ask(rng.choice(_COLOUR_QUESTIONS).format(thing), f"{plain} is {name}.")


def calendar(rng: Random) -> Scene:
    """Ask for the neighbour of a day, a month or a letter."""
    names, of = rng.choice(((_DAYS, "day"), (_MONTHS, "month"), (list(_LETTERS), "letter")))
    index = rng.randrange(len(names))
    name = names[index]
    if rng.random() < 0.6:
        if of == "letter" and index == 25:
            return ask("What comes after Z?", "Nothing: Z is the last letter.")
        question = rng.choice(
            (
                "What {1} comes after {0}?",
                "Which {1} comes after {0}?",
                "What comes after {0}?",
                "What is the {1} after {0}?",
            )
        )
        return ask(question.format(name, of), f"After {name} comes {names[(index + 1) % len(names)]}.")
    if of == "letter" and index == 0:
        return ask("What comes before A?", "Nothing: A is the first letter.")
    question = rng.choice(
        (
            "What {1} comes before {0}?",
            "Which {1} comes before {0}?",
            "What comes before {0}?",
            "What is the {1} before {0}?",
        )
    )
    return ask(question.format(name, of), f"Before {name} comes {names[index - 1]}.")


def fact(rng: Random) -> Scene:
    """Ask for one of a few fixed facts."""
    questions, answer = rng.choice(_FACTS)
    return ask(rng.choice(questions), answer)
