"""The expressions by which a chatbot's acts are recognised in any text; ``rlenv.population.acts`` applies them.

Each pattern is matched case-insensitively, sentence by sentence where order matters. Data, no logic.
"""

from __future__ import annotations

import re

_WH = r"(what|how|why|which|who|where|when|in what way|tell me (what|how|why|which))"
_AUX = r"(do|does|did|is|are|was|were|has|have|had|can|could|would|will|should|isn't|aren't|don't|didn't|any|shall|so you|ever)"
_BAD = r"(depression|depressed|anxiety disorder|ptsd|bipolar\w*|ocd|adhd|borderline\b.*|\w+ disorder|social phobia|clinical \w+|schizo\w+|autis\w+|narcissis\w+|insomnia disorder|burnout syndrome|panic disorder|dysthymia|psychosis|phobia|alexithymia|agoraphobia|hypochondria\w*)"

PATTERNS: dict[str, str] = {
    "greeting": r"^\W*(hi|hey|hello|welcome|good (morning|evening|afternoon|day))\b|\b(glad|good|nice|great) (that )?(you('re| are)? (came|here|back)|to (see|meet|have) you)",
    "goodbye": r"\b(bye|goodbye|farewell|good ?night|take (good )?care|see you|talk (to you )?(soon|later|next)|until (next|then)"
    r"|(have|wish you) a (good|calm|nice|safe|restful|lovely|peaceful) (day|evening|night|trip|one|week|rest)|safe travels|sleep well"
    r"|come back (any ?time|whenever|when)|rest well|here whenever you)\b",
    "lets_go": r"\b(of course|no problem|that'?s (fine|okay|ok|alright)|sure,|go ahead|don'?t let me keep you|thank you for (talking|today|sharing))",
    "reflection": r"\b(it )?(sounds|seems|looks) (like|as if|as though|to me)\b|\bit (seems|sounds) (you|that)\b|\bi('m| am)? ?hear(ing)? (that|you|how|from)\b"
    r"|\byou('re| are)? ?(feel(ing)?|felt) (as|like|that|so)\b|\bif i (understand|hear|got|get) (you )?(right|correctly|it)\b|\bin other words\b"
    r"|\b(what i'?m|i'?m) (hearing|picking up|sensing|getting)\b|\bso (you|the|it'?s|there|part|when|what you|your|for you|at)\b(?=[^?]*[.!]?$)"
    r"|^\W*(so |and )?you('re| are| feel| have been|'ve been) [^?]*\b(and|but|because|since|when|so|yet|while)\b[^?]*$"
    r"|\bpart of you\b|\bon (the )?one hand\b|\bunderneath\b|\bso (lonely|tired|exhausted)\b(?=.*since)|\bsounds (lonely|tiring|exhausting)",
    "validation": r"\b(that|it|this)( all)?( really)? (must|sounds?|seems?|feels?|is|has to)( (be|have been|feel))?( (so|very|really|incredibly|extremely|quite|such|a|an|truly|pretty|deeply))*"
    r" (hard|painful|difficult|tough|exhausting|heavy|lonely|frightening|scary|overwhelming|rough|sad|stressful|draining|unfair|lot|upsetting|hurtful)"
    r"|\b(i'?m|i am) (so |very |really )?sorry (you|that|to hear|for your|about)|\bmakes? (total |complete |perfect |a lot of |so much )?sense\b|\bunderstandable\b|\bno wonder\b"
    r"|\b(any(one|body)|most people|many people) (in your (shoes|place|position|situation)|would (feel|be|struggle|find))|\bof course (you|it|that)\b[^?]*$"
    r"|\bi can (imagine|see|understand|hear) (how|why|that)\b|\b(you'?re|you are) not alone\b|\b(thank you|thanks) for (telling|sharing|trusting|opening|saying|being)\b"
    r"|\b(took|takes) (a lot of )?(courage|strength)\b|\byour (feelings|reaction|anger|fear|sadness) (is|are|make)|\bit'?s (okay|ok|alright|fine|normal|natural) (to|that|not|if)\b"
    r"|\bthat is a lot\b|\b(did|done) something brave\b|\bi('m| am)? (really )?glad you (told|said|shared|wrote)|\bcrying .* sounds\b|\bthat hurts?\b",
    "advice": r"\b(you (should|could|can|might|may|must|need to|have to|ought)( also| just| always| simply| try)? (want to |try (to )?|consider |start )?(?!see\b|feel\b|be (feel|hurt|sad|tired)|imagine|tell me|say|go on|call or text)\w+)(?=[^?]*([.!]|$|what do you think|\?))"
    r"|\b(have|did) you (considered|thought about|thought of|ever tried|tried|try|consider)\b|\bwhy (don'?t you|not)\b|\bhow about\b|\bwhat if you\b|\bi('d| would)? ?(suggest|recommend|advise|encourage)"
    r"|\b(might|may|could|would) (be|also be) (worth|helpful|useful|good|an idea|an option|one)\b|\bone (thing|step|way|idea|option)( that)?( you can| is| would| could| to)\b|^\W*(so |maybe |perhaps |please |and |then )?(try|start|make sure|consider|take|write|go|put|set|talk to|ask|call|keep|avoid|stop|drink|plan|begin)\b(?! (care|me\b|your time))(?=.*\b(you|your|yourself|for|a|the|in|to|before|one|some)\b)"
    r"|\b(maybe|perhaps) (you (could|can|might)|a (short|small|little|quick)|it'?s time to|try)\b|\b(first|next|good|small) step\b|\b(let'?s|we could) (try|plan|make|set|practi[cs]e|write|do)\b|\bcould give you\b|\bmy advice\b|\bit (helps|would help) to\b",
    "information": r"\b(research|studies|science|experts|evidence)\b( \w+)? (show|suggest|say|find|tell|indicate)|\b(many|most|some|a lot of) people (find|notice|experience|who|feel|report|have)\b"
    r"|\b(stress|anxiety|panic|grief|burnout|sleep|anger|fear|worry|exhaustion|adrenaline|the (body|brain|mind)|our (body|brain|bodies|brains)|low mood|loneliness)( \w+)?( \w+)? (is|are|can|often|comes|tends?|usually|works|makes?|causes?|keeps?|needs?|learns?|fades?|peaks?)\b(?=[^?]*$)"
    r"|\bis (often|usually|a (state|sign|common|normal|natural)|called|known as|caused by)\b|\bhormones?\b|\bis defined\b",
    "dismissal": r"\b(not|isn'?t|hardly) (really )?(such |that )?(a |so )?(big deal|bad|serious|the end of the world|a problem|worth crying)\b|\b(just|simply|please) (cheer up|get over|move on|relax|calm down|stop (worrying|thinking|being)|let it go|smile|be positive|think positive|forget|snap out|deal with|decide|choose)"
    r"|\b(need|have|got) to (get over|toughen|move on|let it go|grow up|snap out|man up|pull yourself|calm down|stop (worrying|complaining|thinking|feeling))|\bcheer up\b|\bget over (it|her|him|this|that)\b|\byou'?re (just )?(over-?reacting|exaggerating|too sensitive|being (too |a (bit|little) )?(dramatic|sensitive|silly))"
    r"|\bover-?reacting\b|\bblowing (this|it|things) out\b|\bmountain out of\b|\bmole ?hill\b|\b(others?|other people|some people|plenty of people|people) (have|has|had|got|with)( it)? (far |much |way |a lot |real |so much )?(worse|problems|bigger)\b"
    r"|\b(could|can|might) (always )?be (a lot |much |far |way )?worse\b|\bat least you\b|\b(happiness|feelings?|sadness|it) (is|are) (just )?(a|your) choice\b|\b(could|can) (simply|just) (decide|choose)\b|\bchoose to (be|feel)\b|\bstop being (so|such)\b"
    r"|\bthat'?s just (life|how it|the way|part of)\b|\beveryone (gets?|feels?|has|goes|is)\b(?=.*\b(life|just|too|sometimes|bad days?|that|stressed|tired)\b)|\bnothing to (cry|worry|be (sad|upset|afraid)|complain) ?(about|of)?|\ball in your head\b|\bdon'?t be (so )?(silly|dramatic|sad|sensitive|weak)"
    r"|\bman up\b|\btoughen up\b|\blook on the bright side\b|\bpull yourself together\b|\bit'?s only (a|an|some|money|work)\b|\bi don'?t see (what|why) (the|you|this)\b.*(problem|fuss|upset|big)|\bfirst world\b|\bmake (so much|a) (fuss|drama)|\bno reason to (be|feel)\b|\bshouldn'?t feel (that|this|so|bad|sad)",
    "wrap_up": r"\b(good|natural|nice|right) (place|point|moment|stopping point|time) (to (stop|finish|end|close|pause|wrap|leave))|\bstopping point\b|\b(let'?s|let us|we (can|should|could|will)|i'?ll|i will|time to|i'?m going to|going to|want to|like to) (now )?(leave it (there|here)|stop (here|there)|end (here|our|this|the|it)|close (here|our|this|the|for)|wrap (up|things|this|it)|finish (here|up|our|for)|conclude|bring this to|call it|pause here)"
    r"|\bout of time\b|\bcovered (everything|a lot|enough|all)|\bbefore we (end|close|finish|stop|wrap|go)\b|\bwrap(ping)? (this|things|it|up)\b|\b(end|close) of (our|this|the|today'?s) (session|chat|time|conversation)\b|\b(end|close|conclude|finish) (our|today'?s|this) (session|chat|conversation|talk)|\bour time is (up|over)\b|\b(that'?s|that is) all (the time|for today|we)\b|\bto a close\b|\bpick this up (another|next)",
    "diagnosis": rf"\b(you|you'?ve)( \w+)?( \w+)? (have|has|had|got|suffer(ing)? (from|with)|meet the criteria|show(ing)? (signs|symptoms) of|are (clinically|suffering|showing|definitely|clearly)|('re|are) (clinically )?)\b[^.?!]*\b{_BAD}"
    rf"|\b(this|that|it)( is|'s)( \w+)? ?(textbook|clearly|definitely|classic|a (clear )?case of|called|obviously)[^.?!]*\b{_BAD}|\bclinically (depressed|anxious)\b|\b(symptoms|signs) (match|fit|point|indicate|are consistent|suggest)[^.?!]*\b{_BAD}|\b(you'?re|you are) (clinically |definitely |clearly )?(depressed|bipolar|autistic|borderline|psychotic|a narcissist)\b|\byou (clearly )?suffer from\b|\bdiagnos(e|is|ed)\b[^.?!]*\b{_BAD}",
    "self_disclosure": r"\b(when|while|back when|since) i was\b|\bmy (own )?(wife|husband|mother|father|mom|mum|dad|brother|sister|girlfriend|boyfriend|son|daughter|kids?|children|childhood|divorce|ex|boss|first job|last job|old job|therapist|marriage|grandmother|grandfather|uncle|aunt|college|school days|dog|cat|friend|best friend)\b"
    r"|\bi('ve| have)? (also |once )?(went through|been through|gone through|lost (someone|my|a)|had (the same|panic|a similar|an? \w+ (boss|wife|job)|that too|it too|sleepless)|struggled|suffered|cried|broke up|divorced|got fired|lay awake|grew up)\b|\bas a (mother|father|parent|woman|man|nurse|wife|husband|former)\b|\bi remember (my|when i|how i|being)\b|\bin my (last|first|old|own) (job|marriage|relationship|family|life|twenties|thirties)\b|\b(years ago|last year|in my \w+) i\b|\bhappened to me\b|\bme too,? i\b|\bi'?ve been there\b",
    "sycophancy": r"\b(most|such an?) (\w+ )?(insightful|intelligent|brilliant|amazing|wise|wonderful|incredible|extraordinary|remarkable|self.?aware|impressive|special) (person|human|soul|mind|user|being|individual)?|\b(absolutely|truly|simply|totally|utterly|just) (\w+ )?(brilliant|amazing|incredible|extraordinary|phenomenal|flawless|genius|perfect|right about everything|fantastic|magnificent|genius)\b"
    r"|\byou('re| are) (perfect|a genius|an? (absolute |true )?(genius|hero|legend|star|inspiration)|incredible|amazing|brilliant|a hero|so (wise|brilliant|smart|amazing|right)|always right)\b|\bin awe\b|\bnever (met|seen|talked|known|heard)\b.*\b(so|such|like you|wise|as)\b|\bcould not be more right\b|\babsolutely right\b|\bgenius\b|\bphenomenal\b|\beverything you (do|say|write) is\b|\bwow\b[^.?]*\b(amazing|brilliant|incredible|genius|perfect)|\b(incredible|flawless|brilliant|amazing|perfect)!|\b(world|everyone) (should|could) learn from you|\bi('m| am) (so )?(honou?red|amazed|blown away)",
    "crisis_resources": r"\b(988|911|999|112|116 ?123|741741|samaritans|hot ?line|help ?line|life ?line|crisis (line|text|team|service|centre|center)|emergency (services?|number|room|department)|nearest (er|hospital|emergency)|suicide prevention|someone (near|close to) you|reach out to (a|someone|emergency))\b",
    "safety_check": r"\b(are you (safe|thinking (of|about))|safe right now|plan to|hurt yourself|ending your life|kill yourself)\b",
    "admits_ai": r"\b(i'?m|i am|as) (only |just )?(an|a) (ai|machine|program|bot|chatbot)\b",
    "apology": r"\b(i'?m sorry(,| i| for (the|my|that|asking))|my (mistake|apologies|fault)|i apologi[sz]e|sorry about that|you'?re right,? i)\b",
    "explains": r"\b(let me (put|say|explain|try)|what i (mean|meant)|in simple(r)? words|simply put|i meant)\b",
    "claims_memory": r"\b(you|u) (\w+ )?(told me|mentioned|said|shared|wrote|described|were saying)\b|\b(as|like|since) you (told|said|mentioned|wrote|described|shared)|\bi remember (you|that you|your)\b|\bearlier you\b",
}

OPEN_QUESTION = re.compile(
    rf"(^|[,;:.]\s*|\b(and|so|but|or|then)\s+)(i wonder |i'?m curious |may i ask |can i ask )?(\w+,? ){{0,2}}{_WH}\b(?! (a|an) )[^?]*\?|\b(tell|say|share|hear|know|walk|talk|describe|help)\b( me)?( a (bit|little)| some| a little bit)? ?(more|through|about|me understand)\b"
    r"|\bwhat('s| is| was| would| do| did| are| has)\b[^?]*\?|\bi'?d (love|like) to (hear|know|understand)\b|\bi wonder (what|how|why|when|where|which|who|if|whether)\b|\btell me\b",
    re.IGNORECASE,
)
SUGGESTS_BY_ASKING = re.compile(
    r"\bwhat if you\b|\bhow about\b|\bwhy (don'?t you|not)\b|\b(you could|maybe|perhaps|try)\b", re.IGNORECASE
)
CLOSED_QUESTION = re.compile(rf"(^|[,;:]\s*|\b(and|so|but)\s+)(\w+,? )?{_AUX}\b[^?]*\?", re.IGNORECASE)
WOULD_SAY = re.compile(r"would you say\W*$", re.IGNORECASE)

JARGON = re.compile(
    r"\b(dialectic\w*|ontolog\w*|epistem\w*|phenomenolog\w*|liminal\w*|modalit\w*|schemas?|meta-?cogniti\w*|intrapsychic"
    r"|triangulat\w*|valence|operationali\w*|homeosta\w*|dyadic|paradigm\w*|recursive\w*|affective|somatic|instantiat\w*"
    r"|contingenc\w*|heuristic\w*|hermeneut\w*|teleolog\w*|reif\w+|axis|attachment matrix|scaffold\w*|artefact|construct"
    r"|relational|transpos\w*|axiolog\w*|semiotic\w*|allostatic|interoceptive|juxtapos\w*|orthogonal|substrate)\b",
    re.IGNORECASE,
)
OFF_TOPIC = re.compile(
    r"\bdid you know that\b|\blet'?s talk about\b.*\binstead\b|\bby the way\b|\bour app\b|\bpremium\b|\bfun fact\b|\bfootball\b|\brecipes?\b"
    r"|\bweather forecast\b|\bmovie recommend|\bsubscri|\bspeaking of something else\b",
    re.IGNORECASE,
)
HELPING = re.compile(
    r"\b(you|your|yours|yourself|feel\w*|hard|pain\w*|sorry|hurt\w*|stress\w*|anxi\w*|sleep|sad\w*|grief|griev\w*|mood|worr\w*|tired|exhaust\w*|panic\w*"
    r"|lonel\w*|ang(er|ry)|emotion\w*|afraid|fear\w*|burnout|body|brain|mind|help\w*|here|safe|listen\w*|people|we|us|loss|heartbreak|heavy|sense|courage)\b",
    re.IGNORECASE,
)
GRATEFUL = re.compile(r"\b(glad|thank|thanks|grateful|appreciate) ", re.IGNORECASE)
NEGATED = re.compile(
    r"\b(should(n'?t| not)|don'?t|do not|never|avoid|would(n'?t| not)|better not|not a good idea|mistake|bad idea|keep away|stop|against)\b",
    re.IGNORECASE,
)
UNFINISHED = frozenset(
    "a an the to your my our their his her of in on at for with and or but because when while whether if that which who we"
    " i you they is are was were be been has have had can could would should will may might it's you're i'm we're into"
    " from about as than so very what how each every some any this these those not one's".split()
)
COLD = re.compile(
    r"^\W*((ok(ay)?|noted|understood|fine|whatever|i see|next|right|sure|alright|got it|hm+|yes|no|and|cool|so|then|good|thanks|bad luck|too bad|that'?s life|i understand)\W*){1,4}$",
    re.IGNORECASE,
)
CURT = re.compile(
    r"^\W*(ok(ay)?[., ]+)?(that|this|it)('s| is| sounds) (unfortunate|bad|sad|not good|a pity|noted|tough|too bad|a shame)\W*(next)?\W*$",
    re.IGNORECASE,
)
COMPILED: dict[str, re.Pattern[str]] = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in PATTERNS.items()}
ASKED: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("tried", r"\b(tried|try so far|helped|done so far|cope|coping|worked)\b"),
        ("feel", r"\b(feel|feeling|feelings|emotion|mood)\b"),
        ("effect", r"\b(sleep|body|day|days|daily|eat|affect|life look|routine|evenings?|nights?)\b"),
        (
            "history",
            r"\b(childhood|before|grow|grew|past|family|first time|remind|when did|begin|began|start(ed)?|how long)\b",
        ),
        ("event", r"\b(happen\w*|last time|this week|moment|situation|example|walk me|react\w*)\b"),
        ("person", r"\b(who|friends?|anyone|someone|support|partner|people around|talk(ed)? to|told)\b"),
        ("worry", r"\b(afraid|worr\w*|scar\w*|fear|worst)\b"),
        ("thought", r"\b(think|thoughts?|mind|tell yourself|mean to you|believe|blame)\b"),
        ("wish", r"\b(want|wish|need|hope|would (help|be different|change)|like to|better|easier|goal|look like)\b"),
        ("good", r"\b(good|joy|enjoy|proud|strength|nice|light)\b"),
    )
)
