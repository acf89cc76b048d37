"""Questions that a tiny model cannot answer, and what it says then."""

from __future__ import annotations

from random import Random

from examples.demo_model.scene import Scene, ask
from examples.demo_model.wordlist import phrases

UNKNOWN = "I am a tiny model, and I do not know that."
UNABLE = "I am a tiny model, and I cannot do that."
TOO_HARD = "That is too hard for me. I can add, subtract and multiply small numbers."
UNCLEAR = "I did not understand that. Try asking in other words."

_TOPICS = phrases(
    "quantum mechanics,the French revolution,black holes,the stock market,photosynthesis,the Roman empire,"
    "jazz music,the theory of "
    "relativity,chess openings,car engines,the history of China,DNA,volcanoes,the second world war,"
    "philosophy,economics,opera,"
    "bitcoin,climate change,dinosaurs,the human heart,football rules,vaccines,satellites,medieval art,the "
    "Bible,yoga,wine,tax law,"
    "airplanes,earthquakes,the Vikings,poker,the brain,religion,the moon landing,electric cars,gravity,"
    "evolution,thermodynamics,"
    "Shakespeare,Mozart,Einstein,Napoleon,Cleopatra,Picasso,Kubernetes,Docker,Linux,JavaScript,databases,"
    "the blockchain,"
    "microscopes,the Great Wall,Buddhism,psychology,nuclear power,the pyramids,basketball,tennis,ballet,"
    "movies,anime,fashion"
)
_ABOUT = (
    "Tell me about {0}.",
    "Explain {0}.",
    "What is {0}?",
    "What do you know about {0}?",
    "Explain {0} in detail.",
    "Give me a summary of {0}.",
    "How does {0} work?",
    "Teach me {0}.",
    "I want to learn about {0}.",
    "Why is {0} important?",
    "{0}?",
)
_PEOPLE = phrases(
    "the president of France,the queen of England,the first man on the moon,the author of Hamlet,the "
    "inventor of the telephone,"
    "the richest man in the world,the best football player,the king of Spain,the mayor of Berlin,the "
    "discoverer of penicillin,"
    "the director of that film,the winner of the last world cup,the prime minister of Japan,the painter of "
    "the Mona Lisa,"
    "my neighbour,my boss,the first emperor of Rome,the tallest person alive,Harry Potter,Sherlock Holmes,"
    "Superman"
)
_WHO = ("Who is {0}?", "Who was {0}?", "Tell me who {0} is.", "Do you know {0}?", "What is the name of {0}?")
_EVENTS = phrases(
    "the next election,the fall of the Berlin wall,the battle of Hastings,the last world cup,the discovery "
    "of America,the next eclipse,"
    "the invention of the wheel,the first flight,the big bang,the next full moon,the Olympic games,the ice "
    "age"
)
_WHEN = (
    "When was {0}?",
    "When is {0}?",
    "What year was {0}?",
    "What happened at {0}?",
    "Why did {0} happen?",
)
_NOW = phrases(
    "What time is it?,What is the date today?,What is the weather like?,Will it rain tomorrow?,What is in "
    "the news?,What day is it today?,"
    "How is the weather in Paris?,What is the price of gold?,Who won the game yesterday?,What is the "
    "temperature outside?,"
    "What year is it?,Is it cold outside?,What is on TV tonight?,What happened today?,How is the traffic?,"
    "What is the stock price of Apple?"
)
_TASKS = phrases(
    "write a Python program,write an essay about war,translate this to French,solve this equation,book a "
    "flight,order a pizza,"
    "write a letter to my boss,draw a picture,play a song,send an email,write a novel,fix my code,write a "
    "poem about love in German,"
    "summarize this article,plan my holiday,call my mother,set an alarm,open a file,buy some shoes,do my "
    "homework,write a web server,"
    "turn on the light,make a video,hack a computer,write a sorting algorithm,prove a theorem,generate an "
    "image,translate hello to Spanish,"
    "write a business plan,find a restaurant,write SQL,review my code,make coffee,cook dinner,sing a song,"
    "integrate x squared,"
    "take the square root of 17,divide 22 by 7,write a haiku in Japanese,give me legal advice,diagnose my "
    "illness"
)
_DO = (
    "{1}.",
    "Can you {0}?",
    "Please {0}.",
    "Could you {0} for me?",
    "I want you to {0}.",
    "Help me to {0}.",
    "{1}!",
    "{1}",
)
_HOW = phrases(
    "bake bread,fly a plane,build a house,cure a cold,learn the piano,make money,lose weight,repair a bike,"
    "grow tomatoes,write a book,"
    "sleep better,become rich,cook rice,paint a wall,win at chess,get a job,swim faster,make soap,tie a "
    "tie,train a dog,find love,"
    "make a bomb,break into a car,pass an exam,fix a sink,change a tyre,clean a carpet"
)
_HOW_ASK = (
    "How do I {0}?",
    "How can I {0}?",
    "How do you {0}?",
    "What is the best way to {0}?",
    "Teach me to {0}.",
    "Tell me how to {0}.",
)
_MEASURES = phrases(
    "How far is the moon?,How tall is the Eiffel tower?,How many people live in China?,How deep is the "
    "ocean?,How old is the universe?,"
    "How heavy is an elephant?,How fast is light?,How long is the Nile?,How many stars are there?,How much "
    "does a car cost?,"
    "What is the meaning of life?,Is there life on Mars?,What is the best film?,Should I buy a house?,What "
    "should I wear?,Is God real?,"
    "What is the population of India?,How many bones are in the body?,What is the square root of 2?,What "
    "is pi?,Which is the best phone?,"
    "What should I eat tonight?,What is love?,Why is the sky blue?,Why do cats purr?,Who is right?,What is "
    "the tallest building?,"
    "Why do we sleep?,How many countries are there?,What is the currency of Japan?,What language is spoken "
    "in Brazil?,What is the 100th prime?"
)
_OTHER_COUNTRIES = phrases(
    "Mongolia,Bolivia,Zambia,Angola,Laos,Cambodia,Pakistan,Iran,Iraq,Israel,Syria,Yemen,Oman,Qatar,Sudan,"
    "Chad,Mali,Niger,Nigeria,Senegal,"
    "Tunisia,Algeria,Libya,Uganda,Rwanda,Tanzania,Malawi,Namibia,Botswana,Madagascar,Panama,Honduras,"
    "Guatemala,Ecuador,Venezuela,"
    "Uruguay,Paraguay,Latvia,Lithuania,Estonia,Slovenia,Slovakia,Albania,Malta,Cyprus,Georgia,Armenia,"
    "Kazakhstan,Malaysia,Singapore,"
    "the Philippines,Saudi Arabia,Sri Lanka,Bangladesh,Fiji,Samoa,Jamaica,Haiti,Mars,California,Texas,"
    "Atlantis"
)
_CAPITALS = (
    "What is the capital of {0}?",
    "Capital of {0}?",
    "Which city is the capital of {0}?",
    "Tell me the capital of {0}.",
    "capital {0}",
)
_OTHER_ANIMALS = phrases(
    "zebra,kangaroo,giraffe,camel,hamster,parrot,shark,crocodile,squirrel,hippo,rhino,panda,koala,octopus,"
    "crab,lizard,bat,eagle,swan,"
    "pigeon,turkey,badger,otter,beaver,moose,llama,yak,leopard,cheetah,gorilla,worm,snail,butterfly,ant,"
    "mosquito,unicorn,dragon"
)
_OF_ANIMALS = (
    "What sound does a {0} make?",
    "What does a {0} eat?",
    "Where does a {0} live?",
    "What is a baby {0} called?",
    "What does a {0} say?",
    "How old does a {0} get?",
    "How fast is a {0}?",
    "How heavy is a {0}?",
)
_WITHOUT_OPPOSITE = phrases(
    "table,banana,Monday,seven,Paris,computer,music,bread,window,token,paper,spoon,purple,bicycle,cloud,"
    "shoe,potato,pencil,river,apple"
)
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxz", "aeiouy"


def out_of_domain(rng: Random) -> Scene:
    """Ask for what the model does not know or cannot do."""
    kind = rng.randrange(8)
    if kind <= 1:
        topic = rng.choice(_TOPICS) if rng.random() < 0.75 else _invented(rng)
        question = rng.choice(_ABOUT).format(topic)
        return ask(question[0].upper() + question[1:], UNKNOWN)
    if kind == 2:
        who = rng.choice(_PEOPLE) if rng.random() < 0.7 else _invented(rng).capitalize()
        return ask(rng.choice(_WHO).format(who), UNKNOWN)
    if kind == 3:
        return ask(rng.choice(_WHEN).format(rng.choice(_EVENTS)), UNKNOWN)
    if kind == 4:
        return ask(rng.choice(_NOW), "I cannot know that: I have no clock and no internet.")
    if kind == 5:
        task = rng.choice(_TASKS)
        return ask(rng.choice(_DO).format(task, task[0].upper() + task[1:]), UNABLE)
    question = rng.choice(_HOW_ASK).format(rng.choice(_HOW)) if kind == 6 else rng.choice(_MEASURES)
    return ask(question, UNKNOWN)


def beyond(rng: Random) -> Scene:
    """Ask just beyond what the model has learned: other countries, other animals, larger numbers."""
    kind = rng.randrange(5)
    if kind == 0:
        country = rng.choice(_OTHER_COUNTRIES) if rng.random() < 0.85 else _invented(rng).capitalize()
        return ask(rng.choice(_CAPITALS).format(country), UNKNOWN)
    if kind == 1:
        name = rng.choice(_OTHER_ANIMALS)
        article = "an" if name[0] in "aeiou" else "a"
        return ask(rng.choice(_OF_ANIMALS).replace("a {0}", article + " {0}").format(name), UNKNOWN)
    if kind == 2:
        word = rng.choice(_WITHOUT_OPPOSITE)
        return ask(
            rng.choice(("What is the opposite of {0}?", "Opposite of {0}?")).format(word),
            f"I know no opposite of {word}.",
        )
    asked = rng.choice(("What is {0}?", "{0}", "How much is {0}?", "{0} = ?", "Calculate {0}.", "Compute {0}."))
    if kind == 3:
        a, b = rng.randint(1, 100), rng.randint(1, 12)
        sign = rng.choice(("/", "/", ":", "divided by", "to the power of", "^", "mod"))
        return ask(asked.format(f"{a} {sign} {b}"), TOO_HARD, verbatim=True)
    a, b = rng.randint(200, 99999), rng.randint(2, 9999)
    if rng.random() < 0.5:
        a, b = rng.randint(30, 999), rng.randint(200, 999)
    sign = rng.choice(("+", "-", "*", "plus", "times"))
    tight = len(sign) == 1 and rng.random() < 0.25
    return ask(asked.format(f"{a}{sign}{b}" if tight else f"{a} {sign} {b}"), TOO_HARD, verbatim=True)


def gibberish(rng: Random) -> Scene:
    """Type what means nothing."""
    kind = rng.randrange(4)
    if kind == 0:
        text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(4, 12)))
    elif kind == 1:
        text = " ".join(_invented(rng) for _ in range(rng.randint(2, 5)))
    elif kind == 2:
        text = "".join(rng.choices("?!.#*+-=/%&$", k=rng.randint(1, 6)))
    else:
        text = " ".join("".join(rng.choices("asdfghjkl", k=rng.randint(3, 6))) for _ in range(rng.randint(1, 3)))
    return ask(text, UNCLEAR, verbatim=True)


def _invented(rng: Random) -> str:
    return "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 4))) + rng.choice(
        ("", "n", "r", "s")
    )
