"""Chat: sends the person's messages, shows and stores the answers. `commands` change it, `loop` reads the input."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

from cli.asking import DeclinedError
from cli.backend import Answer, Backend, Models
from cli.chat import writing
from cli.chat.bar import bar_text, stats_text
from cli.chat.dialogue import Dialogue, Message
from cli.chat.saving import Saving
from cli.chat.screen import Screen
from cli.chat.transcript import SavedChat, TranscriptError
from cli.chat.writing import Writing
from cli.interrupt import Interrupt
from cli.options import AnswerOptions
from cli.units import waited_text
from cluster.errors import NodeLostError
from mlx_moe.decoding.request import GenerationStats, Request
from mlx_moe.errors import InvalidRequestError, MoeClusterError

logger = logging.getLogger(__name__)


class Chat:
    """A chat with one backend. `draft`: text for the next input line; `unsent`: a message that failed."""

    def __init__(
        self,
        backend: Backend,
        models: Models,
        screen: Screen,
        saving: Saving,
        dialogue: Dialogue,
        options: AnswerOptions,
    ) -> None:
        self.backend = backend
        self.screen = screen
        self.saving = saving
        self.dialogue = dialogue
        self.options = options
        self.verbose = False
        self.think: bool | None = None
        self.draft = ""
        self.unsent = ""
        self.leaving = False
        self.stats: GenerationStats | None = None
        self.answers = 0
        self.answered_tokens = 0
        self.context_used = 0
        self._models = models
        self._conversation = backend.new_conversation()
        self._written: Writing | None = None

    def close(self) -> None:
        """Close the chat's file, its conversation and its backend."""
        self.saving.close()
        self._conversation.close()
        self.backend.close()

    @property
    def bar(self) -> str:
        """The status bar."""
        return bar_text(self.backend.label, self.stats, self.context_used, self.backend.context_tokens)

    def say(self, text: str) -> None:
        """Add a message and answer it. A message without an answer is removed again."""
        waiting = self.dialogue.unanswered  # left by a process that was killed
        if waiting is None or waiting.text != text:
            if waiting is not None:
                self._cut(len(self.dialogue.messages) - 1)
            question = Message("user", text)
            self.dialogue.messages.append(question)
            self.saving.add(question)
        try:
            self._answer_last_question()
        except MoeClusterError as error:
            self.report(error)
            if self._take_back():
                self.unsent = text
                self.screen.notice("not sent; /edit changes it and sends it again")
        finally:
            if self._take_back():  # stopped with Ctrl-C
                self.draft = text

    def retry(self) -> None:
        """Answer the last message again. The new answer replaces the old one once it begins."""
        if self.dialogue.last_question is None:
            raise InvalidRequestError("there is no message yet")
        self._answer_last_question()

    def go_on(self) -> None:
        """Continue the last answer."""
        last = self.dialogue.last_answer
        if last is None:
            raise InvalidRequestError("there is no answer to continue")
        self.backend.ensure_ready()
        written = self._written or writing.resume(self.backend, self.dialogue, self.think)
        self._write(written, len(self.dialogue.messages) - 1, last.text)

    def undo(self) -> str:
        """Remove the last message and its answer; return the message."""
        index = self.dialogue.last_question
        if index is None:
            raise InvalidRequestError("there is nothing to undo")
        text = self.dialogue.messages[index].text
        if index == 0:
            self.begin()
        else:
            self._cut(index)
            self._count_context()
        return text

    def set_system(self, text: str | None) -> None:
        """Change the system message of the whole chat."""
        self.dialogue.system = text
        self.saving.set(system=text)
        self._written = None
        self._count_context()

    def begin(self) -> None:
        """Start a new chat with the same system message. The old chat's file stays unchanged."""
        self._turn_to(Dialogue(self.dialogue.system))
        self.saving.begin(self.dialogue)
        self._count_context()

    def load(self, saved: SavedChat) -> None:
        """Continue a saved chat. A message without an answer (the process was killed) becomes the draft."""
        self._turn_to(saved.dialogue)
        try:
            self.saving.go_on(saved)
        except TranscriptError as error:
            self.screen.notice(f"{error}: a copy goes on here")
        if (waiting := saved.dialogue.unanswered) is not None:
            self.draft = waiting.text
        self._count_context()

    def switch_model(self, name: str) -> None:
        """Load another model; reload the present one if that fails."""
        self._models.check(name)  # raises before the present model is released
        old = self.backend.name
        self._conversation.close()
        self.backend.close()
        try:
            self._use(self._models.open(name))
        except BaseException:
            self._use(self._models.open(old))
            raise
        self.saving.set(model=name)
        self._count_context()

    def report(self, error: MoeClusterError) -> None:
        """Show an error and how the chat continues."""
        logger.debug("event=failed", exc_info=error)
        if isinstance(error, DeclinedError):
            self.screen.notice(str(error))
            return
        self.screen.error(str(error))
        if isinstance(error, NodeLostError):
            self.screen.notice("the next message reloads the model on the remaining nodes")

    def _use(self, backend: Backend) -> None:
        self.backend = backend
        self._conversation = backend.new_conversation()
        self._written = self.stats = None

    def _answer_last_question(self) -> None:
        index = self.dialogue.last_question
        assert index is not None  # the callers checked
        self.backend.ensure_ready()
        self._write(writing.begin(self.backend, self.dialogue, index + 1, self.think), index + 1)

    def _write(self, written: Writing, index: int, before: str | None = None) -> None:
        """Show an answer while it is generated; store it as message `index`, also if it is stopped.

        `before` is the part already on the screen. An answer without tokens is not stored.
        """
        begun = before if before is not None else written.opening
        text, kept = begun, False
        dialect = self.backend.dialect
        request = self._request(written)
        with Interrupt() as interrupt, self.screen.answer(before or "", dialect) as view:

            def progress(done: int, total: int) -> None:
                view.waiting(f"reading {done:,} of {total:,} tokens · Ctrl-C stops")
                interrupt.check()

            def waiting(line: str) -> None:
                if line:
                    view.update(text, f"{line} · Ctrl-C stops")
                interrupt.check()

            view.waiting("reading · Ctrl-C stops")
            answer = self._conversation.answer(request, progress, waiting)
            self.stats = answer.stats
            try:
                for token in answer:
                    text += token.text
                    written.answer_ids.append(token.id)
                    self.context_used = len(written.prompt_ids) + len(written.answer_ids)
                    view.update(text, f"{self.bar} · Ctrl-C stops")
                    if answer.finish_reason is None:
                        interrupt.check()
            except KeyboardInterrupt:
                pass
            finally:
                answer.close()
                written.seed = answer.seed
                if kept := text != begun or answer.finish_reason != "cancelled":
                    view.finish(text)
                    message = Message("assistant", text, answer.finish_reason, dialect)
                    self._keep_answer(written, index, message, answer.stats)
                if interrupt.forced:  # its state may be inconsistent
                    self._conversation.close()
                    self._conversation = self.backend.new_conversation()
        self._say_why(answer, kept)

    def _request(self, written: Writing) -> Request:
        """Return the request for the next tokens. Raises InvalidRequestError if the context is full."""
        input_ids = written.input_ids
        room = self.backend.context_tokens - len(input_ids)
        if room < 1:
            raise InvalidRequestError(self._context_full(len(input_ids)))
        request = self.options.build(input_ids, self.backend.sampling)
        if request.sampling.seed is None and written.seed is not None:
            request = replace(request, sampling=replace(request.sampling, seed=written.seed))
        return request if request.max_tokens is None else replace(request, max_tokens=min(request.max_tokens, room))

    def _keep_answer(self, written: Writing, index: int, message: Message, stats: GenerationStats) -> None:
        in_place_of = index if len(self.dialogue.messages) > index else None
        self.dialogue.messages[index:] = [message]
        self.saving.add(message, in_place_of=in_place_of, seed=written.seed, tokens=stats.generated_tokens)
        self.answers += 1
        self.answered_tokens += stats.generated_tokens
        if message.finish_reason == "stop":
            del written.answer_ids[-1:]  # the end-of-sequence token
        self._written = None
        with suppress(NodeLostError):  # the loss may have ended the answer, which is stored anyway
            self._written = written if writing.matches(self.backend, written, message.text) else None

    def _say_why(self, answer: Answer, kept: bool) -> None:
        """Say in one grey line why an answer ended if the model did not end it."""
        context = self.backend.context_tokens
        if not kept:
            self.screen.notice("stopped before the answer began")
        elif answer.finish_reason == "cancelled":
            self.screen.notice("stopped; /continue goes on")
        elif answer.finish_reason == "loop":
            self.screen.notice("stopped: the answer was repeating itself; /retry tries again, /set loops on allows it")
        elif answer.finish_reason == "length" and self.context_used >= context:
            self.screen.notice(self._context_full(self.context_used))
        elif answer.finish_reason == "length":
            self.screen.notice(f"stopped: max_tokens ({answer.stats.generated_tokens:,}) reached; /continue goes on")
        elif answer.stats.generated_tokens <= 1:
            self.screen.notice("the model gave an empty answer; /retry tries again")
        if answer.stats.waited_for:
            self.screen.notice(waited_text(answer.stats))
        if self.verbose:
            self.screen.notice(stats_text(answer.stats))

    def _context_full(self, tokens: int) -> str:
        if len(self.dialogue.messages) == 1:
            room = f"{self.backend.name} has room for {self.backend.context_tokens:,}"
            return f"the message is too long: the chat would need {tokens:,} tokens; {room}"
        return (
            f"the context is full: this chat needs {tokens:,} tokens; {self.backend.name} has room for "
            f"{self.backend.context_tokens:,}. /new starts a new chat, /undo removes the last message and its answer"
        )

    def _take_back(self) -> bool:
        """Remove an unanswered message; return whether there was one."""
        if self.dialogue.unanswered is None:
            return False
        self._cut(len(self.dialogue.messages) - 1)
        return True

    def _cut(self, count: int) -> None:
        del self.dialogue.messages[count:]
        self.saving.keep(count)
        self._written = None

    def _turn_to(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self._written = self.stats = None

    def _count_context(self) -> None:
        """Count the chat's tokens without generating an answer."""
        count = len(self.dialogue.messages)
        whole = writing.begin(self.backend, self.dialogue, count, self.think) if count else None
        self.context_used = len(whole.prompt_ids) if whole else 0
