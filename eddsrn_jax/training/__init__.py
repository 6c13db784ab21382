"""The training of a network: the loop, the step, the losses, the optimizer."""
