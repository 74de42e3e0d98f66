"""Runs a random policy as the chatbot, with users of the embedded population: no model, no server, no download.

    python examples/random_policy.py

It prints one line per episode:

    seed 0: 24 messages, return -3.0, ended by user (end_of_session)
    seed 1: 14 messages, return -7.0, ended by user (end_of_session)
    seed 2: 21 messages, return -5.0, ended by user (end_of_session)
"""

import gymnasium as gym

import rlenv


def main(num_episodes: int = 3) -> None:
    env = gym.make("rlenv/Conversation-v0", reward=rlenv.make_reward({"user_actions": 1.0}))
    env.action_space.seed(0)
    for seed in range(num_episodes):
        obs, info = env.reset(seed=seed)
        total, over = 0.0, info["ended_by"] is not None
        while not over:
            obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
            total, over = total + float(reward), terminated or truncated
        end = f"ended by {info['ended_by']} ({info['end_reason']})"
        print(f"seed {seed}: {len(obs)} messages, return {total:+.1f}, {end}")
    env.close()


if __name__ == "__main__":
    main()
