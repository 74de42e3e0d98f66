"""Ray actors: vLLM engines and their pool, discriminator scoring, rollouts."""
