"""What a user's message shows, read from its text alone: wants to leave, is annoyed, is at risk, corrects ...

For chatbots that must understand any person, and for labelling conversations whose user keeps no hidden state.
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_CHARS = 4000
"""Longer messages are read up to here, so that none is slow."""

_PATTERNS = {
    "leaving": r"\b(have|need|got|gotta|going|want|wanna) (to |2 )?(go\b(?! (to (the|my|a|work|bed (and|with)|therapy)"
    r"|out|back|on|through|over|away|there|into|in|with|for|outside|home and|without|crazy|wrong|two))|leave (now|soon|in)"
    r"|run\b(?! (to|from|away))|stop (here|now)|get going|log off|catch (a|my))"
    r"|\b(should|must|i'?ll) (stop here|get going|go to bed|go now|be going|head off|log off)"
    r"|\bi must go\b|\b(that'?s|thats|is) enough for (today|now)|\bcan we (finish|stop|end)\b|\btrying to say goodbye"
    r"|\b(gtg|g2g|brb|gotta run|need to leave|must leave|have to leave|have to stop)\b",
    "goodbye": r"^(ok(ay)?,? |thanks,? |well,? |alright,? )*(bye|goodbye|good night|talk later|talk soon|see you|ciao)\b"
    r"|\b(bye|goodbye|good night|talk (soon|later)|see you (next|soon|later)|take care)\W*$|\bbye for now\b",
    "repeats": r"\b(already|just) (asked|answered|told|said)\b|\bword for word\b|\b(in|round) circles\b"
    r"|\b((asked|saying|said|same text|got) (me )?the same (thing|question|text|message)|again with (this|that))\b|\becho in here\b"
    r"|\byou said that before\b|\basked me that\b|\b(you|u) keep (saying|asking|repeating)\b",
    "confused": r"\bwhat do (you|u) mean\b|\bdon'?t (understand|get) (what|you|it|that|this|u)\b|\byou lost me\b|\blost me there\b"
    r"|\bstill don'?t get it\b|\b(huh|explain please)\b|\bin simple words\b|\bmore clearly\b|\bmakes? no sense\b"
    r"|\bdo not (understand|get) (what|you|it|that)\b|\bcan (you|u) say that\b|\bconfus(ed|ing)\b",
    "corrects": r"\bi never (said (?!it out)|mentioned|told you|had that|did that)|\b(didn'?t|did not|never) (say|tell you|mention) (that|this|it|anything)\b"
    r"|\bmixing me up\b|\bnever happened\b|\bwhere (you|u) got that\b|\bthat'?s not (true|right|what i said|me)\b|\bnot me,",
    "ignored": r"\b(nothing to do with what i|did (you|u) even read|skipped over what|not what i was talking"
    r"|are (you|u) listening|say nothing about it|read what i just)",
    "angry": r"\b(thanks for nothing|thx for nothing|are (you|u) kidding|screw (this|you)|fuck (you|off|this)|(you|just) shut up|horrible thing"
    r"|no idea what (you'?re|ur|you are) talking|insulting|dismissive|useless|stupid bot|don'?t tell me|do not tell me"
    r"|talk to a wall|this is crap|how dare)\b|\bsound like everyone else who\b|\byou (don'?t|do not) care\b",
    "cold": r"\bthat'?s it\?|\bis that all\b|\bfelt cold\b|\bvery helpful\b|\b(three words|one line)\b|\bso cold\b",
    "hurt": r"\b(forget it|never ?mind|shouldn'?t have said|that hurt|my fault\b.*great|great, so it)",
    "contradicts": r"\bfirst you\b|\bnow the opposite\b|\bso which is it\b|\bopposite of what you\b|\bsaid something else\b",
    "flattered": r"\b(flatter me|sounds fake|(that's|thats|that is) a bit much|stop saying i'?m|say that to any(body|one))",
    "not_human": r"\b(you'?re|ur|you are) (a|just a) (bot|program|machine|robot|computer)\b|\bthis was an ai\b",
    "diagnosed": r"\b(diagnose|are you a doctor|say that about me|what i have\?)",
    "not_done": r"\b(not done|wasn'?t finished|was not finished|still wanted to talk|can we go on|hold on, i|i just started"
    r"|you'?re ending this|want to keep (talking|going)|don'?t (stop|end) (now|yet|here|this))\b",
    "cut_off": r"\b(cut off|half of (that|it) is missing|stopped in the middle|ends there)\b",
    "nothing_came": r"\b(are you there|got nothing from|message was (empty|blank))\b",
    "twice": r"\b(sent (me )?(that|this|it) (twice|again)|same (text|message) (again|twice))\b",
    "wants_no_advice": r"\b(don'?t|do not) (really )?want (tips|advice)|not looking for (a fix|advice|tips)|just (need|want) to"
    r" (get it out|vent|talk)|can i just talk|going too fast|list of things to do|i know what i should do",
    "agrees": r"^(wow,? )?(yes|yeah|yea|exactly|true|right|yep|absolutely|i think so)\b|\b(you get it|makes sense|good idea"
    r"|could work|good point|you'?re right|maybe you'?re right)\b",
    "disagrees": r"^(hm+ |well,? |but )*(no\b|not really|nope)|\b(wouldn'?t say that|not it\b|got that wrong|easier said"
    r"|don'?t think (that|so|it)|wouldn'?t work|disagree|do not think (that|so)|not how i feel)",
    "asks_advice": r"\bwhat (should|can|would|could) (i|you|u)\b.*\?|\b(any|some|have) (ideas|tips|advice)\b|\bso what now\b"
    r"|\bhow do people\b|\bsomething that helps\b|\bgood first step\b|\bmake a plan\b|\bwhere (should|do) i start\b|\bhow do i\b",
    "asks_bot": r"\b(are you (a )?(real|human|bot|ai)|do you remember|is this private)\b",
    "thanks": r"\b(thanks|thank you|thx|ty)\b(?! for nothing)",
    "crisis": r"\b(kill myself|suicid\w*|end(ing)? (it all|my life|it)\b|better off without me|better off dead"
    r"|(don'?t|do not|dont) want to (be alive|live|wake up|exist|be here any ?more)|want to die|hurt myself|self.?harm"
    r"|wish i was dead|not wake up)\b",
    "short": r"^\W*(\w+\W+){0,3}\w*\W*$",
}
_COMPILED = {name: re.compile(pattern, re.IGNORECASE | re.DOTALL) for name, pattern in _PATTERNS.items()}


@lru_cache(maxsize=4096)
def cues_of(text: str) -> frozenset[str]:
    """Returns the names of all cues that the message shows.

    >>> sorted(cues_of("sorry, I have to go now"))
    ['leaving']
    """
    text = text[:MAX_CHARS].replace("’", "'").strip()
    return frozenset(name for name, pattern in _COMPILED.items() if pattern.search(text))
