"""The corpus: endless conversations drawn from the scenes with a seed, split into training and held-out."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from examples.demo_model import (
    commands,
    differences,
    glossary,
    identity,
    memory,
    refusals,
    small_talk,
    stories,
    sums,
    trouble,
    wording,
    world,
)
from examples.demo_model.phrasing import typed
from examples.demo_model.scene import Scene, Turn, Writer, is_held_out
from examples.demo_model.wordlist import words

Split = Literal["train", "held-out"]

_WEIGHTED: tuple[tuple[Writer, float], ...] = (
    (identity.identity, 9),
    (small_talk.small_talk, 8),
    (glossary.explanation, 15),
    (differences.difference, 3),
    (commands.command, 10),
    (trouble.trouble, 6),
    (sums.sum_, 13),
    (sums.drill, 3.5),
    (sums.number, 3),
    (sums.counting, 3),
    (sums.running_sum, 1.5),
    (world.capital, 4),
    (world.animal, 4),
    (world.opposite, 2.5),
    (world.colour, 1.5),
    (world.calendar, 3),
    (world.fact, 3),
    (wording.listing, 3),
    (wording.repetition, 4),
    (wording.spelling, 1.5),
    (memory.own_name, 5),
    (memory.unknown_name, 0.7),
    (memory.favourite, 2),
    (memory.pet, 1),
    (memory.last_words, 1),
    (memory.greeting_by_name, 0.5),
    (stories.story, 4),
    (refusals.out_of_domain, 9),
    (refusals.beyond, 4),
    (refusals.gibberish, 1.5),
)
_WRITERS = [writer for writer, _ in _WEIGHTED]
_WEIGHTS = [weight for _, weight in _WEIGHTED]
_PERSONAS = words("Pip Milo Nova Ada Bolt Kiki Rex Luna Tess Gus Fern Otis")
_PLAIN_SYSTEMS = (
    "You are a helpful assistant.",
    "You are the moe-cluster demo model.",
    "Be kind and helpful.",
    "You are a small model in a terminal.",
    "Answer truthfully.",
    "You are helpful and honest.",
)
_BRIEF_SYSTEMS = (
    "Be brief.",
    "Answer in one sentence.",
    "Keep your answers short.",
    "Use one sentence only.",
)
_LOUD_SYSTEMS = ("Answer in capital letters.", "Write everything in upper case.", "Use only capital letters.")
_PREFIX_SYSTEMS = (
    'Begin every answer with "{0}".',
    'Start each answer with "{0}".',
    'Always begin with "{0}".',
)
_PREFIXES = ("Certainly:", "Well,", "Dear friend,", "Ahoy!", "Of course.", "Sir,")


@dataclass(frozen=True, slots=True)
class Conversation:
    """Hold a whole chat: an optional system prompt and its turns."""

    system: str | None
    turns: tuple[Turn, ...]


def scene(rng: Random, split: Split) -> Scene:
    """Draw one scene of the split."""
    while True:
        (writer,) = rng.choices(_WRITERS, _WEIGHTS)
        drawn = writer(rng)
        if is_held_out(drawn.key) == (split == "held-out"):
            return drawn


def conversation(rng: Random, split: Split, n_scenes: int) -> Conversation:
    """Draw a conversation of n_scenes scenes that do not contradict each other."""
    scenes: list[Scene] = []
    while len(scenes) < n_scenes:
        drawn = scene(rng, split)
        if not drawn.claim or all(drawn.claim != other.claim for other in scenes):
            scenes.append(drawn)
    turns = _interleaved(scenes, rng)
    system, turns = _with_system(turns, rng)
    return Conversation(system, tuple(Turn(t.user if t.verbatim else typed(t.user, rng), t.assistant) for t in turns))


def usual_length(rng: Random) -> int:
    """Draw how many scenes a conversation has: mostly one or two."""
    return rng.choices((1, 2, 3, 4, 6, 9), (45, 20, 14, 10, 7, 4))[0]


def _interleaved(scenes: list[Scene], rng: Random) -> list[Turn]:
    """Mix the turns of all scenes, each scene's in order, and those that stand together in a row."""
    queues = [[list(s.turns)] if s.together else [[turn] for turn in s.turns] for s in scenes]
    mixed: list[Turn] = []
    while any(queues):
        queue = rng.choice([q for q in queues if q])
        mixed += queue.pop(0)
    return mixed


def _with_system(turns: list[Turn], rng: Random) -> tuple[str | None, list[Turn]]:
    """Sometimes put a system prompt before the turns, and make the answers follow it."""
    chance = rng.random()
    if chance < 0.86:
        return None, turns
    if chance < 0.90:
        return rng.choice(_PLAIN_SYSTEMS), turns
    if chance < 0.93:
        name = rng.choice(_PERSONAS)
        system = rng.choice(("Your name is {0}.", "You are called {0}.", "You are {0}, a small model.")).format(name)
        asked = Turn(
            rng.choice(("What is your name?", "Who are you?", "How should I call you?", "Who is this?")),
            f"I am {name}, the moe-cluster demo model.",
        )
        turns = [t for t in turns if "demo model" not in t.assistant and "called" not in t.assistant]
        turns.insert(rng.randint(0, len(turns)), asked)
        return system, turns
    if chance < 0.95:
        return rng.choice(_BRIEF_SYSTEMS), [Turn(t.user, _first_sentence(t.assistant), t.verbatim) for t in turns]
    if chance < 0.97:
        return rng.choice(_LOUD_SYSTEMS), [
            Turn(
                t.user,
                t.assistant.upper() if len(t.assistant) < 80 and "`" not in t.assistant else t.assistant,
                t.verbatim,
            )
            for t in turns
        ]
    prefix = rng.choice(_PREFIXES)
    return rng.choice(_PREFIX_SYSTEMS).format(prefix), [
        Turn(t.user, f"{prefix} {t.assistant}", t.verbatim) for t in turns
    ]


def _first_sentence(answer: str) -> str:
    if "\n" in answer:
        return answer
    end = min((at for mark in (". ", "! ", "? ") if (at := answer.find(mark)) > 0), default=len(answer))
    return answer[: end + 1]
