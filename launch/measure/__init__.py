"""``rlenv plan --measure``: a step of each training phase and the start of each engine, beside the prediction."""
