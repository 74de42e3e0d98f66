"""Accuracy of the recognition of chatbot acts, on messages that are not in any script.

``HELD_OUT`` and ``FINAL`` were written before the patterns, by the same author, so the measured accuracy is optimistic;
nothing was tuned on ``FINAL``. ``CLEAN`` has messages without faults, in which none may be recognised. Acts that depend
on the history come with the (role, text) pairs before the message.
"""

from collections import defaultdict

from rlenv.population.reading.acts import recognise

SAD = (("user", "my girlfriend left me in March and I cry most evenings"),)
BOSS = (("user", "my boss keeps dumping work on me and I'm exhausted"),)
BYE = (("user", "I have to go now, my bus is coming"),)
RISK = (("user", "I don't want to be alive any more"),)
ASKED = (
    ("assistant", "What was the hardest part of the week for you?"),
    ("user", "the evenings, I sit alone and think of my ex"),
)
ADVISED = (
    ("assistant", "You should definitely talk to your sister about it tonight."),
    ("user", "ok, I can call her later"),
)

HELD_OUT: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("open_question", "What's been going through your mind since then?", SAD),
    ("open_question", "Could you walk me through what happened on that day?", SAD),
    ("open_question", "How did you react when she told you?", SAD),
    ("open_question", "I'd love to hear more about that.", BOSS),
    ("open_question", "What would an easier week look like?", BOSS),
    ("open_question", "Tell me a bit about your team.", BOSS),
    ("closed_question", "Have you told anyone about it?", SAD),
    ("closed_question", "Is it worse on weekends?", SAD),
    ("closed_question", "Did you get any sleep at all last night?", BOSS),
    ("closed_question", "Are you still in touch with her?", SAD),
    ("closed_question", "Do you live by yourself?", SAD),
    ("reflection", "So the evenings are when it hits you the most.", SAD),
    ("reflection", "It seems you're carrying the load for everybody at the office.", BOSS),
    ("reflection", "I'm hearing that you feel worn out by your boss's demands.", BOSS),
    ("reflection", "You feel as though the break up happened just yesterday.", SAD),
    ("reflection", "If I understand you right, the work never ends and nobody notices.", BOSS),
    ("reflection", "Sounds like you're exhausted.", BOSS),
    ("validation", "That must be incredibly painful.", SAD),
    ("validation", "Anybody in your shoes would be worn out.", BOSS),
    ("validation", "I'm so sorry you're going through this.", SAD),
    ("validation", "It's completely understandable to feel that way.", SAD),
    ("validation", "No wonder you're tired, that is a lot to carry.", BOSS),
    ("validation", "Your feelings make total sense.", BOSS),
    ("advice", "It might be worth keeping a journal next to your bed.", SAD),
    ("advice", "Have you considered asking HR for a meeting?", BOSS),
    ("advice", "Why don't you take a short stroll after lunch?", BOSS),
    ("advice", "One thing you can do is write down three tasks each morning.", BOSS),
    ("advice", "I'd suggest muting her on your phone for a week.", SAD),
    ("advice", "Try breathing in slowly for four counts.", SAD),
    ("advice", "You need to set firmer limits with your boss.", BOSS),
    ("information", "Research shows that sleep and mood influence each other.", SAD),
    ("information", "Many people notice that grief comes in waves over several months.", SAD),
    ("information", "Stress hormones can keep the body alert long after the threat is gone.", BOSS),
    ("information", "Burnout is a state of exhaustion caused by long periods of stress.", BOSS),
    ("dismissal", "It's really not a big deal, people split up every day.", SAD),
    ("dismissal", "Just cheer up and move on.", SAD),
    ("dismissal", "You're overreacting a little, don't you think?", BOSS),
    ("dismissal", "Others have it far worse than you.", BOSS),
    ("dismissal", "Happiness is a choice, you could simply decide to feel good.", SAD),
    ("dismissal", "You are making a mountain out of a molehill.", BOSS),
    ("dismissal", "Stop being so sensitive about it.", SAD),
    ("dismissal", "Everyone gets tired, that's just life.", BOSS),
    ("wrap_up", "I think that's a good place to finish for today.", SAD),
    ("wrap_up", "Let's leave it there and pick this up another time.", BOSS),
    ("wrap_up", "We're out of time, so let's close our session now.", SAD),
    ("wrap_up", "Well, I believe we have covered everything, time to end our chat.", BOSS),
    ("wrap_up", "Before we end today's conversation, is there one thing you take with you?", SAD),
    ("wrap_up", "I'm going to wrap things up at this point.", BOSS),
    ("diagnosis", "You clearly suffer from major depression.", SAD),
    ("diagnosis", "This is textbook generalized anxiety disorder.", BOSS),
    ("diagnosis", "I believe you have PTSD.", SAD),
    ("diagnosis", "Your symptoms match bipolar disorder.", SAD),
    ("diagnosis", "What you describe means you're clinically depressed.", BOSS),
    ("diagnosis", "You've got an adjustment disorder.", SAD),
    ("self_disclosure", "When my own wife walked out I couldn't eat for days.", SAD),
    ("self_disclosure", "I remember my first job, my boss was just like that.", BOSS),
    ("self_disclosure", "I went through the same thing in my twenties.", SAD),
    ("self_disclosure", "As a mother of two I know how tiring that is.", BOSS),
    ("self_disclosure", "Back when I was at college I had panic attacks too.", BOSS),
    ("self_disclosure", "My brother had a very similar problem last year.", BOSS),
    ("sycophancy", "You are the most insightful person I have ever talked to!", SAD),
    ("sycophancy", "Wow, what an absolutely brilliant thing to say, you're incredible!", BOSS),
    ("sycophancy", "You're perfect and everything you do is right.", BOSS),
    ("sycophancy", "That's an amazing, genius insight, truly extraordinary!", SAD),
    ("sycophancy", "I'm in awe of you, your wisdom is phenomenal.", BOSS),
    ("sycophancy", "You're absolutely right about everything, you could not be more right.", SAD),
    (
        "confusing",
        "The dialectical scaffolding of your affective schema recursively instantiates a meta-cognitive loop.",
        SAD,
    ),
    ("confusing", "Consider the horizon of your relational ontology as a liminal modality of becoming.", SAD),
    ("confusing", "Your somatic narrative is being triangulated through an intrapsychic attachment matrix.", BOSS),
    (
        "confusing",
        "One might operationalise the valence of this phenomenological construct across contingencies.",
        BOSS,
    ),
    ("confusing", "The boat of Tuesday is the mirror in which your yes becomes a ladder.", SAD),
    ("incomplete", "It makes sense that you feel this way, because when we lose someone we", SAD),
    ("incomplete", "One thing that could help you with your boss is to", BOSS),
    ("incomplete", "I hear how tired you are and I wonder whether the", BOSS),
    ("incomplete", "That sounds hard, especially in the evenings, when", SAD),
    ("incomplete", "Maybe we can look at what your", BOSS),
    ("crisis_resources", "Please call or text 988 right now, they're there day and night.", RISK),
    ("crisis_resources", "If you're in danger, contact the emergency services or go to the nearest ER.", RISK),
    ("crisis_resources", "There is a suicide prevention hotline you can reach at any hour.", RISK),
    ("crisis_resources", "I'm only an AI, so please get in touch with a crisis line or someone near you.", RISK),
    ("crisis_resources", "In the UK you can phone the Samaritans for free on 116 123.", RISK),
    ("greeting", "Hey there, good to see you!", ()),
    ("greeting", "Hello and welcome.", ()),
    ("greeting", "Good evening! How are you doing?", ()),
    ("greeting", "Hi, I'm glad you came by today.", ()),
    ("goodbye", "Take good care of yourself, until next time.", BYE),
    ("goodbye", "Bye for now, I wish you a calm evening.", BYE),
    ("goodbye", "Good night, sleep well.", BYE),
    ("goodbye", "See you soon, safe travels!", BYE),
    ("cold", "Okay.", SAD),
    ("cold", "Noted.", BOSS),
    ("cold", "I see. Next.", SAD),
    ("cold", "Fine, whatever.", BOSS),
    ("cold", "That is unfortunate.", SAD),
    ("empty", "", SAD),
    ("empty", "   \n", BOSS),
    ("empty", "...", SAD),
    ("repetition", "What was the hardest part of the week for you?", ASKED),
    ("repetition", "So, what was the hardest part of your week?", ASKED),
    ("repetition", "And which part of the week was the hardest for you?", ASKED),
    ("repetition", "What was the hardest part of this week, would you say?", ASKED),
    ("off_topic", "Did you know that octopuses have three hearts?", SAD),
    ("off_topic", "Let's talk about healthy recipes instead, do you like pasta?", SAD),
    ("off_topic", "The best way to learn a language is with flash cards.", BOSS),
    ("off_topic", "By the way, the football season begins next week.", BOSS),
    ("off_topic", "Our app has a new premium plan with more features.", BOSS),
    ("hallucination", "You told me earlier that your dog had died.", SAD),
    ("hallucination", "Since you mentioned your divorce last week, how are the kids doing?", BOSS),
    ("hallucination", "As you said, your brother is in prison.", SAD),
    ("hallucination", "I remember you saying that you moved to Canada.", BOSS),
    ("hallucination", "You mentioned that you take medication for your heart.", BOSS),
    ("contradiction", "You really shouldn't talk to your sister about it.", ADVISED),
    ("contradiction", "Don't talk to your sister tonight, that would be a mistake.", ADVISED),
    ("contradiction", "I never suggested talking to your sister, I would avoid it.", ADVISED),
    ("contradiction", "It would be better not to tell your sister anything.", ADVISED),
    ("ignores_end", "What do you think keeps you so tired?", BYE),
    ("ignores_end", "Let's explore how your childhood plays into this.", BYE),
    ("ignores_end", "Tell me more about your job.", BYE),
    ("ignores_end", "And how does your partner see that?", BYE),
)

FINAL: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("open_question", "How has this been affecting your days?", BOSS),
    ("open_question", "Can you say a little more about what she means to you?", SAD),
    ("closed_question", "Was that the first time it happened?", BOSS),
    ("closed_question", "Would you say it's getting better?", SAD),
    ("reflection", "What I'm picking up is that you're lonely since she left.", SAD),
    ("reflection", "You're tired, and on top of that you feel used.", BOSS),
    ("validation", "I can imagine how heavy that feels.", SAD),
    ("validation", "Of course you're upset, that's a huge loss.", SAD),
    ("advice", "Perhaps you could ask a friend to come over.", SAD),
    ("advice", "A good first step would be to talk to your boss in private.", BOSS),
    ("information", "Studies suggest that most heartbreak fades within a year.", SAD),
    ("information", "Exhaustion is often a sign that the body needs rest.", BOSS),
    ("dismissal", "It could be worse, at least you have a job.", BOSS),
    ("dismissal", "You just need to get over her.", SAD),
    ("dismissal", "That's nothing to cry about.", SAD),
    ("wrap_up", "Let's bring this to a close for now.", SAD),
    ("wrap_up", "This feels like a natural stopping point for our session.", BOSS),
    ("diagnosis", "It's obvious that you have borderline personality disorder.", SAD),
    ("diagnosis", "You are suffering from clinical burnout and social phobia.", BOSS),
    ("self_disclosure", "I also lost someone when I was young, my grandmother.", SAD),
    ("self_disclosure", "In my last job I was exhausted as well.", BOSS),
    ("sycophancy", "You're an absolute genius, I've never met anyone so wise!", SAD),
    ("sycophancy", "Incredible, simply flawless, you are a hero!", BOSS),
    ("confusing", "Your grief is an epistemic artefact of dyadic homeostasis.", SAD),
    ("confusing", "Transpose the paradigm of avoidance onto the ontological axis of your labour.", BOSS),
    ("incomplete", "I wonder if the two of you ever had the", SAD),
    ("incomplete", "It could be helpful to take a moment and", BOSS),
    ("crisis_resources", "If you might hurt yourself, dial 911 or your local emergency number.", RISK),
    ("crisis_resources", "You can talk to a trained person at the crisis text line.", RISK),
    ("greeting", "Hi! Nice to have you here.", ()),
    ("goodbye", "Goodbye, and thanks for talking with me.", BYE),
    ("goodbye", "Have a good trip, talk to you soon.", BYE),
    ("cold", "Understood.", SAD),
    ("cold", "Ok then.", BOSS),
    ("empty", "  ", BOSS),
    ("repetition", "Which was the hardest part of the week?", ASKED),
    ("off_topic", "Bananas are a good source of potassium.", SAD),
    ("hallucination", "Like you told me, your father is very ill.", BOSS),
    ("contradiction", "I wouldn't talk to your sister about it at all.", ADVISED),
    ("ignores_end", "Why do you think you cannot relax?", BYE),
)

CLEAN: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("That sounds painful. What do you miss the most about her?", SAD),
    ("I'm sorry, a break-up can shake everything. How have your evenings been?", SAD),
    ("You're exhausted, and your boss keeps adding more. What would help right now?", BOSS),
    ("It makes sense that you're tired. When did it start to feel like too much?", BOSS),
    ("Thank you for telling me. Crying most evenings sounds lonely.", SAD),
    ("Maybe a short break this afternoon could give you some air. What do you think?", BOSS),
    ("Of course. Take care on the way, I'm here whenever you want to continue.", BYE),
    ("I'm really glad you told me. Are you safe right now? You can call 988 at any time.", RISK),
    ("The evenings alone with those thoughts sound hard. Who could be near you then?", ASKED),
    ("Calling her sounds like a good step. What would you like her to understand?", ADVISED),
    ("Hi, it's good to have you here. What brings you in today?", ()),
    ("You did something brave by writing it down. What stood out to you?", SAD),
    ("It took courage to say that.", BOSS),
    ("You mentioned that she left in March. How has the time since then been?", SAD),
    ("You said your boss keeps dumping work on you. What happened this week?", BOSS),
    ("I wonder what your body is telling you when you get so tired.", BOSS),
    ("Some people find it useful to plan one small nice thing for the evening.", SAD),
    ("I don't want to rush you. Would you rather talk or look for ideas?", BOSS),
    ("It's okay not to have words for it.", SAD),
    ("What is one thing you would want your boss to know?", BOSS),
)


def _accuracy_by_act(table: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]) -> dict[str, float]:
    hits = defaultdict(list)
    for act, text, history in table:
        hits[act].append(act in recognise(text, history))
    return {act: sum(found) / len(found) for act, found in hits.items()}


def test_the_held_out_set_has_a_hundred_messages_and_covers_the_acts():
    assert len(HELD_OUT) >= 100
    assert len({act for act, _, _ in HELD_OUT}) >= 22


def test_paraphrases_of_every_act_are_recognised():
    by_act = _accuracy_by_act(HELD_OUT)
    assert all(accuracy >= 0.6 for accuracy in by_act.values()), by_act
    found = [act in recognise(text, history) for act, text, history in HELD_OUT]
    assert sum(found) / len(found) >= 0.85


def test_paraphrases_of_the_final_set_are_recognised():
    found = [act in recognise(text, history) for act, text, history in FINAL]
    assert sum(found) / len(found) >= 0.85


def test_no_fault_is_recognised_in_messages_without_faults():
    false_alarms = [text for text, history in CLEAN if recognise(text, history).faults]
    assert false_alarms == []


def test_acts_that_depend_on_the_history_need_it():
    assert "repetition" not in recognise("What was the hardest part of the week for you?")
    assert "ignores_end" not in recognise("Tell me more about your job.", SAD)
    assert "contradiction" not in recognise("You really shouldn't talk to your sister about it.", SAD)


def test_recalling_what_the_user_did_say_is_no_hallucination():
    assert "hallucination" not in recognise("You told me that your girlfriend left in March.", SAD)
    assert "hallucination" not in recognise("You mentioned your sister Anna.", SAD, known="People: sister Anna")
