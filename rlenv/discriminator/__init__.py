"""The discriminator D_phi: model, token layout, controls and scores."""
