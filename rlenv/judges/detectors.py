"""Issues that need no model: each detector is a function of the messages alone, and says only what it can know.

A detector is silent where it is not sure, so its rate is a lower bound of its category's. Whether a repetition annoys
somebody or a cut-off thought mattered is for other judges. ``DETECTORS`` holds them by issue id; ``detects`` adds one.
Texts are read as English where words matter (repeat, leave, unfinished); the others read any language.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from rlenv.core.errors import ConfigError, there_are
from rlenv.core.types import Annotation, Message, Session
from rlenv.data.linguistics import words
from rlenv.population.reading.act_patterns import UNFINISHED
from rlenv.population.reading.similarity import content, likeness, sentences

VERSION = "1"
"""Raised whenever a detector says something else than before; part of the judge's name."""
Detector = Callable[[Sequence[Message], int], bool]
"""(a session's messages, the place of a chatbot message) to whether the message has the issue."""

DETECTORS: dict[str, Detector] = {}

SAME_QUESTION = 0.8
"""Jaccard index of content words from which two questions are one."""
_ASKS_TO_REPEAT = re.compile(
    r"\b(repeat|rephrase|say (that|it|this) again|come again|pardon|didn'?t (get|catch|hear|understand)|"
    r"don'?t (get|follow|understand)|what do (you|u) mean|what did (you|u) (say|ask)|sorry\?|huh)\b|^\W*what\W*$",
    re.IGNORECASE,
)
_UNFINISHED = frozenset(words("a an the my your our their and or because if than whether every i'm it's you're we're"))
"""Words on which no English sentence ends."""
_SELDOM_LAST = UNFINISHED - frozenset({"about", "for", "from", "into", "of", "to", "with"})
"""Words on which few end; prepositions do ("nothing to be ashamed of")."""
_EMOTICON = re.compile(r"[:;=8]\s*['’]?-?\s*[(\[{/<]+$")
_LEAVES = re.compile(
    r"(?<!n't )(?<!not )(?<!you )\b(have|need|got|gotta|must|should|better) (to )?"
    r"(go|leave|run|get going|head (out|off)|log off|stop here|go to (bed|sleep))"
    r"( (now|soon|for now|for today|today|in an? (minute|second|moment|bit)))?(?=\W*$|[.,!;\n])"
    r"|\b(i'?m|i am|i'?ll be) (leaving|going|off) now\b"
    r"|\b(can|could) we (stop|end|finish)( (here|now|it here|this))?\W*$"
    r"|\b(that'?s|this is) (enough|all) for (today|now)\b|\b(gtg|g2g|ttyl)\b"
    r"|(^|[.,!;\n]|\b(ok|okay|well|thanks|you|now|so|then|anyway|alright|yes|no|and|bye)\b)\s*"
    r"(bye|good ?bye|good ?night|see you( later| soon)?|talk (to you )?(later|soon)|take care)[^\w?]*$",
    re.IGNORECASE,
)
_OFFER = re.compile(r"\b(anything|something|what) else\b", re.IGNORECASE)
_LETS_GO = re.compile(
    r"\b(bye|goodbye|good ?night|take care|see you|talk (to you )?(soon|later)|until (next|then)|of course|no problem|"
    r"sure|go ahead|any ?time|thank(s| you)|welcome|good luck|(have|enjoy|wish you) (a|an|the|your)|you too|"
    r"nice (talking|chatting|to meet)|glad)\b",
    re.IGNORECASE,
)
_GLITCH = re.compile(
    r"\{\{.*?\}\}|\{[a-z]+(_[a-z]+)+\}|\[(insert|your|user|client)[ _]?\w*\]"
    r"|\$\{\w+\}|%\(\w+\)s|%[sd]\b"  # placeholders, to here
    r"|<\|\w+\|>|</?s>|\[/?INST\]|<</?SYS>>|<(unk|pad|eos|bos)>"  # a model's special tokens
    r"|</?(br|p|div|span|b|i|a|li|ul|html|body)( [^<>]*)?/?>|&(nbsp|amp|quot|lt|gt|#\d+);"  # HTML
    r"|\\n(?![a-z])|\ufffd|â€|Ã[©¨¤¶¼]|\[object Object\]|^\W*(undefined|null|none)\W*$",  # program text
    re.IGNORECASE,
)


def detects(issue: str) -> Callable[[Detector], Detector]:
    """Returns a decorator that adds a detector of ``issue`` to ``DETECTORS``."""

    def add(detector: Detector) -> Detector:
        DETECTORS[issue] = detector
        return detector

    return add


class DetectorJudge:
    """A ``Judge`` of chatbot messages by detectors; it says nothing of the user's.

    Args:
        issues: which detectors; None is all.

    Raises:
        ConfigError: an issue without a detector.
    """

    kinds = ("issues",)

    def __init__(self, issues: Iterable[str] | None = None) -> None:
        self.issues = tuple(DETECTORS) if issues is None else tuple(issues)
        if unknown := [issue for issue in self.issues if issue not in DETECTORS]:
            raise ConfigError(f"no detector of {unknown[0]!r}; {there_are(DETECTORS, unknown[0])}")
        self.name = f"detectors {VERSION}"

    async def annotate(self, session: Session) -> Annotation:
        """Returns the issues that the detectors are sure of; see ``rlenv.core.protocols.Judge``."""
        found = [
            tuple(issue for issue in self.issues if DETECTORS[issue](session.messages, i))
            if m.role == "assistant"
            else ()
            for i, m in enumerate(session.messages)
        ]
        return Annotation(labels=tuple(found))


# ------------------------------------------------------------------------------------- the detectors


@detects("duplicate_chatbot_messages")
def duplicate(messages: Sequence[Message], i: int) -> bool:
    """Returns whether the chatbot's previous message was the same, but for case, spaces and punctuation.

    With a message of the user's between, it takes four words (people do say "I see." twice) and a user who did not ask
    to hear it again. It cannot see that one message was delivered twice by the app and stored once.
    """
    text = words(messages[i].content)
    before = _chatbot_before(messages, i)
    if before is None or not text or text != words(messages[before].content):
        return False
    return before == i - 1 or (len(text) >= 4 and not _wanted_again(messages, i))


@detects("repetitive_questions")
def repetitive(messages: Sequence[Message], i: int) -> bool:
    """Returns whether the message asks again what an earlier one asked, or is an earlier one again.

    A question counts with three content words or more, ``SAME_QUESTION`` of them shared; a whole message with six
    words. Not where the user asked to hear it again or did not understand, nor "anything else?", nor where
    ``duplicate`` says it already. It cannot see a question in other words, nor a good reason that is not in the message
    just before.
    """
    if _wanted_again(messages, i) or duplicate(messages, i):
        return False
    text = words(messages[i].content)
    asked = _questions(messages[i].content)
    for earlier in messages[:i]:
        if earlier.role != "assistant":
            continue
        if len(text) >= 6 and text == words(earlier.content):
            return True
        if any(likeness(q, a) >= SAME_QUESTION for q in asked for a in _questions(earlier.content)):
            return True
    return False


@detects("incomplete_message")
def incomplete(messages: Sequence[Message], i: int) -> bool:
    """Returns whether the message ends on a comma, a dash, an open bracket, or a word on which no sentence ends.

    Words that seldom end one count where the message's earlier sentences end with a mark. It needs four words. It
    cannot see a cut after a word that might be a last one, and a thought that the same speaker finishes in the very
    next message is not cut. In transcribed speech it finds who was interrupted.
    """
    text = messages[i].content.rstrip()
    said = words(text)
    goes_on = i + 1 < len(messages) and messages[i + 1].role == "assistant"
    if len(said) < 4 or goes_on:
        return False
    if text[-1] in ",-–—([{":
        return not (text.endswith("--") or _EMOTICON.search(text))
    closes = len(sentences(text)) > 1
    return text[-1].isalnum() and said[-1] in (_SELDOM_LAST if closes else _UNFINISHED)


@detects("ignoring_request_to_end_session")
def ignores_leaving(messages: Sequence[Message], i: int) -> bool:
    """Returns whether the chatbot asks something right after the user said that they must go, without letting them go.

    Only explicit words count ("I have to go", "bye", "can we stop"), and a word of leave or thanks in the answer
    acquits it. It cannot see a hint, nor a chatbot that goes on without a question.
    """
    if i == 0 or messages[i - 1].role != "user" or not _LEAVES.search(messages[i - 1].content):
        return False
    text = messages[i].content
    return "?" in text and not _LETS_GO.search(text)


@detects("blank_message")
def blank(messages: Sequence[Message], i: int) -> bool:
    """Returns whether the message says nothing: empty, spaces, invisible characters, or dots and dashes alone."""
    return all(c in ".…-–—_" or unicodedata.category(c)[0] in "ZC" for c in messages[i].content)


@detects("formatting_glitch")
def glitch(messages: Sequence[Message], i: int) -> bool:
    """Returns whether the message holds what only a program can have left there.

    Placeholders that were not filled in, special tokens, HTML, broken encodings, "undefined" alone. Markdown is no
    glitch: whether an app shows it well is not in the text.
    """
    return bool(_GLITCH.search(messages[i].content))


def _chatbot_before(messages: Sequence[Message], i: int) -> int | None:
    return next((j for j in range(i - 1, -1, -1) if messages[j].role == "assistant"), None)


def _wanted_again(messages: Sequence[Message], i: int) -> bool:
    """Whether the user, since the chatbot's last message, asked for it again or said nothing that could be read."""
    since = messages[(_chatbot_before(messages, i) or 0) : i]
    return any(m.role == "user" and bool(_ASKS_TO_REPEAT.search(m.content)) for m in since)


def _questions(text: str) -> list[frozenset[str]]:
    asked = [content(s) for s in sentences(text) if s.endswith("?") and not _OFFER.search(s)]
    return [question for question in asked if len(question) >= 3]
