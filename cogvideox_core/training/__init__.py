"""Training: the VAE stage and the diffusion stages, as the paper describes them.

Everything random in a step is drawn from the run's seed, the step and the clip's place in the global batch. So a run
continued after a kill is the run that was never killed, and two processes see what one would.
"""
