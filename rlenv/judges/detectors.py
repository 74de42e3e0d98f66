"""Rule-based detectors of issues: functions of the messages alone that report only what they are sure of.

A detector reports nothing where it is not sure, so its rate is a lower bound of the category's rate. Whether a
repetition annoyed the user or a cut-off sentence mattered is left to other judges. Where the user asked for a text,
such as a letter or a program, its placeholders are the user's to fill. ``DETECTORS`` has the detectors by issue id;
``detects`` adds one. Those that depend on words (repetition, leaving, incomplete messages) read English; the others
read any language.
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

VERSION = "2"
"""Raised whenever a detector's results change; part of the judge's name."""
Detector = Callable[[Sequence[Message], int], bool]
"""Takes a session's messages and the index of a chatbot message; returns whether that message has the issue."""

DETECTORS: dict[str, Detector] = {}

SAME_QUESTION = 0.8
"""Two questions are the same if the Jaccard index of their content words is at least this."""
_ASKS_TO_REPEAT = re.compile(
    r"\b(repeat|rephrase|say (that|it|this) again|come again|pardon|didn'?t (get|catch|hear|understand)|"
    r"don'?t (get|follow|understand)|what do (you|u) mean|what did (you|u) (say|ask)|sorry\?|huh)\b|^\W*what\W*$",
    re.IGNORECASE,
)
_UNFINISHED = frozenset(words("a an the my your our their and or because if than whether every i'm it's you're we're"))
"""Words with which no English sentence ends."""
_SELDOM_LAST = UNFINISHED - frozenset({"about", "for", "from", "into", "of", "to", "with"})
"""Words with which few sentences end; prepositions are not among them ("nothing to be ashamed of")."""
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
_PLACEHOLDER = re.compile(
    r"\{\{.*?\}\}|(?<![_^\w\\])\{[a-z]+(_[a-z]+)+\}|\[(insert|your|user|client)[ _]?\w*\]"
    r"|\$\{\w+\}|%\(\w+\)s|%[sd]\b"
    r"|</?(br|p|div|span|b|i|a|li|ul|html|body)( [^<>]*)?/?>|&(nbsp|amp|quot|lt|gt|#\d+);"  # HTML
    r"|\\n(?![a-z])",
    re.IGNORECASE,
)
"""What a program should have replaced, unless the user wants a program or a text to fill."""
_GLITCH = re.compile(
    r"<\|\w+\|>|</?s>|\[/?INST\]|<</?SYS>>|<(unk|pad|eos|bos)>"  # a model's special tokens
    r"|\ufffd|â€|Ã[©¨¤¶¼]|\[object Object\]|\A\s*(undefined|null|none)\s*\Z",  # program text
    re.IGNORECASE,
)
_ASKS_FOR_TEXT = re.compile(
    r"\b((re)?write|draft|compose|create|generate|prepare|revise|proofread|translate|edit|make|give|show|need|help)\b"
    r"[^.!?\n]*\b(letters?|e-?mails?|messages?|drafts?|essays?|articles?|poems?|stor(y|ies)|speech|r[eé]sum[eé]s?|cvs?|"
    r"blog|posts?|reports?|summar(y|ies)|documents?|proposals?|plans?|notes?|scripts?|code|functions?|programs?)\b"
    r"|\b(templates?|html|css|python|javascript|sql|latex|markdown|json|regex|jinja)\b",
    re.IGNORECASE,
)
"""What users say who want a text or a program."""
_CODE = re.compile(r"```.*?(```|\Z)|`[^`\n]+`", re.DOTALL)
_CORRECTS = re.compile(
    r"\b(not (quite|exactly|right|correct)|incorrect|try (it |that |this )?again|double.?check|check your)\b"
    r"|(^|[.!\n])\s*(so |very )?(almost|close|nearly)\b",
    re.IGNORECASE,
)
"""What a chatbot says that asks again because the answer was wrong."""
_NUMBER_WORDS = frozenset(
    words(
        "zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred "
        "thousand half first second third fourth fifth sixth seventh eighth ninth tenth next last other another"
    )
)


def detects(issue: str) -> Callable[[Detector], Detector]:
    """Returns a decorator that adds a detector of ``issue`` to ``DETECTORS``."""

    def add(detector: Detector) -> Detector:
        DETECTORS[issue] = detector
        return detector

    return add


class DetectorJudge:
    """A ``Judge`` that labels chatbot messages with the detectors; user messages get no labels.

    Args:
        issues: the issues to detect; None is all.

    Raises:
        ConfigError: an issue has no detector.
    """

    kinds = ("issues",)

    def __init__(self, issues: Iterable[str] | None = None) -> None:
        self.issues = tuple(DETECTORS) if issues is None else tuple(issues)
        if unknown := [issue for issue in self.issues if issue not in DETECTORS]:
            raise ConfigError(f"there is no detector of {unknown[0]!r}; {there_are(DETECTORS, unknown[0])}")
        self.name = f"detectors {VERSION}"

    async def annotate(self, session: Session) -> Annotation:
        """Returns the detected issues of every chatbot message; see ``rlenv.core.protocols.Judge``."""
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
    """Returns whether the chatbot's previous message was the same, apart from case, spaces and punctuation.

    If a user message is in between, the message must have at least four words ("I see." may be repeated) and the user
    must not have asked for a repetition. A message that the app showed twice but stored once is not detected.
    """
    text = words(messages[i].content)
    before = _chatbot_before(messages, i)
    if before is None or not text or text != words(messages[before].content):
        return False
    return before == i - 1 or (len(text) >= 4 and not _wanted_again(messages, i))


@detects("repetitive_questions")
def repetitive(messages: Sequence[Message], i: int) -> bool:
    """Returns whether the message repeats an earlier question of the chatbot, or a whole earlier message.

    A question counts if it has at least three content words, shares ``SAME_QUESTION`` of them, and has the same
    numbers, names and single letters; a whole message if it has six words or more. Not counted: repetitions that the
    user asked for or after they did not understand, a question that is asked again because the answer was wrong,
    "anything else?", and what ``duplicate`` detects. A rephrased question is not detected, and a good reason for a
    repetition is seen only in the message just before.
    """
    if _wanted_again(messages, i) or duplicate(messages, i):
        return False
    text = words(messages[i].content)
    asked = [] if _CORRECTS.search(messages[i].content) else _questions(messages[i].content)
    for earlier in messages[:i]:
        if earlier.role != "assistant":
            continue
        if len(text) >= 6 and text == words(earlier.content):
            return True
        before = _questions(earlier.content)
        if any(n == m and likeness(q, a) >= SAME_QUESTION for q, n in asked for a, m in before):
            return True
    return False


@detects("incomplete_message")
def incomplete(messages: Sequence[Message], i: int) -> bool:
    """Returns whether the message ends with a comma, a dash, an open bracket, or a word that ends no sentence.

    Words that rarely end a sentence count only if the message's earlier sentences end with punctuation. The message
    must have at least four words. A cut after a word that could be the last one is not detected; a sentence that the
    chatbot finishes in its next message is not counted. In transcribed speech, this finds interruptions.
    """
    text = messages[i].content.rstrip()
    tokens = words(text)
    continued = i + 1 < len(messages) and messages[i + 1].role == "assistant"
    if len(tokens) < 4 or continued:
        return False
    if text[-1] in ",-–—([{":
        if _wants_text(messages, i) or "```" in text:  # a letter ends with "Yours," and a program with a bracket
            return False
        return not (text.endswith("--") or _EMOTICON.search(text))
    punctuated = len(sentences(text)) > 1
    return (
        text[-1].isalnum() and not text.endswith(" A") and tokens[-1] in (_SELDOM_LAST if punctuated else _UNFINISHED)
    )


@detects("ignoring_request_to_end_session")
def ignores_leaving(messages: Sequence[Message], i: int) -> bool:
    """Returns whether the chatbot asks a question right after the user said they have to leave, without a goodbye.

    Only explicit phrases count ("I have to go", "bye", "can we stop"). An answer with a word of goodbye or thanks does
    not count. Hints are not detected, nor a chatbot that continues without a question.
    """
    if i == 0 or messages[i - 1].role != "user" or not _LEAVES.search(messages[i - 1].content):
        return False
    text = messages[i].content
    return "?" in text and not _LETS_GO.search(text)


@detects("blank_message")
def blank(messages: Sequence[Message], i: int) -> bool:
    """Returns whether the message has no content: empty, or only spaces, invisible characters, dots or dashes."""
    return all(c in ".…-–—_" or unicodedata.category(c)[0] in "ZC" for c in messages[i].content)


@detects("formatting_glitch")
def glitch(messages: Sequence[Message], i: int) -> bool:
    """Returns whether the message has text that only a software fault can have left there.

    Unfilled placeholders, special tokens, HTML, broken encodings, or "undefined" alone. Markdown is not counted,
    since the text does not show whether the app renders it, nor is code. Placeholders and HTML do not count where the
    user has asked for a text or a program.
    """
    text = _CODE.sub(" ", messages[i].content)
    return bool(_GLITCH.search(text)) or (bool(_PLACEHOLDER.search(text)) and not _wants_text(messages, i))


def _chatbot_before(messages: Sequence[Message], i: int) -> int | None:
    return next((j for j in range(i - 1, -1, -1) if messages[j].role == "assistant"), None)


def _wanted_again(messages: Sequence[Message], i: int) -> bool:
    """Returns whether the user has asked for a repetition since the chatbot's last message."""
    since = messages[(_chatbot_before(messages, i) or 0) : i]
    return any(m.role == "user" and bool(_ASKS_TO_REPEAT.search(m.content)) for m in since)


def _questions(text: str) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Returns the content words of each question, and what it is about in particular."""
    asked = [(content(s), _particulars(s)) for s in sentences(text) if s.endswith("?") and not _OFFER.search(s)]
    return [question for question in asked if len(question[0]) >= 3]


def _particulars(sentence: str) -> frozenset[str]:
    """Returns the numbers, single letters and names in a sentence: with others, it is another question."""
    found = re.findall(r"\w*\d[\w.,/]*\w|\d|[-+*/=^%]", sentence)
    tokens = re.findall(r"[^\W\d_]+", sentence)
    names = [t for t in tokens[1:] if t[0].isupper() and t != "I"] if not sentence.isupper() else []
    letters = [t for t in tokens if len(t) == 1 and t not in "aAiI"]
    return frozenset((*found, *names, *letters, *(_NUMBER_WORDS & set(words(sentence)))))


def _wants_text(messages: Sequence[Message], i: int) -> bool:
    """Returns whether the user has asked for a text or a program before."""
    return any(m.role == "user" and bool(_ASKS_FOR_TEXT.search(m.content)) for m in messages[:i])
