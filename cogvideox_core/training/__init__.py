"""Training: the VAE stage, the text stage and the diffusion stages, as the paper describes them.

Everything random in a step is drawn from the seed, the step and the index of the clip in the global batch. So a
training run that was killed and resumed gives the same weights as one that was not, and two processes draw what one
would.
"""
