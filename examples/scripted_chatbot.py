"""Runs a scripted chatbot that asks and then reflects, and forks the conversation into three other continuations.

    python examples/scripted_chatbot.py

It prints the conversation up to the fork, and then:

    return from here on: -2.5
    return of fork 1:     -4.0
    return of fork 2:     -9.5
    return of fork 3:     -9.0
"""

import rlenv

QUESTIONS = ("What brings you here today?", "How long has it been like this?", "What would make it a little easier?")


def chatbot(observation: tuple[rlenv.Message, ...]) -> str:
    """Returns the next message: first three questions, then the user's own words."""
    asked = sum(message.role == "assistant" for message in observation)
    last = observation[-1].content if observation else ""
    return QUESTIONS[asked] if asked < len(QUESTIONS) else f"I hear you say: {last}"


def play(env: rlenv.ConversationEnv, observation: tuple[rlenv.Message, ...]) -> float:
    """Plays to the end of the episode and returns the sum of rewards."""
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(chatbot(observation))
        total, over = total + reward, terminated or truncated
    return total


def main() -> None:
    reward = rlenv.make_reward({"user_actions": 1.0, "issue_free": {"weight": 0.5}})
    env = rlenv.ConversationEnv(reward=reward, render_mode="ansi")
    observation, _ = env.reset(seed=7)
    for _ in range(2):
        observation, *_ = env.step(chatbot(observation))
    forks = env.fork(3)
    print(env.render())
    print(f"\nreturn from here on: {play(env, observation):+.1f}")
    for number, fork in enumerate(forks, 1):
        print(f"return of fork {number}:     {play(fork, observation):+.1f}")


if __name__ == "__main__":
    main()
