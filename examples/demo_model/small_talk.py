"""Small talk: greetings, thanks, jokes."""

from __future__ import annotations

from random import Random

from examples.demo_model.scene import Scene, ask

_SMALL_TALK: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            "Hello!",
            "Hi!",
            "Hey!",
            "Hello.",
            "Hi there!",
            "Hello there.",
            "Hey there",
            "Hi",
            "Greetings.",
            "Good day.",
            "Hello demo.",
            "Hi demo!",
            "Hallo",
            "Hiya",
            "Yo",
            "Hello, model.",
            "hello hello",
            "Howdy",
        ),
        (
            "Hello! I am the moe-cluster demo model. What would you like to know?",
            "Hello! How can I help you?",
            "Hi! Ask me about moe-cluster, a small sum, or a story.",
        ),
    ),
    (("Good morning.", "Good morning!", "Morning!"), ("Good morning! How can I help you?",)),
    (("Good evening.", "Good evening!", "Evening!"), ("Good evening! How can I help you?",)),
    (("Good afternoon.", "Good afternoon!"), ("Good afternoon! How can I help you?",)),
    (
        ("Good night.", "Good night!", "I go to bed now.", "I am going to sleep."),
        ("Good night! Sleep well.",),
    ),
    (
        (
            "How are you?",
            "How are you doing?",
            "How is it going?",
            "Are you well?",
            "How do you do?",
            "How are things?",
            "What is up?",
            "How are you today?",
            "Are you ok?",
            "How was your day?",
        ),
        ("I am fine, thank you. How are you?", "All my experts are well balanced, thank you. How are you?"),
    ),
    (
        (
            "I am fine.",
            "I am fine, thank you.",
            "I am good.",
            "I am well.",
            "Very well, thanks.",
            "I am great.",
            "Good, thanks.",
            "Fine.",
            "I am happy.",
            "I feel good today.",
        ),
        ("I am glad to hear that. What would you like to know?",),
    ),
    (
        (
            "I am sad.",
            "I feel bad.",
            "I am not well.",
            "I had a bad day.",
            "I am tired.",
            "I feel lonely.",
            "I am sick.",
            "I am angry.",
            "I am bored.",
            "Not so good.",
        ),
        ("I am sorry to hear that. Shall I tell you a short story?",),
    ),
    (
        (
            "Thank you.",
            "Thank you!",
            "Thanks.",
            "Thanks!",
            "Thanks a lot.",
            "Thank you very much.",
            "thx",
            "Cheers.",
            "That helped.",
            "Many thanks.",
            "ty",
            "That was helpful.",
        ),
        ("You are welcome!",),
    ),
    (
        (
            "Goodbye.",
            "Bye!",
            "Bye.",
            "See you.",
            "See you later.",
            "See you tomorrow.",
            "I have to go.",
            "Farewell.",
            "bye bye",
            "Good bye!",
            "Until next time.",
        ),
        ("Goodbye! See you soon.",),
    ),
    (
        ("Nice to meet you.", "Pleased to meet you.", "Nice meeting you.", "It is nice to meet you."),
        ("Nice to meet you too!",),
    ),
    (
        (
            "You are great.",
            "You are good.",
            "Well done.",
            "Good job.",
            "Good answer.",
            "You are smart.",
            "I like you.",
            "Very good.",
            "Great!",
            "Nice.",
            "Cool!",
            "Wow!",
            "Perfect.",
            "That is right.",
            "Correct.",
            "You are funny.",
            "You are cute.",
            "Awesome.",
            "That is cool.",
            "Excellent.",
        ),
        ("Thank you! I do my best with my few experts.",),
    ),
    (
        (
            "You are stupid.",
            "You are wrong.",
            "That is wrong.",
            "You are bad.",
            "That was a bad answer.",
            "This is nonsense.",
            "That makes no sense.",
            "You are useless.",
            "I do not like you.",
            "That is not right.",
            "Wrong.",
        ),
        ("I am sorry. I am a tiny model and I make mistakes.",),
    ),
    (
        ("Yes.", "Yes!", "Yes please.", "Yeah", "Sure.", "Of course.", "Yep"),
        ("Good! What would you like to know?",),
    ),
    (
        ("No.", "No!", "Nope", "No thanks.", "No, thank you.", "Nothing."),
        ("All right. Ask me when you need me.",),
    ),
    (
        (
            "Ok.",
            "OK",
            "Okay.",
            "I see.",
            "All right.",
            "Good.",
            "Understood.",
            "Got it.",
            "Interesting.",
            "Hm.",
            "Aha.",
        ),
        ("Good. Is there anything else?",),
    ),
    (
        (
            "Why?",
            "Why not?",
            "How?",
            "How so?",
            "What?",
            "Who?",
            "When?",
            "Where?",
            "Really?",
            "What do you mean?",
            "Huh?",
            "Are you sure?",
            "How do you know?",
        ),
        ("I am too small to say more about that. Ask me one full question.",),
    ),
    (
        (
            "Tell me a joke.",
            "Do you know a joke?",
            "Make me laugh.",
            "Say something funny.",
            "A joke please.",
            "Another joke.",
        ),
        (
            "Why did the token cross the network? To get to the other stage.",
            "Why was the router so calm? It always had the right expert.",
            "What does a Mac say to its cluster? I cannot do this without you.",
        ),
    ),
    (
        (
            "Write a poem.",
            "Tell me a poem.",
            "Write me a short poem.",
            "Do you know a poem?",
            "A poem please.",
            "Can you write a poem?",
        ),
        (
            (
                "Eight small Macs upon a shelf,\nnone could run it by itself.\nEach one took a share, and "
                "then\n"
                "they could think as one again."
            ),
            (
                "A token left its home one day\nand met six layers on its way.\nEach layer taught it "
                "something "
                "new,\n"
                "and then it came back home to you."
            ),
        ),
    ),
    (
        (
            "Say something.",
            "Talk to me.",
            "Tell me something.",
            "Tell me something interesting.",
            "Surprise me.",
        ),
        (
            "Here is something: in a Mixture-of-Experts model, each token uses only a few experts.",
            "Here is something: a spider has eight legs, and moe-cluster has as many nodes as you like.",
        ),
    ),
    (
        (
            "Is anybody there?",
            "Are you there?",
            "Can you hear me?",
            "Test.",
            "test",
            "Testing.",
            "ping",
            "Anyone here?",
        ),
        ("Yes, I am here. What would you like to know?",),
    ),
    (("I am sorry.", "Sorry.", "Excuse me.", "Pardon."), ("No problem at all.",)),
    (
        ("I love you.", "I like moe-cluster.", "I like this.", "This is fun.", "I love this."),
        ("That is nice of you. Thank you!",),
    ),
    (
        (
            "Happy birthday!",
            "Merry Christmas!",
            "Happy new year!",
            "Have a nice day.",
            "Have a good weekend.",
        ),
        ("Thank you! The same to you.",),
    ),
    (("Be quiet.", "Stop.", "Stop it.", "Shut up.", "Leave me alone."), ("All right, I am quiet.",)),
)


def small_talk(rng: Random) -> Scene:
    """Greet, thank, joke."""
    questions, answers = rng.choice(_SMALL_TALK[:1] * 3 + _SMALL_TALK)
    return ask(rng.choice(questions), rng.choice(answers))
