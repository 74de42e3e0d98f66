"""Messages of the population with planted personal data in many forms: what a scrubber has to find is known.

All of it is made up. Numbers are of the ranges that are kept for fiction where there are such. Some forms are hard on
purpose: lower case, numbers in words, names that are words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from rlenv.core.types import Session
from rlenv.population.corpus import generate_sessions
from rlenv.population.wording import first_names

FIRST = (
    *(
        "Aoife",
        "Dmitri",
        "Sarah",
        "Kwame",
        "Jürgen",
        "Mei",
        "Liam",
        "Beatriz",
        "Tyler",
        "Zainab",
        "Oluwaseun",
        "Hannah",
    ),
    *("Hannah", "Sven", "Ashley", "Rajesh", "Chloe", "Will", "Grace", "Mohammed", "Siobhan"),
)
LAST = (
    *("O'Brien", "Nguyen", "Kowalski", "Smith", "Okafor", "Garcia", "Müller", "Patel", "Johansson", "Green", "Tanaka"),
    *("Al-Rashid", "Fernandes", "Clarke"),
)
STREETS = (
    "Oak Street",
    "King's Road",
    "Maple Avenue",
    "High St",
    "Elm Drive",
    "Church Lane",
    "5th Ave",
    "Station Rd",
    "Rosewood Crescent",
    "St. John's Square",
)
MAILS = ("example.com", "mail.example.org", "gmail.com", "example.co.uk")
FORMS: dict[str, tuple[str, ...]] = {
    "name": (
        "my name is {}",
        "My name's {}.",
        "I'm {}, hi.",
        "{} said I should write here.",
        "call me {}",
        "ask for {}",
        "My brother {} doesn't talk to me.",
        "my friend {} knows",
        "I told Dr. {} about it.",
        "mrs {} next door hears us",
        "{} and I broke up",
        "Yesterday {} came by.",
        "signed, {}",
    ),
    "phone": ("My number is {}.", "call me on {}", "you can text {} any time", "tel {}", "It's {}, after six."),
    "email": ("My mail is {}.", "write to {}", "{} is where you reach me", "email: {}"),
    "address": (
        "I live at {}.",
        "my address is {}",
        "we moved to {} last year",
        "Send it to {}, please.",
        "i'm at {} rn",
    ),
    "url": ("see {}", "My page is {}.", "it's all on {}", "I read {} every night."),
    "id": (
        "my patient number is {}",
        "SSN {}",
        "My NHS number is {}.",
        "the case no. {} is mine",
        "member id: {}",
        "passport {}",
    ),
    "id (alone)": ("{}", "that's me, {}", "It says {} on the letter."),
}
TRAPS = (
    "I slept 3 hours, woke at 4.30 and then 5:15.",
    "It was in 2019, or 2020, I think.",
    "Mark my words, I will rest in May.",
    "I owe 12,500 and earn 1800 a month.",
    "it took me 10 to 15 years",
    "Hope is all I have. Grace too.",
    "I scored 120/200 and then 145/200.",
    "idk.so what now",
    "I took 50 mg twice, then 25.",
    "We meet at the high street.",
)


@dataclass(frozen=True)
class Labelled:
    """A session whose only message has planted personal data, and where it is."""

    session: Session
    kind: str
    """The planted kind; "trap" where there is none."""
    planted: tuple[int, int] | None
    """Start and end of what was planted."""
    also: tuple[tuple[int, int], ...] = ()
    """Names of the population in the same message."""

    @property
    def text(self) -> str:
        """The message."""
        return self.session.messages[0].content


def plant_identifiers(num: int, seed: int) -> list[Labelled]:
    """Returns ``num`` labelled messages: the kinds take turns, traps among them."""
    rng = Random(f"planted-identifiers-{seed}")
    sessions = generate_sessions(max(1, num // 4), 1, seed)
    said = [(s, m) for s in sessions for m in s.messages if m.role == "user" and m.content]
    kinds = [*FORMS, "trap"]
    result = []
    for index in range(num):
        session, message = said[rng.randrange(len(said))]
        kind, place = kinds[index % len(kinds)], None
        if kind == "trap":
            sentence = rng.choice(TRAPS)
        else:
            item, form = _item(kind, rng), rng.choice(FORMS[kind])
            sentence = form.format(item)
            start = form.index("{}")
            place = (start, start + len(item))
        before = rng.random() < 0.5
        text = f"{message.content} {sentence}" if before else f"{sentence} {message.content}"
        shift = len(message.content) + 1 if before else 0
        planted = None if place is None else (place[0] + shift, place[1] + shift)
        changed = message.model_copy(update={"content": text})
        alone = Session(session_id=f"{session.session_id}-{index}", messages=(changed,))
        result.append(Labelled(alone, kind.split(" ")[0], planted, _names(text, planted)))
    return result


def _names(text: str, planted: tuple[int, int] | None) -> tuple[tuple[int, int], ...]:
    known = (*first_names("f"), *first_names("m"))
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, known))})\b", re.IGNORECASE)
    spans = (match.span() for match in pattern.finditer(text))
    return tuple(s for s in spans if planted is None or s[1] <= planted[0] or planted[1] <= s[0])


def _item(kind: str, rng: Random) -> str:
    def digits(number: int) -> str:
        return "".join(rng.choice("0123456789") for _ in range(number))

    first, last = rng.choice(FIRST), rng.choice(LAST)
    plain, family = first.lower().replace("ü", "u"), last.lower().replace("'", "").replace("ü", "u")
    ssn = f"{rng.randint(100, 665)}-{rng.randint(10, 99)}-{digits(4)}"
    street = f"{rng.randint(1, 220)}{rng.choice(('', '', 'b'))} {rng.choice(STREETS)}"
    code = f"{rng.choice(('LS1', 'SW1A', 'M4', 'EH12'))} {rng.randint(1, 9)}{rng.choice(('AB', 'QT', 'XY'))}"
    name = rng.choice((first, f"{first} {last}", f"{first} {last}", last))
    user, domain = f"{plain}.{family}{rng.choice(('', digits(2)))}", rng.choice(MAILS)
    items: dict[str, tuple[str, ...]] = {
        "name": (name, name, name.lower()),
        "phone": (
            f"+1 (415) 555-01{digits(2)}",
            f"212-555-01{digits(2)}",
            f"020 7946 0{digits(3)}",
            f"07700 900{digits(3)}",
            f"+44 7700 900{digits(3)}",
            f"+49 30 23125 {digits(3)}",
            f"(555) 555-01{digits(2)}",
            f"07700900{digits(3)}",
            f"555.01{digits(2)}.{digits(4)}",
            "oh seven seven double oh nine hundred one two three",
        ),
        "email": (
            f"{user}@{domain}",
            f"{user}@{domain}",
            f"{user}@{domain}".upper(),
            f"{user} at {domain.replace('.', ' dot ')}",
            f"{user}(at){domain.replace('.', '(dot)')}",
        ),
        "address": (
            street,
            f"{street}, Leeds {code}",
            f"Flat {rng.randint(1, 9)}, {street}",
            code,
            street.lower(),
            f"{street}, Springfield, IL 62{digits(3)}",
            f"PO Box {digits(4)}",
        ),
        "url": (
            f"https://www.facebook.com/{plain}.{digits(3)}",
            f"www.{family}-family.org",
            f"http://example.com/~{plain}",
            f"instagram.com/{plain}_{digits(2)}",
            f"{plain}blog.example.net/2024/05",
        ),
        "id": (ssn, "943 476 5919", f"AB-{digits(5)}", digits(8), f"P{digits(7)}", f"QQ {digits(2)} 12 34 C"),
        "id (alone)": (
            "4111 1111 1111 1111",
            "DE89 3704 0044 0532 0130 00",
            "192.0.2.146",
            f"@{plain}_{digits(2)}",
            ssn,
            digits(10),
        ),
    }
    return rng.choice(items[kind])
