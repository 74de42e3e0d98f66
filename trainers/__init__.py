"""One training loop per folder, all run by Ray Train: pretraining, SFT, discriminator, DPO and chatbot RL."""
